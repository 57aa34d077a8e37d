"""Which worker owns which hosts of a run: a plan turned into subtree records. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from plush_worker.model import HostEntry, RunSpec, SliceSettings, SubtreeRecord, WorkerInfo
from plush_worker.node import hostset, limits
from plush_worker.trees.plan import plan_tree


@dataclass(frozen=True, slots=True)
class Placement:
    """Subtrees to assign (without epochs), and hosts that no plan reaches, with the reason."""

    records: tuple[SubtreeRecord, ...]
    unplaced: Mapping[int, str]


def usable_workers(workers: Sequence[WorkerInfo], spec: RunSpec) -> tuple[list[WorkerInfo], str]:
    """The workers that can take part in the run; and, when there are none, why, and what to do."""
    if not workers:
        return [], "no worker is running: start one with `plush worker start` (or `plush up`)"
    spoken = [w for w in workers if limits.OLDEST_PROTOCOL_VERSION <= w.protocol <= limits.PROTOCOL_VERSION]
    if not spoken:
        versions = ", ".join(f"{w.name} speaks {w.protocol}" for w in workers)
        wanted = limits.PROTOCOL_VERSION
        return [], f"no worker speaks protocol version {wanted} ({versions}): restart them with this version of plush"
    if not _needs_local_keys(spec):
        return spoken, ""
    same = [w for w in spoken if w.host == spec.submitter_host and w.uid == spec.submitter_uid]
    if same:
        return same, ""
    return [], (
        "every worker runs on another machine or as another user, and the hosts are reached with keys or an agent of "
        "yours: set `identity` in the host directory to a path the workers have, or start a worker here"
    )


def place(
    numbers: Sequence[int], entries: Mapping[int, HostEntry], workers: Sequence[WorkerInfo], settings: SliceSettings
) -> Placement:
    """Plans ``numbers`` over ``workers`` and cuts the plan into one record a subtree.

    Raises PlanError when the settings can't be met by any plan.
    """
    plan = plan_tree([entries[n] for n in numbers], workers, settings)
    by_name = {worker.name: worker for worker in workers}
    children: dict[int, list[int]] = {}
    for child, parent in plan.parents.items():
        children.setdefault(parent, []).append(child)
    records = []
    for root in plan.roots:
        members, queue = 1 << numbers[root], [root]
        parents: dict[str, int] = {}
        while queue:
            parent = queue.pop()
            for child in children.get(parent, ()):
                members |= 1 << numbers[child]
                parents[str(numbers[child])] = numbers[parent]
                queue.append(child)
        worker = by_name[plan.worker_of[root]]
        records.append(
            SubtreeRecord(
                root=numbers[root],
                owner=worker.name,
                incarnation=worker.incarnation,
                epoch=0,
                members=hostset.to_text(members),
                parents=parents,
                settings=asdict(settings),
            )
        )
    return Placement(tuple(records), {numbers[index]: why for index, why in plan.unreachable.items()})


def _needs_local_keys(spec: RunSpec) -> bool:
    """Looked up in the hosts as submitted: making entries of them costs 15 us each, for every run."""
    return any(h.get("identity_files") or h.get("identity_agent") not in (None, "", "none") for h in spec.hosts)
