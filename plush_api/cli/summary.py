"""How a run went: counts, exit code, and its failures folded by reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from plush_worker.errors import EXIT_TIME_LIMIT, EXIT_UNREACHABLE
from plush_worker.model import HostState
from plush_worker.node import hostset

from .view import Outcome, RunView

EXIT_NOT_STARTED = 126  # as a shell that finds a command and can't start it


def counts(view: RunView, wall_s: float) -> dict[str, Any]:
    """The summary of ``--json``; every host is in exactly one of the six counts."""
    found = dict.fromkeys(("ok", "nonzero", "failed", "unreachable", "killed", "unknown"), 0)
    for outcome in view.outcomes:
        found[_count_of(outcome)] += 1 if outcome.name else hostset.size(outcome.hosts)
    return {"hosts": sum(found.values()), **found, "wall_s": round(wall_s, 3), "connect_s": round(view.connect_s, 3)}


def _count_of(outcome: Outcome) -> str:
    if outcome.state is HostState.EXITED:
        return "ok" if outcome.code == 0 and not outcome.signal else "nonzero"
    return str(outcome.state)


def exit_code(outcomes: Iterable[Outcome], *, interrupted_by: int = 0) -> int:
    """The code of ``plush run``: 128 + the signal that stopped it, else 255 when a host is unreachable or unknown,
    else the largest of the hosts' own, where a signal counts 128 + its number and the time limit 124.
    """
    if interrupted_by:
        return 128 + interrupted_by
    return max((_exit_code_of(outcome) for outcome in outcomes), default=0)


def _exit_code_of(outcome: Outcome) -> int:
    if outcome.state in (HostState.UNREACHABLE, HostState.UNKNOWN):
        return EXIT_UNREACHABLE
    if outcome.state is HostState.FAILED:
        return EXIT_NOT_STARTED
    if outcome.timed_out:
        return EXIT_TIME_LIMIT
    if outcome.signal:
        return min(128 + outcome.signal, EXIT_UNREACHABLE - 1)
    if outcome.state is HostState.KILLED:
        return 128 + 15  # killed by we don't know what: as by SIGTERM
    return min(max(outcome.code or 0, 0), EXIT_UNREACHABLE)


def failure_lines(view: RunView, addresses: Mapping[str, str], fold: Callable[[Iterable[str]], str]) -> list[str]:
    """``node[3-5]: unreachable: connection refused``: one line a reason, in the order in which the reasons came up.

    ``addresses`` (host name -> what it is reached by) lets reasons that differ only in the host's own name or address
    fold. ``fold`` makes one text of names.
    """
    folded: dict[tuple[str, str], list[str]] = {}
    texts: dict[tuple[str, str], str] = {}
    for outcome in view.outcomes:
        label = _label(outcome)
        if not label:
            continue
        for name in view.host_names(outcome):
            key = (label, _without_host(outcome.error, name, addresses.get(name, "")))
            folded.setdefault(key, []).append(name)
            texts.setdefault(key, outcome.error)
    lines = []
    for key, names in folded.items():
        error = texts[key] if len(names) == 1 else key[1]
        lines.append(f"{fold(names)}: {key[0]}" + (f": {error}" if error else ""))
    return lines


def _label(outcome: Outcome) -> str:
    """The failure in a word or two; empty for success."""
    if outcome.state is not HostState.EXITED:
        signal = f" by signal {outcome.signal}" if outcome.signal and not outcome.timed_out else ""
        return f"{outcome.state}{signal}"
    if outcome.signal:
        return f"ended by signal {outcome.signal}"
    return f"exit code {outcome.code}" if outcome.code else ""


def _without_host(text: str, name: str, address: str) -> str:
    for own in sorted({name, address} - {""}, key=len, reverse=True):
        text = text.replace(own, "HOST")
    return text
