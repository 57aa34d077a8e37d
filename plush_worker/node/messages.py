"""Messages: the bodies of frames, as checked mappings. bytes <-> values, with limits; never pickle, never json.

Bodies are MessagePack restricted to nil, bool, 64-bit integers, str, bin, array and map (json costs 8 ms and
3 MB at start-up, see docs/protocol.md). OUTPUT and CREDIT have fixed binary bodies. A field that isn't in the
table is ignored, a missing or mistyped one is refused. STDIN is in ``stdin.py``. Pure.
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


_INT, _STR, _BIN, _BOOL, _LIST, _MAP = (int,), (str,), (bytes,), (bool,), (list,), (dict,)
_CODE = (int, type(None))

# kind -> field -> (accepted types...). docs/protocol.md says what each field means.
FIELDS = {
    frames.HELLO: {"version": _INT, "mesh": _STR, "host": _INT, "order": _INT, "name": _STR,
                   "beat_s": _INT, "hold_ms": _INT, "window": _INT, "connect_s": _INT},
    frames.LINK: {"order": _INT, "ssh": _LIST, "entries": _LIST},
    frames.OP: {"op": _INT, "command": _BIN, "env": _MAP, "ttl_s": _INT, "timeout_s": _INT},
    frames.SIGNAL: {"op": _INT, "ref": _INT, "signal": _INT, "grace_ms": _INT},
    frames.ACK: {"op": _INT, "stdout": _INT, "stderr": _INT, "ordinal": _INT, "resume": _BOOL},
    frames.CLOSE: {"ops": _LIST}, frames.QUIT: {"kill": _BOOL}, frames.BEAT: {}, frames.UNLINK: {},
    frames.READY: {"order": _INT, "version": _INT, "python": _STR},
    frames.LOST: {"order": _INT, "child": _INT, "code": _STR, "detail": _STR, "reached": _BOOL},
    frames.STATE: {"op": _INT, "ordinal": _INT, "state": _STR, "detail": _STR, "code": _CODE, "signal": _CODE},
    frames.HELD: {"op": _INT}, frames.LOG: {"text": _STR}, frames.PING: {"n": _INT}, frames.PONG: {"n": _INT},
    frames.NEED: {"op": _INT, "offset": _INT, "again": _BOOL},
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
    """How many bulk bytes the receiver has taken in since the link began (a running total)."""
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
    if value is None or kind is bool:
        out.append(0xC0 if value is None else 0xC2 + value)
    elif kind is int and 0 <= value < 128:
        out.append(value)
    elif kind is int and 0 <= value < 1 << 32:
        out += _U32.pack(0xCE, value)
    elif kind is int and -(1 << 63) <= value < 1 << 64:
        out += _U64.pack(0xCF, value) if value >= 0 else _I64.pack(0xD3, value)
    elif kind is str or kind is bytes:
        data, small, large = (value, 0xC4, 0xC6) if kind is bytes else (value.encode("utf-8", "replace"), 0xD9, 0xDB)
        out += _U8.pack(small, len(data)) if len(data) < 256 else _U32.pack(large, len(data))
        out += data
    elif kind in (list, tuple, dict):
        out += _U32.pack(0xDF if kind is dict else 0xDD, len(value))
        for item in value if kind is not dict else (part for pair in value.items() for part in pair):
            _pack(item, out)
    else:
        raise MessageError("can't pack a %s%s" % (kind.__name__, " of more than 64 bits" if kind is int else ""))


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
    _SIMPLE = {0xC0: None, 0xC2: False, 0xC3: True}
    _NUMBERS = {0xCC + i: Struct("!" + code) for i, code in enumerate("BHIQbhiq")}
    _SIZES = {code: Struct("!" + code) for code in "BHI"}
    _SIZED = {0xC4: ("B", "bin"), 0xC5: ("H", "bin"), 0xC6: ("I", "bin"), 0xD9: ("B", "str"), 0xDA: ("H", "str"),
              0xDB: ("I", "str"), 0xDC: ("H", "list"), 0xDD: ("I", "list"),
              0xDE: ("H", "map"), 0xDF: ("I", "map")}  # fmt: skip

    def __init__(self, data):
        self.data, self.at, self.items = data, 0, 0

    def value(self, depth):
        self.items += 1
        if depth > MAX_DEPTH or self.items > MAX_ITEMS:
            raise MessageError("message is nested too deeply or too long")
        lead = self.data[self.at]
        self.at += 1
        if lead < 0x80 or lead >= 0xE0:
            return lead if lead < 0x80 else lead - 256
        if lead in self._SIMPLE:
            return self._SIMPLE[lead]
        if lead in self._NUMBERS:
            return self._number(self._NUMBERS[lead])
        if lead < 0xC0:  # small: the count is part of the lead
            form, count = ("str", lead & 31) if lead >= 0xA0 else ("list" if lead >= 0x90 else "map", lead & 15)
        elif lead in self._SIZED:
            size, form = self._SIZED[lead]
            count = self._number(self._SIZES[size])
        else:
            raise MessageError("message has a value of unknown type 0x%02x" % lead)
        if count * (2 if form == "map" else 1) > len(self.data) - self.at:
            raise MessageError("message is cut short")
        if form == "list":
            return [self.value(depth + 1) for _ in range(count)]
        if form == "map":
            found = {}
            for _ in range(count):  # no comprehension: before 3.8 those evaluate the value first
                key = self.value(depth + 1)
                found[key] = self.value(depth + 1)
            return found
        self.at += count
        data = bytes(self.data[self.at - count : self.at])
        return data if form == "bin" else data.decode("utf-8")

    def _number(self, struct):
        self.at += struct.size
        return struct.unpack_from(self.data, self.at - struct.size)[0]
