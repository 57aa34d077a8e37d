"""``plush demo``: the main job on one machine, shown step by step.

Real sshd on loopback addresses as hosts (``local_hosts.py``), an embedded stack with several workers
(``embedded.py``), and the commands that anybody would type, run as processes of their own. Everything is taken down at
the end, and that is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plush_api.demo_finding import Finding, look, owner_table, result_table
from plush_api.embedded import EmbeddedStack
from plush_api.local_hosts import SLICE, LocalHosts
from plush_worker.errors import PlushError

COMMAND = 'echo "up, Python $(python3 -V 2>&1 | cut -d" " -f2), reached from ${SSH_CONNECTION%% *}"'
QUIET_LIMIT_S = 10.0
SHOWN = 5
MANY_HOSTS = 64  # for more, no line each


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
                finding = _show(console, up, stack, workers)
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
    console.print(f"[bold green]{finding.ok} of {len(finding.rows)} hosts ok.[/]")


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


def _show(console: Console, up: LocalHosts, stack: EmbeddedStack, workers: int) -> Finding:
    """Type the commands; then look into the store."""
    environ = {**os.environ, "PLUSH_REDIS_URL": stack.redis_url}
    chosen = ["-w", up.names, "--directory", str(up.directory), "--slice", SLICE]
    folder = str(up.folder)
    console.print("\nThe tree that will be used:", style="bold")
    _type(console, ["tree", "plan", *chosen, "--workers", str(workers)], environ, folder)
    console.print("\nThe first run weaves the mesh and starts on each host as soon as it is up:", style="bold")
    _type(console, ["run", *chosen, "--gather", "--", COMMAND], environ, folder)
    console.print("\nThe mesh stands, so a second run needs no login:", style="bold")
    _type(console, ["run", *chosen, "--gather", "--", "true"], environ, folder)
    finding = asyncio.run(look(stack.redis_url))
    if len(finding.rows) <= MANY_HOSTS:
        console.print(result_table(finding))
    console.print(owner_table(finding))
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
