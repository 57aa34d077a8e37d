"""Ranges of host names: ``node[1-64].example.org`` to names, and names back to ranges.

ClusterShell's NodeSet defines the syntax and does the work, except for the two commonest forms, which are expanded
here because importing NodeSet costs 27 ms of the command line's 150: a name without brackets, and brackets that hold
plain ascending numbers. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod

MAX_HOSTS = 50_000  # a range that is longer is a slip of the finger: refused before memory is taken for it
MAX_RANGE_BYTES = 4096

# Texts, not compiled here: most commands use few of them, and re keeps what it has compiled.
_BRACKETS = r"\[([^\[\]]*)\]"
_PLAIN_RANGE = r"([0-9]{1,9})(?:-([0-9]{1,9}))?\Z"
_ANY_RANGE = r"([0-9]+)-([0-9]+)(?:/([0-9]+))?"


class RangeSyntaxError(ValueError):
    """A range that can't be expanded; the text quotes it and says why."""


def expand(pattern: str) -> list[str]:
    """The names that a pattern with or without brackets stands for, in the order of its numbers.

    ``node[1-3,7]``, ``r[1-2]n[01-16]``, ``node[0-8/2]``. Raises RangeSyntaxError, also beyond MAX_HOSTS names.
    """
    if "[" not in pattern and "]" not in pattern:
        return [pattern]
    if len(pattern) > MAX_RANGE_BYTES:
        raise RangeSyntaxError(f"{pattern[:60]!r}...: a range of more than {MAX_RANGE_BYTES} characters")
    _check_size(pattern)
    return _expand_plain(pattern) or _expand_nodeset(pattern)


def fold(names: Iterable[str]) -> str:
    """Names in their shortest form for display: ``node[1-64],gw``. What can't be folded stands as it is."""
    unique = list(dict.fromkeys(names))
    if len(unique) < 2 or not any(character.isdigit() for name in unique for character in name):
        return ",".join(unique)
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        return str(NodeSet.fromlist(unique, resolver=RESOLVER_NOGROUP))
    except (NodeSetException, ValueError):
        return ",".join(unique)


def _check_size(pattern: str) -> None:
    """Refuses what would expand to more than MAX_HOSTS, by arithmetic: NodeSet itself would build every number."""
    sizes = []
    for inside in re.findall(_BRACKETS, pattern):
        size = inside.count(",") + 1
        for low, high, step in re.findall(_ANY_RANGE, inside):
            if max(len(low), len(high)) > 18:
                raise RangeSyntaxError(f"{pattern!r}: numbers of more than 18 digits")
            size += max(0, int(high) - int(low)) // max(1, int(step or 1))
        sizes.append(size)
    if prod(sizes) > MAX_HOSTS:
        raise RangeSyntaxError(f"{pattern!r} stands for {prod(sizes)} hosts; at most {MAX_HOSTS} can be named at once")


def _expand_plain(pattern: str) -> list[str]:
    """Brackets of plain ascending numbers; empty when the pattern holds anything else."""
    if "][" in pattern:
        return []
    pieces = re.split(_BRACKETS, pattern)
    if any("[" in piece or "]" in piece for piece in pieces[::2]):
        return []
    names = [pieces[0]]
    for inside, literal in zip(pieces[1::2], pieces[2::2], strict=True):
        numbers = _plain_numbers(inside)
        names = [name + number + literal for name in names for number in numbers]
    return names


def _plain_numbers(inside: str) -> list[str]:
    numbers: dict[str, None] = {}
    width = 0  # of the first zero-padded number; NodeSet decides what mixed widths mean
    for part in inside.split(","):
        match = re.match(_PLAIN_RANGE, part)
        if not match:
            return []
        low, high = match[1], match[2] or match[1]
        padding = len(low) if low[0] == "0" and len(low) > 1 else 0
        odd = padding != len(high) if padding else high[0] == "0" and len(high) > 1
        if odd or int(low) > int(high) or (numbers and padding != width):
            return []
        width = padding
        numbers.update((str(n).zfill(width), None) for n in range(int(low), int(high) + 1))
    return list(numbers)


def _expand_nodeset(pattern: str) -> list[str]:
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        return [str(name) for name in NodeSet(pattern, resolver=RESOLVER_NOGROUP)]
    except (NodeSetException, ValueError) as error:
        raise RangeSyntaxError(f"{pattern!r}: {error}; write ranges as node[1-64] or node[1,3,5-9]") from error
