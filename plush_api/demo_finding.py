"""What the record of a run in the store says about it, host by host, and the tables of it that the demo shows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from rich.table import Table

from plush_worker.experiment.host_list import fold
from plush_worker.model import SubtreeRecord
from plush_worker.node import hostset
from plush_worker.run_state import RunState

ALL_EVENTS = 100_000  # more than a run's stream ever holds
DEEP_LINKS = 2


@dataclass(frozen=True, slots=True)
class HostRow:
    """How one host was reached and what came of it."""

    name: str
    worker: str
    path: tuple[str, ...]  # hosts from the subtree root to this one
    result: str

    @property
    def ok(self) -> bool:
        """Whether the command ended well."""
        return self.result == "ok"


@dataclass(slots=True)
class Finding:
    """A run on a standing mesh."""

    mesh: str = ""
    rows: list[HostRow] = field(default_factory=list)

    @property
    def ok(self) -> int:
        """How many hosts are ok."""
        return sum(row.ok for row in self.rows)

    def problems(self, worker_count: int) -> list[str]:
        """What a demonstration of the main job lacks; empty when all is well."""
        found = []
        if self.ok != len(self.rows):
            found.append(f"only {self.ok} of {len(self.rows)} hosts are ok")
        if len({row.worker for row in self.rows if row.worker}) < worker_count:
            found.append(f"not every one of {worker_count} workers owns a subtree")
        if max((len(row.path) for row in self.rows), default=0) < DEEP_LINKS:
            found.append(f"the tree is less than {DEEP_LINKS} links deep")
        return found


async def look(redis_url: str) -> Finding:
    """The newest run and the subtrees of its mesh. Raises StoreUnavailable."""
    from plush_worker.store.light import LightStore
    from plush_worker.store.store import Store

    with LightStore.connect(redis_url) as light:
        run_id = light.runs(1)[0]["run_id"]
        state = RunState(light.load_run(run_id))
        for _, event in light.events(run_id, "0", count=ALL_EVENTS):
            state.fold(event)
        names = dict(json.loads(light.run_fields(run_id).get("hosts", "[]")))
    store = await Store.connect(redis_url)
    try:
        records, _ = await store.subtrees(state.mesh)
    finally:
        await store.close()
    return Finding(state.mesh, rows(names, results(state), records.values()))


def results(state: RunState) -> dict[int, str]:
    """Host number -> ``ok``, or in few words what else came of it; hosts of which nothing is known are left out."""
    found: dict[int, str] = {}
    for (kind, code, signal, detail), hosts in state.outcomes.items():
        words = (kind, f"code {code}" if code else "", f"signal {signal}" if signal else "", detail)
        text = "ok" if kind == "exited" and code == 0 else " ".join(filter(None, words))
        found |= dict.fromkeys(hostset.members(hosts), text)
    return found


def rows(names: Mapping[int, str], came: Mapping[int, str], records: Iterable[SubtreeRecord]) -> list[HostRow]:
    """A row for each of ``names`` (host number -> name), in the order of the tree; hosts in no subtree come first."""
    ways: dict[int, tuple[str, tuple[int, ...]]] = {}
    for record in records:
        for number in hostset.members(hostset.from_text(record.members)):
            ways[number] = (record.owner, _path(record.parents, number))
    found = []
    for number in sorted(names, key=lambda n: (ways.get(n, ("", ()))[1], n)):
        worker, path = ways.get(number, ("", ()))
        shown = tuple(names.get(n, str(n)) for n in path)
        found.append(HostRow(names[number], worker, shown, came.get(number, "unknown")))
    return found


def _path(parents: Mapping[str, int], number: int) -> tuple[int, ...]:
    """From the subtree root, which has no entry in ``parents``, to this host."""
    path = [number]
    while str(path[0]) in parents and len(path) <= len(parents):
        path.insert(0, parents[str(path[0])])
    return tuple(path)


def result_table(finding: Finding) -> Table:
    """A line for each host."""
    table = _table("Results")
    for name in ("host", "worker", "way", "result"):
        table.add_column(name, overflow="fold")
    for row in finding.rows:
        style = "" if row.ok else "red"
        table.add_row(row.name, row.worker or "none", " > ".join(row.path), row.result, style=style)
    return table


def owner_table(finding: Finding) -> Table:
    """A line for each subtree."""
    table = _table("Who owns what")
    table.add_column("worker")
    table.add_column("subtree root")
    table.add_column("hosts", justify="right")
    table.add_column("links deep", justify="right")
    table.add_column("which", overflow="fold")
    reached = [row for row in finding.rows if row.path]
    for (worker, root), group in groupby(reached, key=lambda row: (row.worker, row.path[0])):
        members = list(group)
        depth = max(len(row.path) for row in members)
        table.add_row(worker, root, str(len(members)), str(depth), fold([row.name for row in members]))
    return table


def _table(title: str) -> Table:
    return Table(title=f"\n{title}", title_justify="left", title_style="bold")
