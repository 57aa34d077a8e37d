"""Frames: the unit of a link. bytes <-> (kind, flags, epoch, hosts, body), with limits checked before allocation.

``length u32 | kind u8 | flags u8 | hosts_bytes u16 | epoch u64 | hosts | body``, big-endian; length counts what
follows it. ``hosts`` names the targets of a downward frame and the subjects of an upward one. Pure.
"""

from _struct import Struct

from .limits import MAX_FRAME_BYTES

MARKER = b"PLUSH-NODE-1 c41f7a90\n"  # a node program's last bytes before its first frame
FAIL = b"PLUSH-FAIL "  # or in its place: "<code> <text>\n", code as in LOST

_HEADER = Struct("!IBBHQ")
_LENGTH = Struct("!I")
HEADER_BYTES = _HEADER.size  # of a frame, before hosts and body
_FIXED_BYTES = HEADER_BYTES - _LENGTH.size

# Downward
HELLO, LINK, OP, SIGNAL, ACK, CLOSE, QUIT, BEAT, UNLINK, STDIN = range(1, 11)
# Upward
READY, LOST, OUTPUT, STATE, HELD, LOG, NEED = range(32, 39)
# Both ways, for the link itself: hosts and epoch are empty
PING, PONG, CREDIT = range(64, 67)

DOWNWARD = frozenset(range(HELLO, STDIN + 1))
UPWARD = frozenset(range(READY, NEED + 1))
LINK_LOCAL = frozenset((PING, PONG, CREDIT))
BULK = frozenset((OUTPUT, STDIN))  # counted against the window; everything else overtakes them
NAMES = {
    HELLO: "HELLO", LINK: "LINK", OP: "OP", SIGNAL: "SIGNAL", ACK: "ACK", CLOSE: "CLOSE", QUIT: "QUIT",
    BEAT: "BEAT", UNLINK: "UNLINK", STDIN: "STDIN", READY: "READY", LOST: "LOST", OUTPUT: "OUTPUT", STATE: "STATE",
    HELD: "HELD", LOG: "LOG", NEED: "NEED", PING: "PING", PONG: "PONG", CREDIT: "CREDIT",
}  # fmt: skip


class FrameError(ValueError):
    """The other side sent bytes that are no frame; the link can't be used further."""


def encode(kind: int, hosts: bytes, body: bytes, epoch: int = 0, flags: int = 0) -> bytes:
    """One frame. ``hosts`` is an encoded host set. Raises FrameError when it would pass the limit."""
    length = _FIXED_BYTES + len(hosts) + len(body)
    if length > MAX_FRAME_BYTES:
        raise FrameError("frame %s of %d bytes" % (NAMES.get(kind, kind), length))
    return _HEADER.pack(length, kind, flags, len(hosts), epoch) + hosts + body


class Decoder:
    """Cuts a byte stream, in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list:
        """The frames completed by ``data``, as (kind, flags, epoch, hosts bytes, body bytes). Raises FrameError."""
        buffer = self._buffer
        buffer += data
        found = []
        at, have = 0, len(buffer)
        while have - at >= _HEADER.size:
            length, kind, flags, hosts_bytes, epoch = _HEADER.unpack_from(buffer, at)
            if length > MAX_FRAME_BYTES:
                raise FrameError("frame of %d bytes, at most %d" % (length, MAX_FRAME_BYTES))
            if length < _FIXED_BYTES + hosts_bytes:
                raise FrameError("frame of %d bytes is too short for its header" % length)
            if kind not in NAMES:
                raise FrameError("frame of unknown kind %d" % kind)
            end = at + _LENGTH.size + length
            if end > have:
                break
            split = at + _HEADER.size + hosts_bytes
            found.append((kind, flags, epoch, bytes(buffer[at + _HEADER.size : split]), bytes(buffer[split:end])))
            at = end
        if at:
            del buffer[:at]
        return found
