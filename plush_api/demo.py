"""``plush demo``: the main job on one machine, shown step by step.

Real sshd on loopback addresses as hosts (``local_hosts.py``), an embedded stack with several workers
(``embedded.py``), and the commands that anybody would type, run as processes of their own. Everything is taken down at
the end, and that is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from plush_api.embedded import EmbeddedStack
from plush_api.local_hosts import SLICE, LocalHosts
from plush_worker.errors import PlushError
from plush_worker.experiment.host_list import fold
from plush_worker.model import SubtreeRecord
from plush_worker.node import hostset

COMMAND = 'echo "up, Python $(python3 -V 2>&1 | cut -d" " -f2), reached from ${SSH_CONNECTION%% *}"'
QUIET_LIMIT_S = 10.0
SHOWN = 5
ALL_EVENTS = 100_000  # more than a run's stream ever holds


@dataclass(slots=True)
class Subtree:
    """One row of the table: a subtree as it stands."""

    worker: str
    root: str
    hosts: list[str]
    depth: int  # links from the worker to the deepest host


@dataclass(slots=True)
class Finding:
    """What the run's record in the store says."""

    ok: int = 0
    total: int = 0
    mesh: str = ""
    subtrees: list[Subtree] = field(default_factory=list)

    def problems(self, worker_count: int) -> list[str]:
        """What a demonstration of the main job lacks; empty when all is well."""
        found = []
        if self.ok != self.total:
            found.append(f"only {self.ok} of {self.total} hosts are ok")
        if len({subtree.worker for subtree in self.subtrees}) < worker_count:
            found.append(f"not every one of {worker_count} workers owns a subtree")
        if max((subtree.depth for subtree in self.subtrees), default=0) < 2:
            found.append("the tree is less than two links deep")
        return found


def demo(
    hosts: Annotated[int, typer.Option(help="How many local hosts.", min=4, max=200)] = 16,
    workers: Annotated[int, typer.Option(help="How many workers share them.", min=1, max=8)] = 2,
    degree: Annotated[int, typer.Option(help="Children of each host in the tree.", min=1, max=32)] = 2,
) -> None:
    """Show the main job on this machine: local sshd hosts, workers, one tree. Leaves nothing behind."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    left: list[str] = []
    problems: list[str] = []
    try:
        with _hosts(console, hosts, degree) as up:
            _own_settings(up.folder)
            with _stack(console, workers) as stack:
                finding = _show(console, up, stack)
            console.print("\nTaking everything down.")
            left = [f"{p.pid} {p.command}" for p in up.wait_quiet(QUIET_LIMIT_S)] + _state_folders(finding.mesh)
            problems = finding.problems(min(workers, hosts // 2))
    except PlushError as error:
        problems = [str(error)]
    except KeyboardInterrupt:
        problems = ["interrupted"]
    if left:
        problems.append(f"left on the hosts: {'; '.join(left[:SHOWN])}")
    if problems:
        for problem in problems:
            console.print(f"demo: {problem}", style="bold red", markup=False)
        raise typer.Exit(1)
    console.print("Checked: no sshd, node program, worker or server of the demo is left, nor a file of theirs.")
    console.print(f"[bold green]{finding.ok} of {finding.total} hosts ok.[/]")


def _own_settings(folder: Path) -> None:
    """What this person has configured and keeps is no part of the demonstration; this process is its own."""
    for name in [n for n in os.environ if n.startswith("PLUSH_") and not n.startswith("PLUSH_TEST_")]:
        del os.environ[name]
    for name in ("CONFIG", "STATE", "CACHE", "DATA"):
        os.environ[f"XDG_{name}_HOME"] = str(folder / name.lower())


def _state_folders(mesh: str) -> list[str]:
    """What the mesh's node programs left of their state folders."""
    bases = (Path("/tmp"), Path("/var/tmp"))
    return sorted(str(path) for base in bases for path in base.glob(f".plush-{os.getuid()}/{mesh}-*"))


@contextlib.contextmanager
def _hosts(console: Console, count: int, degree: int) -> Iterator[LocalHosts]:
    began = time.monotonic()
    with LocalHosts(count, slice_settings={"planner": "kary", "degree": degree}) as up:
        first = up.hosts["node1"]
        console.print(
            f"{count} hosts are up after {time.monotonic() - began:.1f} s: an sshd each, on {first.address} and the "
            f"addresses after it, port {first.port}, with host keys of their own."
        )
        yield up


@contextlib.contextmanager
def _stack(console: Console, workers: int) -> Iterator[EmbeddedStack]:
    began = time.monotonic()
    with EmbeddedStack(workers) as stack:
        stack.wait_ready()
        console.print(f"Redis and {workers} Celery workers are up after {time.monotonic() - began:.1f} s.")
        yield stack


def _show(console: Console, up: LocalHosts, stack: EmbeddedStack) -> Finding:
    """Type the commands; then look into the store."""
    environ = {**os.environ, "PLUSH_REDIS_URL": stack.redis_url}
    chosen = ["-w", up.names, "--directory", str(up.directory), "--slice", SLICE]
    folder = str(up.folder)
    console.print("\nThe tree that will be used:", style="bold")
    _type(console, ["tree", "plan", *chosen], environ, folder)
    console.print("\nThe first run weaves the mesh and starts on each host as soon as it is up:", style="bold")
    _type(console, ["run", *chosen, "--gather", "--", COMMAND], environ, folder)
    console.print("\nThe mesh stands, so a second run needs no login:", style="bold")
    _type(console, ["run", *chosen, "--gather", "--", "true"], environ, folder)
    finding = asyncio.run(_look(stack.redis_url))
    console.print(_table(finding))
    console.print("\nThe mesh is closed:", style="bold")
    _type(console, ["mesh", "down"], environ, folder)
    return finding


def _type(console: Console, words: list[str], environ: Mapping[str, str], folder: str) -> None:
    """Run one command of Plush with this terminal as its own, showing what was typed and how long it took."""
    shown = shlex.join(["plush", *words]).replace(folder, "DEMO")
    console.print(f"$ {shown}", style="cyan", markup=False)
    began = time.monotonic()
    # The command gets a Ctrl-C at the terminal too and decides what it means; it is never killed here.
    with subprocess.Popen([sys.executable, "-P", "-m", "plush_api.cli.app", *words], env=dict(environ)) as process:
        code = process.wait()
    console.print(f"  {time.monotonic() - began:.2f} s, exit code {code}", style="dim")
    if code:
        raise PlushError(f"plush {words[0]} ended with exit code {code}")


async def _look(redis_url: str) -> Finding:
    """The newest run and the subtrees of its mesh. Raises StoreUnavailable."""
    from plush_worker.store.light import LightStore
    from plush_worker.store.store import Store

    with LightStore.connect(redis_url) as light:
        run_id = light.runs(1)[0]["run_id"]
        events = {event["type"]: event for _, event in light.events(run_id, "0", count=ALL_EVENTS)}
        names = dict(json.loads(light.run_fields(run_id).get("hosts", "[]")))
    summary = events["run_finished"]["summary"]
    store = await Store.connect(redis_url)
    try:
        mesh = events["hosts_joined"]["mesh"]
        records, _ = await store.subtrees(mesh)
    finally:
        await store.close()
    subtrees = [describe(record, names) for _, record in sorted(records.items())]
    return Finding(summary["ok"], summary["hosts"], mesh, subtrees)


def describe(record: SubtreeRecord, names: Mapping[int, str]) -> Subtree:
    """A subtree's record in words; ``names`` maps host numbers to names."""
    members = hostset.members(hostset.from_text(record.members))
    depth = max(_links(record.parents, number) for number in members)
    return Subtree(record.owner, names.get(record.root, "?"), [names.get(n, "?") for n in members], depth)


def _links(parents: Mapping[str, int], number: int) -> int:
    """Links between the worker and this host; the root has one and no entry in ``parents``."""
    links = 1
    while str(number) in parents and links <= len(parents):
        number = parents[str(number)]
        links += 1
    return links


def _table(finding: Finding) -> Table:
    table = Table(title="\nWho owns what", title_justify="left", title_style="bold")
    table.add_column("worker")
    table.add_column("subtree root")
    table.add_column("hosts", justify="right")
    table.add_column("links deep", justify="right")
    table.add_column("which", overflow="fold")
    for subtree in finding.subtrees:
        row = (subtree.worker, subtree.root, str(len(subtree.hosts)), str(subtree.depth), fold(subtree.hosts))
        table.add_row(*row)
    return table
