"""The state folder of one (mesh, host number): where it is, that it is ours alone, and the lock that says who lives.

``<base>/<mesh>-<host>/`` holds ``lock`` (by flock, for the program's life), ``order`` (the highest admission seen here)
and what ops keep there. Bases are short, since the path of a socket ends at 104 bytes.
"""

import os
import time
from errno import EAGAIN, ENOENT, EPERM
from fcntl import LOCK_EX, LOCK_NB, flock

WAIT_S = 3  # for an earlier incarnation to go: it ends when it sees the end of its stdin
JOURNAL = "journal"  # written by ops; while it is there, the folder outlives the node program


class Refused(Exception):
    """This incarnation can't begin: (code, text), where the code is one of LOST's."""


def bases():
    """Where state folders may be, in the order of preference."""
    own = ".plush-%d" % os.geteuid()
    return ["/tmp/" + own, "/var/tmp/" + own, os.path.join(os.environ.get("HOME", "/nonexistent"), ".plush")]


def claim(name, order, candidates, wait_s=WAIT_S):
    """(path, lock fd) of the folder ``name`` below the first usable base, for the incarnation of ``order``.

    Raises Refused: ``state_dir`` when no base is usable, ``locked`` when another incarnation holds it for longer than
    ``wait_s``, ``order`` when one of this or a higher order was here.
    """
    problems, deadline = [], time.monotonic() + wait_s
    for base in candidates:
        path = base + "/" + name
        try:
            lock_fd = None
            while lock_fd is None:
                lock_fd = _try_lock(base, path, deadline)
            _advance_order(path + "/order", order)
            return path, lock_fd
        except OSError as error:
            problems.append("%s: %s" % (path, error.strerror))
    raise Refused("state_dir", "no folder for its state: " + "; ".join(problems))


def _try_lock(base, path, deadline):
    """The lock's fd; None to try again. An earlier incarnation may hold the lock, or remove the folder meanwhile."""
    fd = None
    try:
        _own_folder(base)
        _own_folder(path)
        fd = os.open(path + "/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        flock(fd, LOCK_EX | LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(path + "/lock")):
            return fd
    except OSError as error:
        if error.errno not in (EAGAIN, ENOENT) or not os.path.isdir(os.path.dirname(base)):
            raise
        if time.monotonic() > deadline:
            raise Refused("locked", "another node program holds %s and does not leave" % path) from None
        time.sleep(0.02)
    if fd is not None:
        os.close(fd)


def _own_folder(path):
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        found = os.lstat(path)  # a symbolic link is nobody's folder
        if found.st_mode & 0o170077 != 0o040000 or found.st_uid != os.geteuid():
            raise OSError(EPERM, "there, but not a folder of mode 0700 of this user") from None


def _advance_order(path, order):
    highest = 0
    if os.path.exists(path):
        with open(path) as file:
            highest = int(file.read() or 0)
    if order <= highest:
        raise Refused("order", "link order %d is not above %d, the last seen here" % (order, highest))
    with open(path + ".new", "w") as file:
        file.write("%d" % order)
    os.rename(path + ".new", path)
