"""``plush tree``: what a tree of SSH connections would look like, before it is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plush_worker.errors import EXIT_OK, EXIT_UNREACHABLE

from .host_options import (
    AsJson,
    DirectoryFile,
    Exclude,
    HostFiles,
    Hosts,
    Login,
    SliceName,
    SshConfig,
    resolved_hosts,
)
from .tree_calibrate import calibrate
from .tree_compare import compare
from .tree_simulate import simulate

if TYPE_CHECKING:
    from plush_worker.experiment.directory import Resolved
    from plush_worker.model import HostEntry, SliceSettings
    from plush_worker.trees.plan import TreePlan

FOLD_LEAVES = 4  # so many leaves of one parent are written as one line

app = typer.Typer(no_args_is_help=True, help="Plan and simulate trees of SSH connections.")


@app.callback()
def tree() -> None:
    """Plan trees of SSH connections, and simulate how they come up."""


@app.command("plan")
def plan(
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    planner: Annotated[str, typer.Option(metavar="P", help="auto, flat, kary, site or greedy; else the slice's.")] = "",
    inner_login: Annotated[
        str, typer.Option(metavar="HOW", help="Plan as if the slice said so: none, agent or key.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, max=1000, help="For so many workers.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print the tree that a planner makes for hosts, without connecting to any."""
    from dataclasses import replace

    from plush_worker.errors import UsageError
    from plush_worker.model import WorkerInfo
    from plush_worker.trees.plan import plan_tree

    if inner_login not in ("", "none", "agent", "key"):
        raise UsageError(f"--inner-login {inner_login}: must be none, agent or key")
    resolved = resolved_hosts(
        hosts, exclude, login, ssh_config, hostfiles, directory, slice_name, all_by_default=bool(slice_name)
    )  # fmt: skip
    settings = replace(resolved.settings, planner=planner or resolved.settings.planner)
    entries = resolved.entries
    if inner_login or planner not in ("", "auto", "flat"):
        settings, entries = with_inner_links(settings, entries, inner_login)
    own = [WorkerInfo(f"worker{n}", "", "", 1) for n in range(1, workers + 1)]
    made = plan_tree(entries, own, settings)
    names = [entry.name for entry in entries]
    if as_json:
        print(json.dumps(plan_json(made, names, resolved.rejected)))
    else:
        for line in plan_lines(made, names, [worker.name for worker in own], ascii_only=_is_ascii()):
            print(line)
        _say_unreachable(made, names, resolved)
    raise typer.Exit(EXIT_UNREACHABLE if resolved.rejected or made.unreachable else EXIT_OK)


app.command("simulate")(simulate)
app.command("compare")(compare)
app.command("calibrate")(calibrate)


def plan_json(made: TreePlan, names: Sequence[str], rejected: dict[str, str]) -> dict[str, Any]:
    """The plan as data: hosts depth first, each with its parent (null: a worker), worker and depth."""
    worker: dict[int, str] = {}
    rows = []
    for host in made.depth_first():
        parent = made.parents.get(host)
        worker[host] = made.worker_of[host] if parent is None else worker[parent]
        name = None if parent is None else names[parent]
        rows.append({"host": names[host], "parent": name, "worker": worker[host], "depth": made.depths[host]})
    return {
        "planner": made.planner,
        "estimate_s": round(made.estimate_s, 3),
        "depth": max(made.depths.values(), default=0),
        "roots": len(made.roots),
        "hosts": rows,
        "unreachable": {names[host]: why for host, why in made.unreachable.items()} | rejected,
    }


def plan_lines(made: TreePlan, names: Sequence[str], workers: Sequence[str], *, ascii_only: bool) -> Iterator[str]:
    """The plan as people read trees; siblings without children are folded into one line."""
    depth, hosts = max(made.depths.values(), default=0), len(made.depths)
    count = f"{hosts} host{'s' * (hosts != 1)}, {len(made.roots)} of them linked to by workers, {depth} deep"
    yield f"planner {made.planner}: {count}, ready after about {made.estimate_s:.2f} s"
    for worker in workers:
        roots = [root for root in made.roots if made.worker_of[root] == worker]
        total = sum(len(made.subtree(root)) for root in roots)
        yield f"{worker} ({total})"
        yield from _branch_lines(made, names, roots, "", ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  "))


def _branch_lines(
    made: TreePlan, names: Sequence[str], hosts: Sequence[int], indent: str, marks: tuple[str, str, str]
) -> Iterator[str]:
    """The lines below one parent. The recursion is as deep as the tree, which planners keep shallow."""
    leaves = [host for host in hosts if not made.children.get(host)]
    rows: list[tuple[str, Sequence[int]]] = [
        (f"{names[host]} ({len(made.subtree(host))})", made.children[host]) for host in hosts if made.children.get(host)
    ]
    if len(leaves) >= FOLD_LEAVES:
        from plush_worker.experiment.host_list import fold

        rows.append((f"{fold(names[host] for host in leaves)} ({len(leaves)})", ()))
    else:
        rows += [(names[host], ()) for host in leaves]
    for at, (text, children) in enumerate(rows):
        last = at == len(rows) - 1
        yield indent + marks[last] + text
        yield from _branch_lines(made, names, children, indent + ("   " if last else marks[2]), marks)


def with_inner_links(
    settings: SliceSettings, entries: list[HostEntry], inner_login: str
) -> tuple[SliceSettings, list[HostEntry]]:
    """As if hosts could log in to each other: who asks for a tree wants to see it. Says what was assumed."""
    from dataclasses import replace

    from .app import say

    if inner_login == "none":
        return replace(settings, inner_login="none"), entries
    if settings.inner_login == "none":
        if not inner_login:
            say("taking inner_login to be agent; it is none, with which a run's tree is flat: set it in a slice")
        settings = replace(settings, inner_login=inner_login or "agent")
    assumed = [entry for entry in entries if not any(not line.startswith("@revoked") for line in entry.known_hosts)]
    if assumed:
        say(
            f"taking the keys of {len(assumed)} hosts to be known; in a run only workers link to hosts "
            "without a pinned key: plush hosts trust records keys"
        )
    unknown = {entry.name for entry in assumed}
    return settings, [replace(e, known_hosts=("unknown",)) if e.name in unknown else e for e in entries]


def _say_unreachable(made: TreePlan, names: Sequence[str], resolved: Resolved) -> None:
    from .app import say

    for host, why in made.unreachable.items():
        say(f"{names[host]}: {why}")
    for name, why in resolved.rejected.items():
        say(f"{name}: {why}")


def _is_ascii() -> bool:
    return "utf" not in (getattr(sys.stdout, "encoding", "") or "").lower()
