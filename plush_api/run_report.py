"""What is told of a run, from its stored fields and its fold. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from plush_worker.node import hostset
from plush_worker.run_parts import Outcome, Part

from .run_folds import RunFold
from .schemas import HostOfRun, PartOfHost, ProcessOfRun, Run, RunCounts, RunLinks

_Ends = dict[int, Outcome]  # by host number
_COUNTED = ("ok", "nonzero", "failed", "unreachable", "killed", "unknown")


def report_run(head: Mapping[str, str], fold: RunFold, base_url: str, flower_url: str) -> Run:
    """A run. ``head`` are its short fields; ``base_url`` ends in ``/v1``."""
    run_id = head["run_id"]
    link = f"{base_url}/runs/{run_id}"
    finished = head.get("finished")
    return Run(
        id=run_id,
        name=head.get("name") or fold.spec.name,
        kind=head.get("kind") or fold.spec.kind,
        owner=head.get("owner", ""),
        slice=head.get("slice", ""),
        command=_text(head.get("command", "")),
        state=head["state"] if finished else fold.phase,  # type: ignore[arg-type]
        why=_text(fold.state.waiting) if not finished else "",
        counts=report_counts(head, fold),
        submitted_at=float(head.get("submitted_at") or 0.0),
        finished_at=float(finished) if finished else None,
        keep_s=int(head.get("keep_s") or fold.spec.keep_s),
        mesh=head.get("mesh", ""),
        last_event=fold.last_id,
        processes=[
            ProcessOfRun(name=_text(p["name"]), command=_text(p["command"]), hosts=p["hosts"])
            for p in fold.spec.processes
        ],
        deploys=bool(fold.spec.files),
        success=fold.spec.success,
        links=RunLinks(
            self=link,
            hosts=f"{link}/hosts",
            events=f"{link}/events",
            output=f"{link}/output",
            flower=f"{flower_url.rstrip('/')}/task/{run_id}" if flower_url else "",
        ),
    )


def report_counts(head: Mapping[str, str], fold: RunFold) -> RunCounts:
    """How many hosts are where; of a run that has ended, what the coordinator counted."""
    state = fold.state
    counted: dict[str, int] = state.summary()
    if head.get("summary"):
        counted = json.loads(head["summary"])
    total = len(fold.spec.hosts)
    ended = sum(int(counted.get(name, 0)) for name in _COUNTED)
    return RunCounts(
        hosts=total,
        up=hostset.size(state.up | state.started),
        started=hostset.size(state.started),
        ended=min(total, ended),
        **{name: int(counted.get(name, 0)) for name in _COUNTED},
    )


def report_hosts(fold: RunFold) -> list[HostOfRun]:
    """Every host of the run, in the order of its experiment."""
    ends = _by_number(fold.state.outcomes)
    parts = [(part, _by_number(part.outcomes)) for part in fold.state.parts] if len(fold.state.parts) > 1 else []
    # Names are unique in a run, and both are in its order.
    numbers = {name: number for number, name in fold.names.items()}
    return [
        _report_host(str(host["name"]), index, numbers.get(str(host["name"])), fold, ends, parts)
        for index, host in enumerate(fold.spec.hosts)
    ]


def _report_host(
    name: str, index: int, number: int | None, fold: RunFold, ends: _Ends, parts: Sequence[tuple[Part, _Ends]]
) -> HostOfRun:
    if number is None:
        refused = fold.rejected.get(name)
        now: Outcome = ("waiting", None, None, "") if refused is None else ("unreachable", None, None, refused)
    else:
        now = _now(number, ends, fold.state.started, fold.state.up)
    mine = [
        PartOfHost(kind=part.kind, name=part.name, **_fields(_now(number, found, part.started, fold.state.up)))
        for part, found in parts
        if number is not None and part.hosts >> number & 1
    ]
    return HostOfRun(name=_text(name), number=number, index=index, parts=mine, **_fields(now))


def _now(number: int, ends: _Ends, started: int, up: int) -> Outcome:
    if number in ends:
        return ends[number]
    phase = "running" if started >> number & 1 else "up" if up >> number & 1 else "waiting"
    return (phase, None, None, "")


def _by_number(outcomes: Mapping[Outcome, int]) -> _Ends:
    """Host number -> how it ended."""
    return {number: outcome for outcome, hosts in outcomes.items() for number in hostset.members(hosts)}


def _fields(outcome: Outcome) -> dict[str, Any]:
    state, code, signal, detail = outcome
    return {"state": state, "code": code, "signal": signal, "detail": _text(detail)}


def _text(text: str) -> str:
    """Bytes that aren't UTF-8 (lone surrogates) replaced: JSON answers are UTF-8."""
    return text.encode("utf-8", "replace").decode()
