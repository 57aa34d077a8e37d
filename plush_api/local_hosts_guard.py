"""The process that stands over the sshd processes of ``local_hosts.py``.

Started as a script by path with ``-I -S``; imports nothing of this project. It reads one JSON object a line on stdin,
``{"do": "start", "host": NAME, "argv": [...]}`` or ``{"do": "kill", "host": NAME, "pids": [...]}``, and answers each
with one on stdout: ``{"host": NAME, "pid": PID}``. When stdin ends, because its owner closed it or died, it kills
everything below it, removes the folders that its arguments name and exits. It is a subreaper, so what a login on these
hosts left, however detached, is below it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SWEEP_LIMIT_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)


def start(argv: list[str]) -> int:
    """Fork and exec ``argv``; it dies with this process. Returns its pid."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != guard:
            os._exit(127)
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.execv(argv[0], argv)
    finally:
        os._exit(127)


def parents() -> dict[int, int]:
    """Every process of the machine: pid -> parent's pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
    return found


def descendants(root: int) -> list[int]:
    """Every process below ``root``, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    level = children.get(root, [])
    while level:
        found += level
        level = [pid for parent in level for pid in children.get(parent, [])]
    return found


def reap() -> None:
    """Collect every child that has ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def kill(pids: list[int]) -> None:
    """SIGKILL those that still exist."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def sweep() -> bool:
    """Kill everything below this process; False when something is still there after SWEEP_LIMIT_S."""
    deadline = time.monotonic() + SWEEP_LIMIT_S
    while time.monotonic() < deadline:
        reap()
        left = descendants(os.getpid())
        if not left:
            return True
        kill(left)
        time.sleep(0.002)
    return False


def serve(waker: int) -> None:
    """Answer commands until stdin ends."""
    listeners: dict[str, int] = {}
    pending = b""
    while True:
        ready, _, _ = select.select([0, waker], [], [])
        if waker in ready:
            os.read(waker, 4096)
            reap()
        if 0 not in ready:
            continue
        data = os.read(0, 65536)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            answer(json.loads(line), listeners)


def answer(command: dict[str, object], listeners: dict[str, int]) -> None:
    """Perform one command and answer it."""
    host = str(command["host"])
    if command["do"] == "start":
        listeners[host] = start([str(word) for word in command["argv"]])  # type: ignore[attr-defined]
    else:
        # From the listener down first, so that nothing new is accepted while the rest goes.
        kill([listeners[host], *descendants(listeners[host]), *command["pids"]])  # type: ignore[misc]
    os.write(1, json.dumps({"host": host, "pid": listeners[host]}).encode() + b"\n")


def main() -> int:
    """Stand guard until stdin ends; exit code 1 when something could not be killed."""
    os.setpgid(0, 0)
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # A Ctrl-C at the terminal is for the owner, which then closes stdin.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        serve(reader)
    finally:
        clean = sweep()
        for folder in sys.argv[1:]:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
