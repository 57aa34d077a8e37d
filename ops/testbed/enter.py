"""Runs one command inside a host, and is its stand-in outside: signals sent to this process reach the command.

Started as a script by path with ``-I -S``; imports nothing of this project. Arguments: a JSON object ``{"pid":,
"start_ticks":, "joins": [], "uid":, "cwd":}`` and the command's words. The command becomes the leader of a process
group of its own, in the foreground where this process was, so that a Ctrl-C reaches it once. It is killed when this
process is; this process ends as the command did, by the same signal or with the same code, and with 127 or 126 when
it can't be run, 125 when the host is off.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import warnings  # noqa: F401 - os.execvp imports it, when the user may no longer read where it is

NAMESPACES = {"time": 0x80, "net": 0x40000000, "uts": 0x4000000, "pid": 0x20000000, "mnt": 0x20000}
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)  # fmt: skip # noqa: E501
PR_SET_PDEATHSIG = 1
HOST_IS_OFF = 125
CANT_RUN = 126
NOT_FOUND = 127

_libc = ctypes.CDLL(None, use_errno=True)


def give_up(text: str, code: int) -> None:
    """Say why there is no command."""
    os.write(2, f"testbed: {text}\n".encode())
    os._exit(code)


def open_namespaces(pid: int, ticks: int) -> dict[str, int]:
    """Descriptors of the host's namespaces. Raises OSError when its first process is no more."""
    fds = {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in NAMESPACES}
    with open(f"/proc/{pid}/stat", "rb") as file:
        if int(file.read().rpartition(b")")[2].split()[19]) != ticks:
            raise ProcessLookupError(f"process {pid} is another one now")
    return fds


def enter(fds: dict[str, int], name: str) -> None:
    """setns(2)."""
    if _libc.setns(fds[name], NAMESPACES[name]):
        number = ctypes.get_errno()
        raise OSError(number, f"setns {name}: {os.strerror(number)}")


def run(target: dict[str, object], argv: list[str], fds: dict[str, int], go: int, parent: int) -> None:
    """In the child: become the command. ``parent`` is at its end as soon as the parent is."""
    os.setpgid(0, 0)
    os.read(go, 1)  # the parent has put this group into the foreground
    for path in target["joins"]:  # type: ignore[attr-defined]
        with open(path, "w") as file:
            file.write("0")
    for name in ("time", "net", "uts", "mnt"):
        enter(fds, name)
    uid = int(target["uid"])  # type: ignore[call-overload]
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    die_with(parent)  # behind setuid, which undoes it
    os.chdir(str(target["cwd"]))
    for number in (*FORWARDED, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError:
        give_up(f"{argv[0]}: not found on the host", NOT_FOUND)
    except OSError as error:
        give_up(f"{argv[0]}: {error.strerror}", CANT_RUN)


def die_with(parent: int) -> None:
    """Be killed when the parent is, also when it has been already: its number says nothing, seen from the host."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([parent], [], [], 0)[0]:
        os._exit(HOST_IS_OFF)


def take_foreground(group: int, instead_of: int) -> None:
    """Give the terminal to a process group if another has it."""
    try:
        if os.tcgetpgrp(0) == instead_of:
            os.tcsetpgrp(0, group)
    except OSError:
        return  # no terminal


def stand_in(child: int) -> int:
    """Forward signals until the command ends; its wait status."""

    def forward(number: int, _: object) -> None:
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    return os.waitpid(child, 0)[1]


def main() -> None:
    """Run it."""
    target, argv = json.loads(sys.argv[1]), sys.argv[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        fds = open_namespaces(target["pid"], target["start_ticks"])
        enter(fds, "pid")
    except OSError as error:
        give_up(f"the host is off ({error})", HOST_IS_OFF)
    go, gone = os.pipe()
    parent, living = os.pipe()  # its other end stays open for the life of this process
    child = os.fork()
    if child == 0:
        try:
            os.close(gone)
            os.close(living)
            run(target, argv, fds, go, parent)
        except BaseException as error:  # noqa: BLE001 - a fork of the parent's code: nothing may get past it
            give_up(f"the command could not enter the host: {error}", HOST_IS_OFF)
    own_group = os.getpgrp()
    try:
        os.setpgid(child, child)
    except (PermissionError, ProcessLookupError):
        pass  # it did so itself, or has ended
    take_foreground(child, own_group)
    os.close(gone)
    status = stand_in(child)
    take_foreground(own_group, child)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
