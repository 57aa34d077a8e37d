"""What is rarely asked of the kernel: processes that don't descend from this one, how full a pipe is."""

import os
import time

from .process import descendants, kill_all, stat


def parents():
    """(pid, parent) of all processes: for kernels without /proc/PID/task/TID/children."""
    for pid in all_pids():
        status = stat(pid)
        if status:
            yield pid, int(status[1])


def all_pids():
    """Every process that is seen here."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def kill_session(session, started):
    """SIGKILL to all of a session whose leader ``started`` then, and to all that descends from them.

    Returns whether the leader was still there. For processes that aren't our descendants: ours find no hiding place.
    """
    status, led = stat(session), False
    if status and int(status[19]) != started:
        return False  # another process has the number, so the session has been gone
    for _ in range(1000):
        found = []
        for pid in all_pids():
            status = stat(pid)
            if status and int(status[3]) == session and status[0] != b"Z":
                led = led or pid == session
                found += [pid] + descendants(pid)
        if not found or kill_all(found) == len(found):
            break
        time.sleep(0.001)
    return led


def readable_bytes(fd):
    """How much a pipe holds."""
    from array import array
    from fcntl import ioctl
    from termios import FIONREAD

    count = array("i", [0])
    ioctl(fd, FIONREAD, count)
    return count[0]
