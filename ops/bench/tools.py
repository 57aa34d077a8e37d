"""The tools that are measured, on given local hosts: pdsh, and ``plush run`` on its own stack or a standing one."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.bench.field import Field
from ops.bench.process import Ran, timed
from plush_api.embedded import READY_TIMEOUT_S, EmbeddedStack
from plush_api.local_hosts import SLICE, LocalHosts
from plush_worker.model import WorkerInfo
from plush_worker.node import hostset
from plush_worker.store.light import LightStore


class MeasurementFailed(Exception):
    """What was to be measured didn't work; figures of it would mean nothing."""


def pdsh(hosts: LocalHosts, command: str, fanout: int = 64) -> Ran:
    """``pdsh`` over OpenSSH. Raises MeasurementFailed."""
    if shutil.which("pdsh") is None:
        raise MeasurementFailed("pdsh is not installed")
    environ = {**os.environ, "PDSH_SSH_ARGS_APPEND": f"-F {hosts.ssh_config}"}
    ran = timed(["pdsh", "-R", "ssh", "-f", str(fanout), "-w", hosts.names, command], environ)
    heard = {line.partition(":")[0] for line in ran.stdout.splitlines()}
    if heard != set(hosts.hosts):
        raise MeasurementFailed(f"pdsh heard of {len(heard)} of {len(hosts.hosts)} hosts: {ran.stderr[:500]}")
    return ran


@dataclass(slots=True)
class Plush:
    """The command line in a folder of its own; with ``redis_url`` on a standing stack, else each command on its own."""

    folder: Path
    redis_url: str = ""

    def environ(self) -> dict[str, str]:
        """The environment of commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PLUSH_", "XDG_"))}
        kept |= {f"XDG_{name}_HOME": str(self.folder / name.lower()) for name in ("CONFIG", "STATE", "CACHE", "DATA")}
        return kept | ({"PLUSH_REDIS_URL": self.redis_url} if self.redis_url else {})

    def command(self, *words: str) -> list[str]:
        """``plush`` as a user would start it."""
        script = Path(sys.executable).with_name("plush")
        return [str(script), *words] if script.exists() else [sys.executable, "-P", "-m", "plush_api.cli.app", *words]

    def __call__(self, *words: str, timeout_s: float = 60) -> Ran:
        """Run it. Raises MeasurementFailed when it fails."""
        ran = timed(self.command(*words), self.environ(), timeout_s)
        if ran.code:
            raise MeasurementFailed(
                f"plush {' '.join(words)}: exit code {ran.code}: {(ran.stdout + ran.stderr)[-2000:]}"
            )
        return ran

    def run(
        self, hosts: LocalHosts | Field, command: str, *options: str, timeout_s: float = 60
    ) -> tuple[Ran, dict[str, Any]]:
        """``plush run --json``: how it ran, and its summary. Raises MeasurementFailed when a host isn't ok."""
        ran = self("run", *choice(hosts), "--json", *options, "--", command, timeout_s=timeout_s)
        summary: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])["summary"]
        if summary["ok"] != len(hosts.hosts):
            raise MeasurementFailed(f"plush run: {summary}: {ran.stdout[:2000]}")
        return ran, summary

    def mesh_down(self) -> None:
        """Close the standing mesh."""
        self("mesh", "down")

    # Behind the command line

    def workers(self) -> list[WorkerInfo]:
        """The live workers."""
        with LightStore.connect(self.redis_url) as store:
            return store.live_workers()

    def newest_run(self) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
        """(id, all events) of the newest run."""
        with LightStore.connect(self.redis_url) as store:
            run_id = store.runs(1)[0]["run_id"]
            return run_id, store.events(run_id, "0", count=100_000)


def choice(hosts: LocalHosts | Field) -> tuple[str, ...]:
    """The options that name all hosts."""
    slice_name = hosts.slice if isinstance(hosts, Field) else SLICE
    return ("-w", hosts.names, "--directory", str(hosts.directory), "--slice", slice_name)


@contextmanager
def sandbox() -> Iterator[Path]:
    """A short folder for XDG folders."""
    folder = Path(tempfile.mkdtemp(prefix="plush-b-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def standing(workers: int, ready_limit_s: float = READY_TIMEOUT_S) -> Iterator[Plush]:
    """A command line with a service: a server and workers that stand until the end of the block."""
    with sandbox() as folder:
        plush = Plush(folder)
        with _environment(plush.environ()), EmbeddedStack(workers) as stack:
            stack.wait_ready(ready_limit_s)
            plush.redis_url = stack.redis_url
            yield plush


@contextmanager
def _environment(environ: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def stream_time_s(event_id: str) -> float:
    """When an event was appended, by the server's clock, in seconds; the id's first part is in milliseconds."""
    return int(event_id.partition("-")[0]) / 1000


def count_of(hosts: object) -> int:
    """How many hosts an event names: the text of a host set, or a list of numbers."""
    return hostset.size(hostset.from_text(hosts)) if isinstance(hosts, str) else len(list(hosts))  # type: ignore[call-overload]
