"""The wire form of host sets (``docs/protocol.md``). In memory a set is an integer, see ``hostset.py``. Pure."""

from .limits import MAX_HOST_NUMBER, MAX_HOSTS_FIELD_BYTES

_INTERVALS, _BITMAP = 0, 1


class HostSetError(ValueError):
    """A host set that can't be decoded, or that names a host beyond the limit."""


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
