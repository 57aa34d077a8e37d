"""The node program, from the checked payload to its last word; the importer calls main().

Reads HELLO, claims the state folder, prints the marker (or a failure line in its place), and runs the loop.
"""

import os
import sys
from _signal import SIGHUP, SIGPIPE, alarm, signal
from fcntl import F_DUPFD_CLOEXEC, fcntl

from . import frames, messages
from .flow import Link
from .limits import MAX_HOST_NUMBER, OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
from .loop import READ_BYTES, Channel, Loop
from .session import Session
from .state_dir import JOURNAL, Refused, bases, claim


def main(wire):
    """Run until QUIT or the end of the uplink, then exit. ``wire`` is the header and the payload."""
    read_fd, write_fd = claim_standard_fds()
    for number in (SIGHUP, SIGPIPE):
        signal(number, lambda number, frame: None)  # SIG_IGN would leak into what is started here
    try:
        os.setsid()
    except OSError:
        pass  # sshd did it
    try:
        hello, link, found = read_hello(read_fd)
        alarm(0)  # set by the loader
        state_dir, _lock_fd = claim("%s-%d" % (hello["mesh"], hello["host"]), hello["order"], bases())
    except Refused as refusal:
        os.write(write_fd, frames.FAIL + ("%s %s\n" % refusal.args).encode("utf-8", "replace"))
        sys.exit(3)
    loop = Loop()
    link.window, link.heard_at, link.sent_at = hello["window"], loop.now(), loop.now()
    session = Session(hello, loop, link, state_dir, wire)
    loop.on_error = session.on_error
    channel = Channel(loop, link, read_fd, write_fd, session.on_frame, session.on_parent_end)
    channel.on_written = session.on_uplink_written
    link.put(frames.MARKER)
    session.start("%d.%d.%d" % sys.version_info[:3], os.path.exists(state_dir + "/" + JOURNAL))
    channel.flush()
    channel.dispatch(found)
    loop.run()
    from .ending import finish

    finish(session, channel)


def claim_standard_fds():
    """The descriptors of the link, moved from 0 and 1: /dev/null is there now, so a stray print does no harm."""
    fds = [fcntl(fd, F_DUPFD_CLOEXEC, 3) for fd in (0, 1)]
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.close(null)
    return fds


def read_hello(fd):
    """(HELLO's fields, link, frames that came behind it). Raises Refused."""
    link, found = Link(0, 0.0), []
    try:
        while not found:
            data = os.read(fd, READ_BYTES)
            if not data:
                raise Refused("eof", "no HELLO came")
            found = link.feed(data, 0.0)
        hello = messages.decode(frames.HELLO, found[0][4])
    except (frames.FrameError, messages.MessageError, OSError) as error:
        raise Refused("protocol", "HELLO: %s" % error) from None
    if not OLDEST_PROTOCOL_VERSION <= hello["version"] <= PROTOCOL_VERSION:
        known = (hello["version"], OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)
        raise Refused("protocol", "protocol version %d; known here are %d to %d" % known)
    mesh, numbers = hello["mesh"], (hello["beat_s"], hello["window"], hello["connect_s"])
    is_name = 0 < len(mesh) <= 32 and not mesh.strip("abcdefghijklmnopqrstuvwxyz0123456789")  # it becomes a path
    if found[0][0] != frames.HELLO or not is_name or not 0 <= hello["host"] <= MAX_HOST_NUMBER or min(numbers) < 1:
        raise Refused("protocol", "the first frame is no HELLO, or one out of range: %.100r" % hello)
    return hello, link, found[1:]
