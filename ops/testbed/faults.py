"""Faults as data: what there is, how one is written, what undoes it, and schedules of them. Pure.

A fault travels to the keeper as a mapping (``Fault.request``); the words of the command line and the entries of a
schedule file are read into it here. Hosts are indices inside, ``h3`` or ``h[3-7],h9`` where people write them.
Entry points: ``parse_words``, ``parse_schedule``, ``random_schedule``, ``undo``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from plush_worker.experiment.host_ranges import RangeSyntaxError, expand

from .errors import BadInput


class Kind(NamedTuple):
    """What a fault of this kind needs, and how it is undone."""

    about: str
    undo: str = ""  # the kind that undoes it; "" for what can't be or needn't be undone
    has_hosts: bool = True
    has_others: bool = False
    value: str = ""  # the value's name in a schedule, with its unit
    may_be_one_way: bool = False


KINDS = {
    "power-off": Kind("no packet leaves, then every process ends", undo="power-on"),
    "power-on": Kind("boot: a new network namespace, fresh /tmp and /run, the same disk and keys"),
    "freeze": Kind("stop every process", undo="thaw"),
    "thaw": Kind("let them go on"),
    "cut": Kind("no packet between HOSTS and OTHERS", undo="heal", has_others=True, may_be_one_way=True),
    "heal": Kind("undo cut between them", has_others=True),
    "partition": Kind("cut HOSTS from all the rest", undo="rejoin", may_be_one_way=True),
    "rejoin": Kind("undo partition"),
    "loss": Kind("lose this share of the packets between them", "loss", has_others=True, value="share"),
    "delay": Kind("delay packets between them", "delay", has_others=True, value="one_way_s"),
    "rate": Kind("10**6 bit/s, up and down; 0: no limit", "rate", value="mbit"),
    "stop-sshd": Kind("kill sshd and its sessions, not what they started", undo="start-sshd"),
    "start-sshd": Kind("start sshd again"),
    "fill-disk": Kind("no byte of room on the disk and in /tmp", undo="free-disk"),
    "free-disk": Kind("the whole room again"),
    "heal-all": Kind("the network as at the start: cuts, loss, delays, rates", has_hosts=False),
}
_COMMA = r",(?![^\[]*\])"  # one that is not in brackets
START = "start"  # written as the value of loss, delay and rate: as at the start
RANDOM_KINDS = ("power-off", "freeze", "cut", "partition", "loss", "delay", "stop-sshd", "fill-disk")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``value`` None: as at the start."""

    do: str  # a key of KINDS
    hosts: tuple[int, ...] = ()
    others: tuple[int, ...] = ()
    value: float | None = None
    both: bool = True

    def request(self) -> dict[str, Any]:
        """What the keeper gets; inverse of ``from_request``."""
        return {
            "do": self.do, "hosts": list(self.hosts), "others": list(self.others), "value": self.value,
            "both": self.both,
        }  # fmt: skip

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Fault:
        """From a mapping with the keys of ``request``, of which all but ``do`` may be missing."""
        hosts, others = (tuple(request.get(key, ())) for key in ("hosts", "others"))
        return cls(request["do"], hosts, others, request.get("value"), request.get("both", True))


class Timed(NamedTuple):
    """A fault and when it is due, in seconds from the start of COMMAND."""

    at_s: float
    fault: Fault


def undo(fault: Fault) -> Fault | None:
    """The fault that undoes this one; None when there is none."""
    kind = KINDS[fault.do].undo
    return replace(fault, do=kind, value=None) if kind else None


def check(fault: Fault, host_count: int) -> Fault:
    """The same fault. Raises BadInput when it names what there isn't or a value makes no sense."""
    kind = KINDS.get(fault.do)
    if kind is None:
        raise BadInput(f"there is no fault {fault.do!r}; there are: {', '.join(KINDS)}")
    if kind.has_hosts and not fault.hosts:
        raise BadInput(f"{fault.do}: no host named")
    if kind.has_others and not fault.others:
        raise BadInput(f"{fault.do}: on which hosts at the other end?")
    for host in (*fault.hosts, *fault.others):
        if not 0 <= host < host_count:
            raise BadInput(f"{fault.do}: there is no host h{host}; there are h0 to h{host_count - 1}")
    if fault.value is not None and (fault.value < 0 or (kind.value == "share" and fault.value > 1)):
        raise BadInput(f"{fault.do}: {kind.value} {fault.value} makes no sense")
    return fault


def parse_hosts(text: str, host_count: int) -> tuple[int, ...]:
    """``h3``, ``h[3-7],h9`` or ``all``. Raises BadInput."""
    if text == "all":
        return tuple(range(host_count))
    try:
        names = [name for part in re.split(_COMMA, text) for name in expand(part)]
    except RangeSyntaxError as error:
        raise BadInput(f"hosts {text!r}: {error}") from error
    wrong = [name for name in names if not (name.startswith("h") and name[1:].isdecimal())]
    if wrong:
        raise BadInput(f"hosts {text!r}: {wrong[0]!r} is none; they are called h0 to h{host_count - 1}")
    return tuple(int(name[1:]) for name in names)


def parse_words(words: Sequence[str], host_count: int) -> Fault:
    """As on the command line: ``power-off h5``, ``cut h3 h[4-7] --one-way``, ``loss h1 h2 0.1``, ``rate h3 start``."""
    if not words or words[0] not in KINDS:
        raise BadInput(f"there is no fault {words[0] if words else ''!r}; there are: {', '.join(KINDS)}")
    do, kind = words[0], KINDS[words[0]]
    rest = [word for word in words[1:] if word != "--one-way"]
    wanted = usage(do)
    if len(rest) != kind.has_hosts + kind.has_others + bool(kind.value):
        raise BadInput(f"{' '.join(words)}: should be {wanted}")
    if "--one-way" in words and not kind.may_be_one_way:
        raise BadInput(f"{do} has no --one-way: {wanted}")
    fault = Fault(do, both="--one-way" not in words)
    if kind.has_hosts:
        fault = replace(fault, hosts=parse_hosts(rest.pop(0), host_count))
    if kind.has_others:
        fault = replace(fault, others=parse_hosts(rest.pop(0), host_count))
    if kind.value:
        fault = replace(fault, value=_parse_value(do, rest.pop(0)))
    return check(fault, host_count)


def usage(do: str) -> str:
    """How a fault is written on the command line."""
    kind = KINDS[do]
    parts = [do, "HOSTS" * kind.has_hosts, "OTHERS" * kind.has_others, kind.value.upper()]
    return " ".join(part for part in (*parts, "[--one-way]" * kind.may_be_one_way) if part)


def _parse_value(do: str, text: object) -> float | None:
    if text == START:
        return None
    try:
        return float(str(text))
    except ValueError:
        raise BadInput(f"{do}: {KINDS[do].value} {text!r} is neither a number nor {START!r}") from None


# Schedules


def parse_schedule(entries: object, host_count: int, source: str) -> list[Timed]:
    """What a schedule's file holds, in the order in which it is due; ``for_s`` became a fault of its own.

    An entry: ``{at_s: 5, do: cut, hosts: h3, others: "h[4-7]", both: false, for_s: 10}``, a value under its own name
    (``share``, ``one_way_s``, ``mbit``). Raises BadInput that names ``source`` and every entry that is wrong.
    """
    if not isinstance(entries, list):
        raise BadInput(f"{source}: a schedule is a list of faults, each with at_s and do")
    found: list[Timed] = []
    problems = []
    for number, entry in enumerate(entries, 1):
        try:
            found += _parse_entry(entry, host_count)
        except BadInput as error:
            problems.append(f"{source}: entry {number}: {error}")
    if problems:
        raise BadInput("\n".join(problems))
    return sorted(found, key=lambda timed: timed.at_s)


def _parse_entry(entry: object, host_count: int) -> list[Timed]:
    if not isinstance(entry, dict) or not isinstance(entry.get("do"), str) or entry["do"] not in KINDS:
        raise BadInput(f"'do' has to be one of: {', '.join(KINDS)}")
    do, kind = entry["do"], KINDS[entry["do"]]
    may = {"at_s", "do", "for_s", *(["hosts"] * kind.has_hosts), *(["others"] * kind.has_others)}
    may |= {kind.value, *(["both"] * kind.may_be_one_way)} - {""}
    unknown = sorted(str(key) for key in entry.keys() - may)
    if unknown:
        raise BadInput(f"{do} has no {', '.join(unknown)}; it has: {', '.join(sorted(may))}")
    at_s, for_s = (_seconds(entry, key) for key in ("at_s", "for_s"))
    if at_s is None:
        raise BadInput("at_s is missing: seconds from the start of the command")
    fault = Fault(
        do,
        parse_hosts(str(entry.get("hosts", "")), host_count) if kind.has_hosts else (),
        parse_hosts(str(entry.get("others", "")), host_count) if kind.has_others else (),
        _parse_value(do, entry.get(kind.value, START)) if kind.value else None,
        bool(entry.get("both", True)),
    )
    timed = [Timed(at_s, check(fault, host_count))]
    if for_s is not None:
        undone = undo(fault)
        if undone is None:
            raise BadInput(f"{do} can't be undone, so it has no for_s")
        timed.append(Timed(at_s + for_s, undone))
    return timed


def _seconds(entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        raise BadInput(f"{key} {value!r} is no number of seconds")
    return float(value)


def random_schedule(
    seed: int,
    host_count: int,
    duration_s: float,
    *,
    kinds: Sequence[str] = RANDOM_KINDS,
    gap_s: float = 5.0,
    longest_s: float = 20.0,
    spare: Sequence[int] = (0,),
) -> list[dict[str, Any]]:
    """Entries of a schedule that hits hosts at random times, each fault undone before ``duration_s`` is over.

    ``gap_s``: mean time between faults; ``longest_s``: of one fault; ``spare``: hosts left alone, the controller by
    default. No host is in two faults at once, so that the end of one doesn't undo another. The same arguments give
    the same schedule.
    """
    draw = random.Random(f"faults {seed}")
    busy_until = {host: 0.0 for host in range(host_count) if host not in spare}
    entries: list[dict[str, Any]] = []
    at_s = draw.expovariate(1 / gap_s)
    while at_s < duration_s:
        for_s = min(draw.uniform(0.1, 1.0) * longest_s, duration_s - at_s)
        do = draw.choice(list(kinds))
        wanted = 1 + KINDS[do].has_others
        free = sorted(host for host, until_s in busy_until.items() if until_s <= at_s)
        if len(free) >= wanted:
            picked = draw.sample(free, wanted)
            entries.append(_random_entry(draw, do, picked, round(at_s, 3), round(for_s, 3)))
            busy_until |= dict.fromkeys(picked, at_s + for_s + 0.01)
        at_s += draw.expovariate(1 / gap_s)
    return entries


def _random_entry(draw: random.Random, do: str, hosts: Sequence[int], at_s: float, for_s: float) -> dict[str, Any]:
    kind = KINDS[do]
    entry: dict[str, Any] = {"at_s": at_s, "do": do, "hosts": f"h{hosts[0]}", "for_s": for_s}
    if kind.has_others:
        entry["others"] = f"h{hosts[1]}"
    if kind.may_be_one_way:
        entry["both"] = draw.random() < 0.7
    ranges = {"share": (0.01, 0.5), "one_way_s": (0.1, 2.0), "mbit": (0.1, 10.0)}
    if kind.value:
        entry[kind.value] = round(draw.uniform(*ranges[kind.value]), 3)
    return entry
