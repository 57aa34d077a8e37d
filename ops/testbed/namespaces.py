"""Linux calls that Python's standard library lacks before 3.12: namespaces, mounts, prctl.

Every function raises OSError whose text names the call and its arguments. Nothing here decides anything. The calls
act on the calling thread, which has to be the only one of its process for the mount and time namespaces.
"""

from __future__ import annotations

import ctypes
import os

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWUTS = 0x4000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
KINDS = {"mnt": CLONE_NEWNS, "net": CLONE_NEWNET, "pid": CLONE_NEWPID, "time": CLONE_NEWTIME, "uts": CLONE_NEWUTS}

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """New namespaces for this process; PID and time ones are for the children to come."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace of this descriptor; a PID namespace is entered by the children to come."""
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = [word.encode() if word else None for word in (source, target, filesystem, data)]
    _check(
        _libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {filesystem} on {target}"
    )


def bind(source: str, target: str) -> None:
    """Show ``source`` and what is mounted below it at ``target`` too."""
    mount(source, target, flags=MS_BIND | MS_REC)


def unmount(target: str) -> None:
    """Take it out of the tree; its last user ends it."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def keep_mounts_here() -> None:
    """A mount namespace of our own, from which nothing gets out."""
    unshare(CLONE_NEWNS)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent ends. Changing the user undoes it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


class OwnNamespaces:
    """This process's own namespaces, to come back to after making or entering others."""

    def __init__(self) -> None:
        self._fds = {kind: os.open(f"/proc/self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in KINDS}

    def enter(self) -> None:
        """Come back; the working directory is ``/`` then."""
        for kind, fd in self._fds.items():
            setns(fd, KINDS[kind])
