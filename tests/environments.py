"""What a login may find on a host that isn't as one would like it, for ``LocalHosts``; and deaf addresses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plush_api.local_hosts import HostEnvironment

NEEDS_ROOT = os.getuid() != 0  # for those that mount
START_UP_FILES = {"bash": ".bashrc", "zsh": ".zshenv", "tcsh": ".cshrc", "fish": ".config/fish/config.fish"}

# Any real Python, telling the version of an old one to what it runs.
_OLD_PYTHON = """#!/bin/sh
while [ "$1" != -c ]; do shift; done
code=$2
shift 2
exec {python} -I -S -c 'import sys
sys.version_info, sys.version = (3, 5, 3, "final", 0), "3.5.3 (stand-in)"
code = sys.argv.pop(1)
exec(code)' "$code" "$@"
"""


def no_python(folder: Path) -> HostEnvironment:
    """PATH has every program of this machine but Pythons."""
    return HostEnvironment(path=str(_programs_without_python(folder)))


def old_python(folder: Path) -> HostEnvironment:
    """``python3`` is a 3.5."""
    programs = _programs_without_python(folder)
    script = programs / "python3"
    script.write_text(_OLD_PYTHON.format(python="/usr/bin/python3"))
    script.chmod(0o755)
    return HostEnvironment(path=str(programs))


def no_ssh(folder: Path) -> HostEnvironment:
    """A host from which nobody can log in further."""
    return HostEnvironment(path=str(_programs_without(folder, "ssh")))


def chatty(folder: Path, shell: str, text: str) -> HostEnvironment:
    """A login shell (its path) whose start-up file prints ``text``, without quotes, to stdout and stderr."""
    file = folder / "home" / START_UP_FILES[Path(shell).name]
    file.parent.mkdir(parents=True)
    file.write_text(f"echo '{text}'\nsh -c 'echo {text} >&2'\n")
    return HostEnvironment(shell=shell, home=folder / "home")


def long_banner(size_bytes: int = 1 << 20) -> HostEnvironment:
    """A megabyte of text comes before anything else."""
    line = b"*** Unauthorised use is prohibited. ***\r\n"
    return HostEnvironment(prints=(line * (size_bytes // len(line) + 1))[:size_bytes])


def reads_stdin() -> HostEnvironment:
    """A start-up file that eats what was meant for the program."""
    return HostEnvironment(setup="head -c 1000 >/dev/null")


def read_only_home(folder: Path) -> HostEnvironment:
    """Nothing can be written in the home. Root only."""
    home = folder / "home"
    home.mkdir()
    return HostEnvironment(home=home, mounts=f"mount --bind {home} {home} && mount -o remount,ro,bind {home}")


def read_only_everything() -> HostEnvironment:
    """Nothing can be written in the home, /tmp or /var/tmp. Root only."""
    return _small_disks("mount -o remount,ro $folder")


def full_disk() -> HostEnvironment:
    """Home, /tmp and /var/tmp have room for names, but for no byte of data. Root only."""
    return _small_disks("head -c 100000 /dev/zero >$folder/ballast 2>/dev/null")


def _small_disks(then: str) -> HostEnvironment:
    mount = "mount -t tmpfs -o size=16k,mode=1777 none $folder"
    each = f"for folder in /mnt /var/tmp /tmp; do {mount}; {then}; done; cd /"
    return HostEnvironment(home=Path("/mnt"), mounts=each)


def _programs_without_python(folder: Path) -> Path:
    return _programs_without(folder, "python", "pypy", "platform-python")


def _programs_without(folder: Path, *names: str) -> Path:
    """A folder of links to all programs of this machine whose names don't begin so."""
    programs = folder / "bin"
    programs.mkdir()
    for source in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(source).iterdir():
            link = programs / program.name
            if not program.name.startswith(names) and not link.is_symlink():
                link.symlink_to(program)
    return programs


@contextmanager
def deaf_address() -> Iterator[tuple[str, int]]:
    """An address and port where connecting neither succeeds nor fails: the queue of the listener is full."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()


@contextmanager
def mute_address() -> Iterator[tuple[str, int]]:
    """An address and port where connections are accepted and nobody ever speaks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        yield listener.getsockname()


@contextmanager
def closed_address() -> Iterator[tuple[str, int]]:
    """An address and port where connections are refused; nobody else gets the port meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()
