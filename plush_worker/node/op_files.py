"""What an op keeps in the state folder: ``op-N``, its lock and record, and ``op-N.sock``, where its supervisor listens.

The supervisor holds the lock for its life. The record's lines stand at fixed places in a file that has its full size
from the start, so that the final state finds room on a full disk.
"""

import os
import time
from fcntl import LOCK_EX, LOCK_NB, flock

LOCK_TRIES, LOCK_PAUSE_S = 40, 0.005
_RECORD_BYTES = 4096
_EXEC, _SESSION, _FINAL, _DEFECT = b"exec\n", b"session", b"final", b"defect"
_SESSION_AT, _FINAL_AT, _DEFECT_AT = len(_EXEC), 64, 2048


def path_of(folder, op):
    """Of the lock and record."""
    return "%s/op-%d" % (folder, op)


def make(folder, op):
    """Make the file and lock it; returns the descriptor. Raises OSError."""
    fd = os.open(path_of(folder, op), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    flock(fd, LOCK_EX | LOCK_NB)
    return fd


def record_begin(fd):
    """The op begins to start: from here on it may have run. Raises OSError."""
    os.write(fd, _EXEC.ljust(_RECORD_BYTES))


def record_session(fd, session, started):
    """The op's processes have this session, whose leader started then (in clock ticks since the machine did)."""
    os.pwrite(fd, b"\n%s %d %d\n" % (_SESSION, session, started), _SESSION_AT)


def record_final(fd, body):
    """The body of the final STATE."""
    os.pwrite(fd, b"\n%s %s\n" % (_FINAL, body.hex().encode()), _FINAL_AT)


def record_defect(fd, text):
    """What ended the supervisor against its will."""
    os.pwrite(fd, b"\n%s %s\n" % (_DEFECT, text.encode("utf-8", "replace")[:1000].replace(b"\n", b" ")), _DEFECT_AT)


class Found:
    """What is found of an op. ``session``: (session, start time of its leader) or None; ``final``: body or None;
    ``defect``: what ended its supervisor against its will, else empty."""

    def __init__(self, is_supervised, began, data=b""):
        self.is_supervised, self.began = is_supervised, began
        self.session, self.final, self.defect = None, None, ""
        for line in data.split(b"\n"):
            words = line.split()
            if len(words) == 3 and words[0] == _SESSION:
                self.session = int(words[1]), int(words[2])
            elif len(words) == 2 and words[0] == _FINAL:
                self.final = bytes.fromhex(words[1].decode("ascii"))
            elif words[:1] == [_DEFECT]:
                self.defect = line[len(_DEFECT) :].decode("utf-8", "replace")


def look_up(folder, op):
    """Whether the supervisor of ``op`` lives, and if not, what its record says."""
    try:
        fd = os.open(path_of(folder, op), os.O_RDWR)
    except OSError:
        return Found(False, True)  # removed by a supervisor at the end of its time-to-live
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return Found(True, True)
    else:
        data = os.pread(fd, _RECORD_BYTES, 0)
        return Found(False, data.startswith(_EXEC), data)
    finally:
        os.close(fd)


def remove_part(folder, op):
    """Remove the half-written file that a receiver of files (``files.py``) has left, if it has."""
    path = path_of(folder, op) + ".part"
    if os.path.islink(path):
        from .files import remove_marked

        remove_marked(path)


def remove(folder, op):
    """Remove the files of ``op``; those that are gone already don't matter."""
    path = path_of(folder, op)
    remove_part(folder, op)
    for name in (path + ".sock", path + ".spool", path):
        try:
            os.unlink(name)
        except OSError:
            pass


def listed(folder):
    """The ops that have files here."""
    words = (name[3:].partition(".")[0] for name in os.listdir(folder) if name.startswith("op-"))
    return {int(word) for word in words if word.isdigit()}


def remove_folder_if_unused(folder):
    """Remove the state folder when no node program holds its lock and no op is left in it."""
    try:
        lock_fd = os.open(folder + "/lock", os.O_RDWR)
    except OSError:
        return
    try:
        if _lock_soon(lock_fd) and not listed(folder):
            from .ending import remove as remove_folder

            remove_folder(folder)
    finally:
        os.close(lock_fd)


def _lock_soon(lock_fd):
    """Whether the lock could be had within a moment: another supervisor may be looking just now."""
    for _ in range(LOCK_TRIES):
        try:
            flock(lock_fd, LOCK_EX | LOCK_NB)
            return True
        except OSError:
            time.sleep(LOCK_PAUSE_S)
    return False
