"""Messages: the bodies of frames, as checked mappings. bytes <-> values, with limits; never pickle, never json.

Bodies are MessagePack restricted to nil, bool, 64-bit integers, str, bin, array and map (json costs 8 ms and
3 MB at start-up, see docs/protocol.md). OUTPUT and CREDIT have fixed binary bodies. A field that isn't in the
table is ignored, a missing or mistyped one is refused. Pure.
"""

from _struct import Struct
from _struct import error as StructError

from . import frames
from .limits import MAX_DEPTH, MAX_ITEMS

_U8, _U16, _U32, _U64, _I64 = (Struct("!B" + code) for code in "BHIQq")
_CREDIT = Struct("!Q")
_OUTPUT = Struct("!QBBQ")
OUTPUT_HEADER_BYTES = _OUTPUT.size
STDOUT, STDERR = 1, 2
END = 1  # OUTPUT flag: the stream ends behind this piece
GAP = 2  # OUTPUT flag: the piece is a u64, the number of bytes that were lost at this offset


class MessageError(ValueError):
    """The other side sent a body that isn't what its kind says."""


def _field(*types):
    return types


_INT, _STR, _BIN, _BOOL, _LIST, _MAP = (
    _field(int), _field(str), _field(bytes), _field(bool), _field(list), _field(dict))  # fmt: skip
_NONE = type(None)

# kind -> field -> (accepted types...). docs/protocol.md says what each field means.
FIELDS = {
    frames.HELLO: {"version": _INT, "mesh": _STR, "host": _INT, "order": _INT, "name": _STR,
                   "beat_s": _INT, "hold_ms": _INT, "window": _INT, "connect_s": _INT},
    frames.LINK: {"order": _INT, "ssh": _LIST, "entries": _LIST},
    frames.UNLINK: {},
    frames.OP: {"op": _INT, "command": _BIN, "env": _MAP, "ttl_s": _INT, "timeout_s": _INT},
    frames.SIGNAL: {"op": _INT, "ref": _INT, "signal": _INT, "grace_ms": _INT},
    frames.ACK: {"op": _INT, "stdout": _INT, "stderr": _INT, "ordinal": _INT, "resume": _BOOL},
    frames.CLOSE: {"ops": _LIST},
    frames.QUIT: {"kill": _BOOL},
    frames.BEAT: {},
    frames.READY: {"order": _INT, "version": _INT, "python": _STR},
    frames.LOST: {"order": _INT, "child": _INT, "code": _STR, "detail": _STR, "reached": _BOOL},
    frames.STATE: {"op": _INT, "ordinal": _INT, "state": _STR, "code": _field(int, _NONE),
                   "signal": _field(int, _NONE), "detail": _STR},
    frames.HELD: {"op": _INT},
    frames.LOG: {"text": _STR},
    frames.PING: {"n": _INT},
    frames.PONG: {"n": _INT},
}  # fmt: skip


def encode(kind: int, **fields) -> bytes:
    """The body of a message of ``kind`` (not OUTPUT, not CREDIT). Raises MessageError on a field not in the table."""
    for name in FIELDS[kind]:
        if name not in fields:
            raise MessageError("%s needs %s" % (frames.NAMES[kind], name))
    return pack(fields)


def decode(kind: int, body: bytes) -> dict:
    """The fields of a message, checked against the table. Raises MessageError."""
    values = unpack(body)
    if type(values) is not dict:
        raise MessageError("%s is no mapping" % frames.NAMES[kind])
    for name, types in FIELDS[kind].items():
        if type(values.get(name)) not in types or name not in values:
            raise MessageError("%s: field %s is missing or of the wrong type" % (frames.NAMES[kind], name))
    return values


def encode_output(op: int, stream: int, offset: int, data: bytes, flags: int = 0) -> bytes:
    """A piece of output: ``op u64 | stream u8 | flags u8 | offset u64 | data``."""
    return _OUTPUT.pack(op, stream, flags, offset) + data


def decode_output(body: bytes) -> tuple:
    """(op, stream, flags, offset); the data is ``body[OUTPUT_HEADER_BYTES:]``. Raises MessageError."""
    try:
        op, stream, flags, offset = _OUTPUT.unpack_from(body)
    except StructError:
        raise MessageError("OUTPUT is cut short") from None
    if stream not in (STDOUT, STDERR):
        raise MessageError("OUTPUT of unknown stream %d" % stream)
    return op, stream, flags, offset


def encode_credit(taken_bytes: int) -> bytes:
    """How many bulk bytes the receiver has taken in since the link began (a running total, so a lost one is harmless)."""
    return _CREDIT.pack(taken_bytes)


def decode_credit(body: bytes) -> int:
    """Inverse of encode_credit. Raises MessageError."""
    if len(body) != _CREDIT.size:
        raise MessageError("CREDIT of %d bytes" % len(body))
    return _CREDIT.unpack(body)[0]


def pack(value) -> bytes:
    """A value as MessagePack (shortest of the forms used here)."""
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def _pack(value, out):
    kind = type(value)
    if value is None:
        out.append(0xC0)
    elif kind is bool:
        out.append(0xC3 if value else 0xC2)
    elif kind is int:
        if 0 <= value < 128:
            out.append(value)
        elif 0 <= value < 1 << 32:
            out += _U32.pack(0xCE, value)
        elif 0 <= value < 1 << 64:
            out += _U64.pack(0xCF, value)
        elif -(1 << 63) <= value < 0:
            out += _I64.pack(0xD3, value)
        else:
            raise MessageError("an integer of more than 64 bits")
    elif kind is str:
        data = value.encode("utf-8", "replace")
        out += _U8.pack(0xD9, len(data)) if len(data) < 256 else _U32.pack(0xDB, len(data))
        out += data
    elif kind is bytes:
        out += _U8.pack(0xC4, len(value)) if len(value) < 256 else _U32.pack(0xC6, len(value))
        out += value
    elif kind in (list, tuple):
        out += _U32.pack(0xDD, len(value))
        for item in value:
            _pack(item, out)
    elif kind is dict:
        out += _U32.pack(0xDF, len(value))
        for key, item in value.items():
            _pack(key, out)
            _pack(item, out)
    else:
        raise MessageError("can't pack a %s" % kind.__name__)


def unpack(data: bytes):
    """The one value in ``data``. Raises MessageError; allocates no more than a small multiple of ``data``."""
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (StructError, IndexError, UnicodeDecodeError, TypeError):
        raise MessageError("message is cut short or malformed") from None
    if reader.at != len(data):
        raise MessageError("message has %d bytes too many" % (len(data) - reader.at))
    return value


class _Reader:
    _NUMBERS = {0xCC: Struct("!B"), 0xCD: Struct("!H"), 0xCE: Struct("!I"), 0xCF: Struct("!Q"),
                0xD0: Struct("!b"), 0xD1: Struct("!h"), 0xD2: Struct("!i"), 0xD3: Struct("!q")}  # fmt: skip
    _SIZED = {0xD9: (0, "str"), 0xDA: (1, "str"), 0xDB: (2, "str"), 0xC4: (0, "bin"), 0xC5: (1, "bin"),
              0xC6: (2, "bin"), 0xDC: (1, "list"), 0xDD: (2, "list"), 0xDE: (1, "map"), 0xDF: (2, "map")}  # fmt: skip
    _SIZES = (Struct("!B"), Struct("!H"), Struct("!I"))
    _SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}

    def __init__(self, data):
        self.data, self.at, self.items = data, 0, 0

    def value(self, depth):
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise MessageError("message is nested too deeply or too long")
        self.items += 1
        lead = self.data[self.at]
        self.at += 1
        if lead < 0x80:
            return lead
        if lead >= 0xE0:
            return lead - 256
        if lead in self._SIMPLE:
            return self._SIMPLE[lead]
        if lead in self._NUMBERS:
            return self._number(self._NUMBERS[lead])
        if 0xA0 <= lead <= 0xBF:
            return self._bytes(lead & 31).decode("utf-8")
        if 0x90 <= lead <= 0x9F:
            return self._list(lead & 15, depth)
        if 0x80 <= lead <= 0x8F:
            return self._map(lead & 15, depth)
        if lead not in self._SIZED:
            raise MessageError("message has a value of unknown type 0x%02x" % lead)
        size_index, form = self._SIZED[lead]
        count = self._number(self._SIZES[size_index])
        if form == "str":
            return self._bytes(count).decode("utf-8")
        if form == "bin":
            return self._bytes(count)
        return self._list(count, depth) if form == "list" else self._map(count, depth)

    def _number(self, form):
        number = form.unpack_from(self.data, self.at)[0]
        self.at += form.size
        return number

    def _bytes(self, count):
        if count > len(self.data) - self.at:
            raise MessageError("message is cut short")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def _list(self, count, depth):
        if count > len(self.data) - self.at:
            raise MessageError("message is cut short")
        return [self.value(depth + 1) for _ in range(count)]

    def _map(self, count, depth):
        if 2 * count > len(self.data) - self.at:
            raise MessageError("message is cut short")
        found = {}
        for _ in range(count):  # no comprehension: before 3.8 those evaluate the value first
            key = self.value(depth + 1)
            found[key] = self.value(depth + 1)
        return found
