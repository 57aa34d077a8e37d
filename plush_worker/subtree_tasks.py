"""What is done for runs under this worker's subtrees, as tasks that people watch: when each is over, and how it went.

A wake-up task (``task_names.py``) is taken, and goes on until the hosts that it is about have come up, or ended, or the
run is over. Pure: told what the worker reads from the store and reports to it; answers with what to tell of the tasks.
Host sets are integers (``node/hostset.py``). Nothing of a run rests on any of this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plush_worker.model import OpRecord, SubtreeRecord
from plush_worker.node.hostset import from_text, size

_OPENED = "open"
_KINDS = {"exec": "run", "deploy": "deploy", "fetch": "fetch", "signal": "kill"}  # kind of op -> task
_REASONS = 3  # so many are named


@dataclass(frozen=True, slots=True)
class Progressed:
    """The task goes on; ``text`` says how far it is."""

    task_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The task is over; ``failure`` says why it failed, empty when it didn't."""

    task_id: str
    result: dict[str, Any]
    failure: str = ""


Telling = Progressed | Ended


@dataclass(slots=True)
class _Task:
    task_id: str
    run_id: str
    what: str
    mesh: str
    roots: int = 0  # of an open
    ops: list[OpRecord] = field(default_factory=list)
    told: str = ""


@dataclass(slots=True)
class _Run:
    numbers: int = 0  # its hosts; 0: not known
    up: int = 0
    gone: dict[str, int] = field(default_factory=dict)  # why -> hosts that can't be reached
    seen: set[int] = field(default_factory=set)  # ops
    outcomes: dict[int, dict[str, int]] = field(default_factory=dict)  # op -> how it ended ("" is well) -> hosts


class SubtreeTasks:
    """The open tasks of one worker incarnation."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}
        self._runs: dict[str, _Run] = {}
        self._members: dict[str, dict[int, int]] = {}  # mesh -> root of a subtree of ours -> its hosts

    def take(self, task_id: str, run_id: str, what: str, mesh: str, roots: str = "") -> None:
        """A wake-up has come; what it is about is told next."""
        self.tasks[task_id] = _Task(task_id, run_id, what, mesh, from_text(roots))
        self._runs.setdefault(run_id, _Run())

    def drop(self, task_id: str) -> None:
        """The wake-up could not be followed, and ends by itself."""
        self.tasks.pop(task_id, None)

    def waits(self, task_id: str) -> bool:
        """Whether the task is about hosts that are still under way."""
        task = self.tasks.get(task_id)
        return task is not None and bool(self._open_hosts(task))

    # ---- what the worker reads

    def own(self, mesh: str, records: Iterable[SubtreeRecord]) -> None:
        """Subtrees that are this worker's."""
        for record in records:
            self._members.setdefault(mesh, {})[record.root] = from_text(record.members)

    def run_read(self, run_id: str, fields: Mapping[str, str]) -> list[Telling]:
        """The run's fields: which hosts it has, and whether it is over."""
        run = self._runs.get(run_id)
        if run is None:
            return []
        run.numbers |= from_text(fields.get("numbers", ""))
        return self._over(run_id) if fields.get("finished") else []

    def ops_read(self, run_id: str, records: Sequence[OpRecord]) -> None:
        """The run's ops. New ones belong to the task that was sent for them."""
        run = self._runs.get(run_id)
        if run is None:
            return
        for record in records:
            if record.op in run.seen:
                continue
            run.seen.add(record.op)
            what = _KINDS.get(record.kind, "run")
            for task in self.tasks.values():
                if task.run_id == run_id and task.what == what:
                    task.ops.append(record)
                    break

    # ---- what the worker reports

    def reported(self, run_id: str, events: Iterable[Mapping[str, Any]]) -> list[Telling]:
        """Events that stand in the run's stream now."""
        run = self._runs.get(run_id)
        if run is None:
            return []
        changed = False
        for event in events:
            changed |= _fold(run, event)
        if not changed:
            return []
        return [told for task in list(self.tasks.values()) if task.run_id == run_id for told in self._tell(task)]

    # ---- inside

    def _tell(self, task: _Task) -> list[Telling]:
        hosts = self._hosts(task)
        if not hosts:
            return []
        if not self._open_hosts(task):
            return [self._end(task)]
        done = size(hosts & ~self._open_hosts(task))
        text = f"{done}/{size(hosts)} {'up' if task.what == _OPENED else 'ended'}"
        if not done or text == task.told:
            return []
        task.told = text
        return [Progressed(task.task_id, text)]

    def _over(self, run_id: str) -> list[Telling]:
        ended: list[Telling] = [self._end(task) for task in list(self.tasks.values()) if task.run_id == run_id]
        del self._runs[run_id]
        return ended

    def _end(self, task: _Task) -> Ended:
        del self.tasks[task.task_id]
        hosts, bad = self._hosts(task), self._bad(task)
        if silent := self._open_hosts(task):
            bad["no answer until the run was over"] = silent
        if task.what == "kill":
            return Ended(task.task_id, {"hosts": size(hosts), "ended": size(hosts & ~silent)})
        failed = 0
        for why in bad.values():
            failed |= why
        result = {"hosts": size(hosts), "ok": size(hosts & ~failed)}
        return Ended(task.task_id, result, _reason(size(hosts), bad))

    def _hosts(self, task: _Task) -> int:
        """The hosts that the task is about."""
        members, run = self._members.get(task.mesh, {}), self._runs[task.run_id]
        mine = hosts = 0
        for root, below in members.items():
            mine |= below
            if task.roots >> root & 1:
                hosts |= below
        if task.what == _OPENED:
            return hosts & run.numbers
        for record in task.ops:
            hosts |= from_text(record.hosts) & mine
        return hosts

    def _open_hosts(self, task: _Task) -> int:
        run, hosts = self._runs[task.run_id], self._hosts(task)
        gone = 0
        for unreachable in run.gone.values():
            gone |= unreachable
        if task.what == _OPENED:
            return hosts & ~run.up & ~gone
        waiting = 0
        for record in task.ops:
            ended = 0
            for ended_so in run.outcomes.get(record.ref or record.op, {}).values():
                ended |= ended_so
            waiting |= from_text(record.hosts) & ~ended
        return hosts & waiting & ~gone

    def _bad(self, task: _Task) -> dict[str, int]:
        """Why hosts of the task failed -> those hosts."""
        run, hosts = self._runs[task.run_id], self._hosts(task)
        found = {why: gone & hosts for why, gone in run.gone.items()}
        for record in task.ops:
            for why, ended in run.outcomes.get(record.op, {}).items():
                if why:
                    found[why] = found.get(why, 0) | ended & hosts
        return {why: failed for why, failed in found.items() if failed}


def _fold(run: _Run, event: Mapping[str, Any]) -> bool:
    """Takes an event in; whether it says anything about a task."""
    match event.get("type"):
        case "hosts_up":
            run.up |= from_text(event["hosts"])
        case "hosts_lost" if event.get("final"):
            why = f"unreachable: {event.get('detail') or event.get('code')}"
            run.gone[why] = run.gone.get(why, 0) | from_text(event["hosts"])
        case "op_ended":
            outcomes = run.outcomes.setdefault(int(event["op"]), {})
            why = _outcome(event)
            outcomes[why] = outcomes.get(why, 0) | from_text(event["hosts"])
        case _:
            return False
    return True


def _outcome(event: Mapping[str, Any]) -> str:
    """How it ended, in words; empty when it ended well."""
    state, code, detail = str(event["state"]), event.get("code"), event.get("detail") or ""
    if state == "exited":
        return f"exited with {code}" if code else ""
    if event.get("signal"):
        state += f" by signal {event['signal']}"
    return f"{state}: {detail}" if detail else state


def _reason(count: int, bad: Mapping[str, int]) -> str:
    if not bad:
        return ""
    reasons = sorted(bad.items(), key=lambda item: (-size(item[1]), item[0]))
    named = [f"{size(hosts)} {why}" for why, hosts in reasons[:_REASONS]]
    more = [f"and {len(reasons) - _REASONS} other reasons"] if len(reasons) > _REASONS else []
    return f"of {count} host{'s' if count != 1 else ''} {', '.join(named + more)}"
