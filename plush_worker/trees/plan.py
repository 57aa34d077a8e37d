"""Tree plans: host -> parent, made by a planner, checked before use.

Owns the result (``TreePlan``), the choice of a planner by estimated cost and the check. Pure. Entry point:
``plan_tree``; the planners are in ``planners.py``, what they are given in ``problem.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from plush_worker.errors import InternalError, UserError
from plush_worker.model import HostEntry, SliceSettings, WorkerInfo

from .costs import CostTable, Opener
from .planners import PLANNERS, Parents
from .problem import Problem, pose

# A tree has to be worth it: each level adds a round trip to every later command, and a host that others depend on.
WORTH_S = 2.0
WORTH_SHARE = 0.25


class PlanError(UserError):
    """There is no plan: no workers, or a planner that doesn't exist."""

    code = "plan"


class BadPlan(InternalError):
    """A planner broke a rule; the message names the hosts."""

    code = "bad_plan"


@dataclass(frozen=True)
class TreePlan:
    """Which host is linked to by which. Hosts are indexes into the entries that were planned."""

    parents: Mapping[int, int]  # host -> parent host, in the order in which a parent links; roots are absent
    roots: tuple[int, ...]  # hosts that a worker links to, in that order
    worker_of: Mapping[int, str]  # root -> worker's name
    unreachable: Mapping[int, str]  # host -> why nobody can link to it
    estimate_s: float  # until the last host is ready
    planner: str  # by which it was made

    @cached_property
    def children(self) -> Mapping[int, tuple[int, ...]]:
        """host -> hosts it links to; leaves are absent."""
        found: dict[int, list[int]] = {}
        for host, parent in self.parents.items():
            found.setdefault(parent, []).append(host)
        return {parent: tuple(hosts) for parent, hosts in found.items()}

    @cached_property
    def depths(self) -> Mapping[int, int]:
        """host -> links from its worker; 1 for a root."""
        depths = dict.fromkeys(self.roots, 1)
        for host in self.depth_first():
            if host in self.parents:
                depths[host] = depths[self.parents[host]] + 1
        return depths

    def depth_first(self) -> list[int]:
        """All planned hosts, parents before children and each subtree in one piece: the order for numbers."""
        order, stack = [], list(reversed(self.roots))
        while stack:
            host = stack.pop()
            order.append(host)
            stack.extend(reversed(self.children.get(host, ())))
        return order

    def subtree(self, root: int) -> list[int]:
        """The hosts of one subtree, its root first."""
        members, at = [root], 0
        while at < len(members):
            members.extend(self.children.get(members[at], ()))
            at += 1
        return members


def plan_tree(
    entries: Sequence[HostEntry],
    workers: Sequence[WorkerInfo],
    settings: SliceSettings,
    costs: CostTable | None = None,
) -> TreePlan:
    """The tree for ``entries``, by ``settings.planner``, checked.

    With ``inner_login`` none every plan is flat. With at least as many hosts as workers, every worker gets a subtree.
    Hosts that nobody can link to are in ``unreachable``. Raises PlanError when there is no worker or no such planner.
    """
    if not workers:
        raise PlanError("no workers to plan for")
    if settings.planner != "auto" and settings.planner not in PLANNERS:
        raise PlanError(f"no planner {settings.planner!r}: there are auto, {', '.join(PLANNERS)}")
    problem = pose(entries, workers, settings, costs)
    if settings.inner_login == "none":
        plan = _make(problem, "flat")
    elif settings.planner == "auto":
        plan = _choose(problem)
    else:
        plan = _make(problem, settings.planner)
    errors = check(plan, problem)
    if errors:
        raise BadPlan(f"planner {plan.planner} made a plan that can't be used: " + "; ".join(errors[:20]))
    return plan


def _choose(problem: Problem) -> TreePlan:
    """The plan that is ready first; flat unless another is worth it."""
    flat = _make(problem, "flat")
    if flat.estimate_s <= WORTH_S:
        return flat
    names = [name for name in PLANNERS if name != "flat" and (name != "site" or any(e.site for e in problem.entries))]
    best = min((_make(problem, name) for name in names), key=lambda plan: plan.estimate_s)
    saved_s = flat.estimate_s - best.estimate_s
    return best if saved_s >= max(WORTH_S, WORTH_SHARE * flat.estimate_s) else flat


def _make(problem: Problem, planner: str) -> TreePlan:
    parents = PLANNERS[planner](problem)
    parents.update(problem.below)
    _share_out(problem, parents)
    roots = tuple(sorted((h for h, parent in parents.items() if parent < 0), key=lambda host: -parents[host]))
    return TreePlan(
        parents={host: parent for host, parent in parents.items() if parent >= 0},
        roots=roots,
        worker_of={host: problem.workers[-1 - parents[host]].name for host in roots},
        unreachable=dict(problem.unreachable),
        estimate_s=estimate(problem, parents),
        planner=planner,
    )


def _share_out(problem: Problem, parents: Parents) -> None:
    """Gives every worker a subtree, as far as there are hosts for that: one that a worker reaches, of who has most."""
    workers = [-1 - worker for worker in range(len(problem.workers))]
    if set(workers) <= set(parents.values()):
        return
    loads: dict[int, list[int]] = {worker: [] for worker in workers}
    top = dict(zip(workers, workers, strict=True))
    for host in parents:
        path = [host]
        while path[-1] not in top:
            path.append(parents[path[-1]])
        top.update(dict.fromkeys(path, top[path[-1]]))
        loads[top[host]].append(host)
    inner = {parent for parent in parents.values() if parent >= 0}
    for worker in workers:
        if loads[worker]:
            continue
        for giver in sorted(workers, key=lambda w: len(loads[w]), reverse=True):
            given = _spare(problem, parents, loads[giver], inner)
            if given is not None:
                loads[giver].remove(given)
                loads[worker].append(given)
                parents[given] = worker
                break


def _spare(problem: Problem, parents: Mapping[int, int], hosts: Sequence[int], inner: set[int]) -> int | None:
    """A host that its worker can give away and keep another: a leaf, or a root with what hangs below it."""
    roots = sum(parents[host] < 0 for host in hosts)
    spare = [h for h in hosts if problem.rules[h].worker and (roots > 1 or parents[h] >= 0)]
    leaf = next((h for h in reversed(spare) if h not in inner), None)
    return next((h for h in reversed(spare) if parents[h] < 0), None) if leaf is None else leaf


def estimate(problem: Problem, parents: Mapping[int, int]) -> float:
    """Seconds until the last host is ready, by the cost table, when each parent links in the order of ``parents``."""
    children: dict[int, list[int]] = {}
    for host, parent in parents.items():
        children.setdefault(parent, []).append(host)
    costs, last_s = problem.costs, 0.0
    queue = deque((-1 - worker, 0.0) for worker in range(len(problem.workers)))
    while queue:
        parent, ready_s = queue.popleft()
        opener = Opener(costs, parent, ready_s, problem.logins_at_once(parent))
        for child in children.get(parent, ()):
            child_ready_s = opener.open(costs.latency_s(opener.cluster, costs.cluster(child)))
            last_s = max(last_s, child_ready_s)
            queue.append((child, child_ready_s))
    return last_s


def check(plan: TreePlan, problem: Problem) -> list[str]:
    """What is wrong with a plan, one sentence each, naming the host; empty when it can be used."""
    names = [entry.name for entry in problem.entries]
    settings, errors = problem.settings, []
    placed = set(plan.parents) | set(plan.roots)
    accounted = placed | plan.unreachable.keys()
    errors += [f"{names[h]} has no place and no reason" for h in range(len(names)) if h not in accounted]
    errors += [f"{names[h]} is planned and called unreachable" for h in placed & plan.unreachable.keys()]
    errors += [f"{names[h]} is a root and has a parent" for h in plan.parents.keys() & set(plan.roots)]
    errors += [f"{names[h]} isn't reached: it is below itself" for h in placed - set(plan.depth_first())]
    known = {worker.name for worker in problem.workers}
    for root in plan.roots:
        if plan.worker_of.get(root) not in known:
            errors.append(f"{names[root]} belongs to no worker")
        if not problem.rules[root].allows(-1):
            errors.append(f"{names[root]} can't be reached from a worker")
    for host, parent in plan.parents.items():
        if parent == host or not problem.rules[host].allows(parent):
            errors.append(f"{names[host]} can't be reached from {names[parent]}")
    for host, children in plan.children.items():
        if len(children) > settings.degree:
            errors.append(f"{names[host]} has {len(children)} children, more than degree {settings.degree}")
    if settings.depth and not errors:
        errors += [
            f"{names[h]} is {d} links deep, more than {settings.depth}"
            for h, d in plan.depths.items()
            if d > settings.depth
        ]
    return errors
