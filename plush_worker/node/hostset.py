"""Sets of host numbers, kept as plain integers: bit n is host n.

Union, intersection and difference are ``|``, ``&`` and ``& ~``: one machine operation for 30 hosts, so that a
result of 489 hosts costs what a result of one costs. On the wire a set is a list of intervals or a bitmap,
whichever is shorter (``docs/protocol.md``). Pure; no imports outside this folder.
"""

from .limits import MAX_HOST_NUMBER, MAX_HOSTS_FIELD_BYTES

EMPTY = 0
_INTERVALS, _BITMAP = 0, 1


class HostSetError(ValueError):
    """A host set that can't be decoded, or that names a host beyond the limit."""


def of(numbers) -> int:
    """The set of an iterable of host numbers (each 0 to MAX_HOST_NUMBER)."""
    result = 0
    for number in numbers:
        if not 0 <= number <= MAX_HOST_NUMBER:
            raise HostSetError("host number %r is out of range" % (number,))
        result |= 1 << number
    return result


def size(hosts: int) -> int:
    """How many hosts are in the set."""
    return bin(hosts).count("1")


def intervals(hosts: int) -> list:
    """The set as (first, last) pairs, both included, ascending."""
    bits = bin(hosts)[:1:-1]
    found = []
    start = bits.find("1")
    while start >= 0:
        end = bits.find("0", start)
        if end < 0:
            end = len(bits)
        found.append((start, end - 1))
        start = bits.find("1", end)
    return found


def members(hosts: int) -> list:
    """The host numbers, ascending."""
    return [number for first, last in intervals(hosts) for number in range(first, last + 1)]


def lowest(hosts: int) -> int:
    """The lowest host number of a set that isn't empty."""
    return (hosts & -hosts).bit_length() - 1


def to_text(hosts: int) -> str:
    """``0-3,7`` for {0, 1, 2, 3, 7}; the empty text for the empty set."""
    return ",".join("%d-%d" % pair if pair[0] != pair[1] else "%d" % pair[0] for pair in intervals(hosts))


def from_text(text: str) -> int:
    """Inverse of to_text. Raises HostSetError."""
    result = 0
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise HostSetError("not a host set: %.60r" % text) from None
        if not 0 <= low <= high <= MAX_HOST_NUMBER:
            raise HostSetError("not a host set: %.60r" % text)
        result |= (1 << (high + 1)) - (1 << low)
    return result


def encode(hosts: int) -> bytes:
    """The set in its wire form: empty, or a type byte and intervals (varint pairs) or a bitmap."""
    if not hosts:
        return b""
    bitmap_bytes = (hosts.bit_length() + 7) // 8 + 1
    out = bytearray((_INTERVALS,))
    position = 0
    for first, last in intervals(hosts):
        for value in (first - position, last - first):
            while value > 127:
                out.append(value & 127 | 128)
                value >>= 7
            out.append(value)
        position = last + 1
        if len(out) >= bitmap_bytes:
            return bytes((_BITMAP,)) + hosts.to_bytes(bitmap_bytes - 1, "little")
    return bytes(out)


def decode(data: bytes) -> int:
    """Inverse of encode, for bytes of any origin. Raises HostSetError."""
    if not data:
        return 0
    if len(data) > MAX_HOSTS_FIELD_BYTES:
        raise HostSetError("host set of %d bytes" % len(data))
    if data[0] == _BITMAP:
        hosts = int.from_bytes(data[1:], "little")
        if hosts >> (MAX_HOST_NUMBER + 1):
            raise HostSetError("host number beyond %d" % MAX_HOST_NUMBER)
        return hosts
    if data[0] != _INTERVALS:
        raise HostSetError("host set of unknown type %d" % data[0])
    values = []
    value = shift = 0
    for byte in data[1:]:
        value |= (byte & 127) << shift
        if value > MAX_HOST_NUMBER:
            raise HostSetError("host number beyond %d" % MAX_HOST_NUMBER)
        if byte & 128:
            shift += 7
        else:
            values.append(value)
            value = shift = 0
    if shift or len(values) % 2:
        raise HostSetError("host set is cut short")
    hosts = position = 0
    for gap, extent in zip(values[::2], values[1::2]):
        first = position + gap
        position = first + extent + 1
        if position > MAX_HOST_NUMBER + 1:
            raise HostSetError("host number beyond %d" % MAX_HOST_NUMBER)
        hosts |= (1 << position) - (1 << first)
    return hosts
