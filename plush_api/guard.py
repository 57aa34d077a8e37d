"""The guard of an embedded stack: a process that outlives the command it serves, just long enough to clean up.

``python -m plush_api.guard``, started by ``embedded.py``. Its standard input is a pipe whose other end only the command
holds: one line of JSON says what to start, and its end of file, which comes even when the command is killed with
SIGKILL, ends everything and removes the folder. It reports on standard output, one JSON object a line:
``{"server": url, "state_dir": path}``, ``{"ready": part}``, ``{"failed": why}``.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from plush_api.signal_events import drain, signals_as_events
from plush_api.stack import Part, Stack
from plush_worker import xdg
from plush_worker.errors import ConfigurationError, PlushError
from plush_worker.store.address import Address

START_TIMEOUT_S = 4.0  # of the server: shorter than the time in which we promise to be gone
STOP_GRACE_S = 4.2  # the workers' own bound is 4.0
_STALE_AFTER_S = 60.0


def main() -> int:
    """Start what standard input says, watch, end. Returns the exit code."""
    order = json.loads(sys.stdin.readline() or "null")
    if order is None:
        return 0  # the command was gone at once
    try:
        folder, lock = _make_folder()
    except PlushError as error:
        _report(failed=str(error))
        return error.exit_code
    try:
        return _serve(order, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _serve(order: dict[str, Any], folder: Path) -> int:
    address = Address(path=str(_socket_path(folder)), password=secrets.token_urlsafe(24))
    environment = {**os.environ, "PLUSH_STATE_DIR": str(folder), "PLUSH_EPHEMERAL": "1"}
    stack = Stack(folder, environment, address, on_ready=_report_ready)
    with signals_as_events() as (signal_fd, asked):
        try:
            # Workers import for half a second, while the server starts.
            for number in range(1, order["workers"] + 1):
                stack.start_worker(f"embedded-{number}", tuple(order.get("worker_arguments", ())))
            stack.start_server(appendonly=False, start_timeout_s=START_TIMEOUT_S)
            _report(server=address.url(), state_dir=str(folder))
            _watch(stack, signal_fd, asked)
        except PlushError as error:
            _report(failed=str(error))
            return error.exit_code
        finally:
            stack.stop(STOP_GRACE_S, gently=False)
            Path(address.path).unlink(missing_ok=True)
    return 0


def _watch(stack: Stack, signal_fd: int, asked: list[int]) -> None:
    """Until the command ends, a signal asks for it, or (PartFailed) a part dies."""
    command = sys.stdin.fileno()
    while not asked:
        happened = stack.wait((signal_fd, command))
        drain(signal_fd)
        if command in happened:
            return  # nothing is ever written after the first line: this is the end of file


def _report_ready(part: Part) -> None:
    _report(ready=part.name)


def _report(**message: str) -> None:
    try:
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        pass  # the command is gone; our standard input says so too


def _make_folder() -> tuple[Path, int]:
    """A new folder of our own, locked for our life; folders that a killed guard left are removed."""
    try:
        base = xdg.private_dir(xdg.private_dir(xdg.state_dir()) / "embedded")
    except ConfigurationError:
        base = xdg.private_dir(xdg.scratch_dir() / "embedded")  # a home that is read-only, or missing
    _remove_stale(base)
    folder = xdg.private_dir(base / secrets.token_hex(4))
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def _remove_stale(base: Path) -> None:
    for folder in base.iterdir():
        try:
            if time.time() - folder.stat().st_mtime < _STALE_AFTER_S:
                continue  # it may be about to take its lock
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
        except OSError:
            continue  # in use, or removed by another


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if xdg.fits_socket(path):
        return path
    base = xdg.runtime_dir() or xdg.scratch_dir()
    return xdg.private_dir(base) / f"{folder.name}.sock"


if __name__ == "__main__":
    sys.exit(main())
