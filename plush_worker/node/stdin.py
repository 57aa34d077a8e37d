"""The standard input of ops on its way down: each child and this host's supervisor get their copy, the parent credit.

A piece is passed on at once and kept nowhere else: where its queue is full a copy is dropped, and the supervisors that
miss it ask for it again (``inlet.py``). Unpacked at the first piece. ``docs/protocol.md``, "Standard input".
"""

from _struct import Struct
from _struct import error as StructError

from . import frames, hostwire, messages

QUEUE_BYTES = 8 << 20  # of it for one child: what comes beyond is dropped

_HEADER = Struct("!QQB")
HEADER_BYTES = _HEADER.size
END = 1  # the standard input ends behind this piece


def encode(op, offset, data, flags=0):
    """The body of STDIN: ``op u64 | offset u64 | flags u8 | data``."""
    return _HEADER.pack(op, offset, flags) + data


def decode(body):
    """(op, offset, flags); the data is ``body[HEADER_BYTES:]``. Raises MessageError."""
    try:
        return _HEADER.unpack_from(body)
    except StructError:
        raise messages.MessageError("STDIN is cut short") from None


class Inflow:
    """What comes of it from the parent of one node program."""

    def __init__(self, session):
        self._session = session
        self._taken = self._announced = 0  # bulk bytes, running totals

    def take(self, epoch, hosts_bytes, body):
        """A piece for the encoded host set. One of an old epoch counts as taken in, no more."""
        session = self._session
        self._taken += frames.HEADER_BYTES + len(hosts_bytes) + len(body)
        if self._taken - self._announced >= session.hello["window"] // 4:
            self._announced = self._taken
            session.uplink.put(frames.encode(frames.CREDIT, b"", messages.encode_credit(self._taken)))
        if epoch < session.epoch:
            return
        session.epoch = epoch
        hosts = hostwire.decode(hosts_bytes)
        for child in session.tree.children.values() if session.tree is not None else ():
            part = hosts & child.below
            if part and child.link.bulk_bytes <= QUEUE_BYTES:
                child.link.put(frames.encode(frames.STDIN, hostwire.encode(part), body, epoch), True)
        if hosts & session.own and session.ops is not None:
            session.ops.pass_stdin(decode(body)[0], frames.encode(frames.STDIN, b"", body))
