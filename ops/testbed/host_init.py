"""A host's first process: makes its boot-time mounts, starts sshd, adopts and reaps orphans until it is killed.

Forked from the keeper and not exec'd: 490 of them must fit in little memory. It dies with the keeper, and its end
is the end of every process of the host. Entry point: ``run``, which never returns. It reports once on a pipe: "up",
or what failed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from . import host_files, namespaces
from .host_mounts import FileStore, mount_boot
from .keeper_spec import HostSpec

UP = b"up"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": host_files.ROOT_HOME}


def sshd_argv(sshd: str) -> list[str]:
    """The words that start a host's sshd; it says on stderr what it does."""
    return [sshd, "-D", "-e", "-f", host_files.SSHD_CONFIG]


def run(
    spec: HostSpec, store: FileStore, disk_mib: int, boot_id: str, sshd: str, joins: Sequence[str], report: int
) -> NoReturn:
    """Be the host until killed. ``joins``: files of control groups; ``report``: the pipe's writing end."""
    try:
        _detach(report)
        for path in joins:
            Path(path).write_text("0")
        log = os.open(store.log(spec.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        mount_boot(spec, store, disk_mib, boot_id)
        socket.sethostname(spec.name)
        os.chdir("/")
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.posix_spawn(sshd, sshd_argv(sshd), ENVIRONMENT, setsid=True)
        if spec.start:
            _run_start(spec.start)
        os.write(report, UP)
    except BaseException as error:  # noqa: BLE001 - a fork of the keeper: nothing may get past it
        os.write(report, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    os.closerange(3, _highest_fd())
    _reap()


def _detach(report: int) -> None:
    """Of the keeper only the report's pipe stays: no signal handler, no descriptor, no session."""
    namespaces.die_with_parent(signal.SIGKILL)
    poll = select.poll()
    poll.register(report, 0)
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        os._exit(1)  # the keeper has died before it could be watched
    os.setsid()
    default_signals()
    os.closerange(3, report)
    os.closerange(report + 1, _highest_fd())
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.umask(0o022)


def default_signals() -> None:
    """As a program expects to find them: those that Python and the keeper changed."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _highest_fd() -> int:
    return int(os.sysconf("SC_OPEN_MAX"))


def _run_start(script: str) -> None:
    """Wait for the script itself, not for what it leaves behind."""
    pid = os.posix_spawn("/bin/sh", ["/bin/sh", "-c", script], ENVIRONMENT, setsid=True)
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise subprocess.CalledProcessError(code, script)


def _reap() -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # else it would be dropped before anyone waits for it
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})
