"""Sets of host numbers, kept as plain integers: bit n is host n.

Union, intersection and difference are ``|``, ``&`` and ``& ~``: one machine operation for 30 hosts, so that a
result of 489 hosts costs what a result of one costs. The wire form is in ``hostwire.py``, which a node program
loads first. Pure; no imports outside this folder.
"""

from .hostwire import HostSetError, decode, encode, intervals
from .limits import MAX_HOST_NUMBER

__all__ = [
    "EMPTY",
    "HostSetError",
    "decode",
    "encode",
    "from_text",
    "intervals",
    "lowest",
    "members",
    "of",
    "size",
    "to_text",
]

EMPTY = 0


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
