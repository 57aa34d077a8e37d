"""Which worker owns which hosts of a run: a plan turned into subtree records. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from plush_worker.model import HostEntry, RunSpec, SliceSettings, SubtreeRecord, WorkerInfo
from plush_worker.node import hostset, limits
from plush_worker.trees.plan import plan_tree
from plush_worker.trees.reach import Reach


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


def grow(
    numbers: Sequence[int],
    standing: Sequence[SubtreeRecord],
    entries: Mapping[int, HostEntry],
    settings: SliceSettings,
) -> Placement:
    """Hangs hosts that no worker can reach below hosts of ``standing`` subtrees that are up; gives the records of the
    subtrees that grow, with the epoch under which they stand now.

    Each host goes below the nearest to a worker that can reach it and has room, then the one with the most room.
    ``entries`` has those of ``numbers`` and of every host that is up.
    """
    depths = {n: depth for record in standing for n, depth in _depths(record).items() if n in entries}
    children: dict[int, int] = {}
    for record in standing:
        for parent in record.parents.values():
            children[parent] = children.get(parent, 0) + 1
    owners = {n: record.root for record in standing for n in depths if hostset.from_text(record.members) >> n & 1}
    order = [*depths, *(n for n in numbers if n not in depths)]
    rules = dict(zip(order, Reach([entries[n] for n in order], settings).rules, strict=True))
    added: dict[int, dict[str, int]] = {}
    waiting = dict.fromkeys(numbers)
    while waiting:
        placed = []
        for number in waiting:
            able = [
                (depth, children.get(parent, 0), parent)
                for index, parent in enumerate(order)
                if (depth := depths.get(parent)) is not None
                and rules[number].allows(index)
                and children.get(parent, 0) < settings.degree
                and (not settings.depth or depth < settings.depth)
            ]
            if able:
                depth, _, parent = min(able)
                depths[number], owners[number] = depth + 1, owners[parent]
                children[parent] = children.get(parent, 0) + 1
                added.setdefault(owners[parent], {})[str(number)] = parent
                placed.append(number)
        if not placed:
            break
        for number in placed:
            del waiting[number]
    records = []
    for record in standing:
        if new := added.get(record.root):
            members = hostset.from_text(record.members) | hostset.of(map(int, new))
            parents = {**record.parents, **new}
            records.append(replace(record, members=hostset.to_text(members), parents=parents))
    return Placement(tuple(records), dict.fromkeys(waiting, ""))


def _depths(record: SubtreeRecord) -> dict[int, int]:
    """Hosts of a subtree that are up -> links from the worker; those below a host that isn't are left out."""
    up = hostset.from_text(record.up)
    children: dict[int, list[int]] = {}
    for below, parent in record.parents.items():
        children.setdefault(parent, []).append(int(below))
    depths = {record.root: 1} if up >> record.root & 1 else {}
    queue = list(depths)
    for parent in queue:  # grows meanwhile
        for host in children.get(parent, ()):
            if up >> host & 1:
                depths[host] = depths[parent] + 1
                queue.append(host)
    return depths


def _needs_local_keys(spec: RunSpec) -> bool:
    """Looked up in the hosts as submitted: making entries of them costs 15 us each, for every run."""
    return any(h.get("identity_files") or h.get("identity_agent") not in (None, "", "none") for h in spec.hosts)
