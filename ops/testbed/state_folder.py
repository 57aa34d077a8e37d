"""The folder of a testbed on the machine, ``/run/plush-testbed/ID``: its lock, its control socket, a mount point.

The keeper holds the lock for its life, so a folder whose lock is free is what a killed one left. Entry points:
``claim`` for the keeper, ``clean`` before a start and for ``run clean``, ``find_control`` for commands.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import cgroups
from .errors import TestbedError

BASE = Path("/run/plush-testbed")
CONTROL = "control"
FILES = "files"
CONTROL_VARIABLE = "TESTBED_CONTROL"  # in COMMAND's environment: the control socket
_LOCK = "lock"


def claim(testbed: str) -> int:
    """Make the folder and take its lock; returns the descriptor that holds it. Raises TestbedError."""
    with _base_lock():
        folder = BASE / testbed
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError as error:
            raise TestbedError(f"{folder} exists: another testbed has this id") from error
        (folder / FILES).mkdir()
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A POSIX lock is its process's own: a fork that keeps the descriptor doesn't keep the lock.
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd


def release(testbed: str) -> None:
    """Remove the folder; the keeper's last act."""
    shutil.rmtree(BASE / testbed, ignore_errors=True)


def clean() -> list[str]:
    """Remove what dead testbeds left, control groups with their processes included; returns their ids."""
    if not BASE.exists():
        return cgroups.remove_stale(cgroups.find_hierarchies(), set())
    with _base_lock():
        living: set[str] = set()
        dead: set[str] = set()
        for folder in BASE.glob("*/"):
            (living if _is_locked(folder) else dead).add(folder.name)
        dead |= set(cgroups.remove_stale(cgroups.find_hierarchies(), living))
        for testbed in dead:
            shutil.rmtree(BASE / testbed, ignore_errors=True)
    return sorted(dead)


def find_control(testbed: str = "") -> Path:
    """The control socket of this testbed, or of the only one that is up. Raises TestbedError."""
    if not testbed and (named := os.environ.get(CONTROL_VARIABLE)):
        return Path(named)
    found = {path.parent.name: path for path in BASE.glob(f"*/{CONTROL}") if _is_locked(path.parent)}
    if testbed in found:
        return found[testbed]
    if testbed:
        raise TestbedError(f"no testbed {testbed} is up; there are: {', '.join(sorted(found)) or 'none'}")
    if len(found) != 1:
        what = f"several are up, name one with --id: {', '.join(sorted(found))}" if found else "none is up"
        raise TestbedError(f"which testbed? {what}")
    return next(iter(found.values()))


def _is_locked(folder: Path) -> bool:
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


@contextlib.contextmanager
def _base_lock() -> Iterator[None]:
    """Nobody makes or removes folders meanwhile."""
    BASE.mkdir(mode=0o700, exist_ok=True)
    with open(BASE / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
