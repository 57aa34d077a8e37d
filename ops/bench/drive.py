"""The outer half's hold on the inner one: starts ``driver.py`` on the controller and answers what it asks.

Entry point: ``drive``. The outer half stands in the machine's own PID namespace, so it sees the processes of all hosts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ops.bench.driver import send
from ops.bench.ground import ROOT, Ground

COMMAND = (sys.executable, "-m", "ops.bench.driver")
STOP_LIMIT_S = 30.0
SWEEP_LIMIT_S = 20.0


class DriverFailed(Exception):
    """The inner half ended without its samples."""


def drive(ground: Ground, module: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run ``module.turns`` on the controller and return its samples. Raises DriverFailed."""
    running = ground.start(list(COMMAND), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert running.stdin is not None
    assert running.stdout is not None
    try:
        send(running.stdin, {"module": module, "area": ground.area.to_mapping(), "options": dict(options)})
        for line in running.stdout:
            message = json.loads(line)
            if "done" in message:
                samples: dict[str, Any] = message["done"]
                return samples
            if "failed" in message:
                raise DriverFailed(f"{module} on the controller: {message['failed']}")
            send(running.stdin, _answer(message))
        raise DriverFailed(f"{module} on the controller ended without a word; its standard error is above")
    finally:
        running.stdin.close()
        running.stdout.close()
        try:
            running.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def _answer(message: Mapping[str, Any]) -> dict[str, Any]:
    if message["ask"] == "marked":
        return {"processes": marked(message["mark"])}
    if message["ask"] == "sweep":
        return {"left": sweep(message["mark"])}
    raise DriverFailed(f"the inner half asked for {message['ask']!r}, which is unknown here")


def marked(mark: str) -> list[tuple[int, str]]:
    """(pid, command line) of every process of this machine whose command line has the mark, in whatever namespace."""
    found = []
    wanted = mark.encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if wanted in words:
                found.append((int(name), words.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


def sweep(mark: str) -> int:
    """Stop, then kill everything with the mark, until nothing is left or the time is over; how many are left."""
    deadline = time.monotonic() + SWEEP_LIMIT_S
    while (found := marked(mark)) and time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):  # what is stopped can't start another one
            for pid, _ in found:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
    return len(found)
