"""Promises P1 and P2 under the loss of an inner host's node program, in the middle of a busy run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plush_api.local_hosts import LocalHosts

DEADLINE_S = 60.0
# Prints 1 MB/s for five seconds, keeps a copy in the host's home, and notes there that it was started.
PROGRAM = """
import os, sys, time
home = os.environ["HOME"]
with open(os.path.join(home, "starts"), "a") as starts:
    starts.write("started\\n")
with open(os.path.join(home, "copy"), "wb") as own:
    for n in range(50):
        line = (b"%08d " % n) + os.urandom(50000).hex().encode() + b"\\n"
        own.write(line)
        own.flush()
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        time.sleep(0.1)
sys.stderr.write("done\\n")
"""


def test_an_inner_node_program_is_killed_while_all_print(
    local_hosts: Callable[..., LocalHosts], plush: Any, tmp_path: Path
) -> None:
    hosts = local_hosts(7, slice_settings={"planner": "kary", "degree": 2})
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    process = plush.start(
        "run",
        "-w",
        hosts.names,
        "--directory",
        str(hosts.directory),
        "--slice",
        "local",
        "--outdir",
        str(out),
        f"python3 {program}",
    )
    _wait(lambda: all((host.home / "copy").exists() for host in hosts.hosts.values()), process)
    inner = _inner_node_program(hosts)
    _wait(lambda: min((host.home / "copy").stat().st_size for host in hosts.hosts.values()) > 1_000_000, process)
    os.kill(inner, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, f"{stdout}\n{stderr}"
    for name, host in hosts.hosts.items():
        printed, own = (out / name).read_bytes(), (host.home / "copy").read_bytes()
        assert len(own) > 5_000_000
        assert printed == own, f"{name}: {len(printed)} bytes came of {len(own)}"
        assert (host.home / "starts").read_text() == "started\n", f"{name}: started more than once"
        assert f"{name}: done\n" in stderr or "done\n" in (out / f"{name}.err").read_text()


def _inner_node_program(hosts: LocalHosts) -> int:
    """The pid of a node program that holds links to others: a Python with ``ssh`` among its children."""
    for process in hosts.processes():
        if process.command.startswith("ssh ") or "/ssh " in process.command.split(" -", 1)[0]:
            return int(Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    raise AssertionError("no host holds a link to another")


def _wait(condition: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the program was not started everywhere in time"
        time.sleep(0.02)
