"""The output of a run with several processes: each process's streams to a renderer of its own.

Owns which records are shown: of which hosts and which process. For the records and the ends of hosts it stands where
``output.Assembler`` and a renderer stand for a run with one command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from plush_worker.errors import UsageError
from plush_worker.node.messages import STDOUT
from plush_worker.run_parts import DEPLOY, FETCH

from .output import Assembler, Renderer
from .run_progress import RunProgress
from .view import Outcome


class Records(Protocol):
    """Something that takes the records of segments in."""

    def record(self, hosts: int, op: int, stream: int, flags: int, offset: int, data: bytes) -> None:
        """One record of a segment."""

    def flush(self, hosts: int) -> None:
        """Nothing more comes of these hosts."""


class ProcessOutput:
    """``make(process)`` makes the renderer of one process; the name is empty for a single command.

    ``wanted()``: the hosts whose output is shown, asked when some comes. ``only``: the one process that is shown.
    ``deploys``: whether what the copying of files says is shown, under the name ``deploy``.
    """

    def __init__(
        self,
        progress: RunProgress,
        make: Callable[[str], Renderer],
        *,
        wanted: Callable[[], int] | None = None,
        only: str = "",
        deploys: bool = True,
    ) -> None:
        self._progress = progress
        self._make = make
        self._wanted = wanted
        self._only = only
        self._deploys = deploys
        self._renderers: dict[str, Renderer] = {}
        self._assemblers: dict[str, Assembler] = {}
        for process in [only] if only else progress.processes:
            self._renderer(process)

    def record(self, hosts: int, op: int, stream: int, flags: int, offset: int, data: bytes) -> None:
        """See Records."""
        kind, name = self._progress.ops.get(op, ("exec", ""))
        if kind == FETCH and stream == STDOUT:
            return  # the files themselves
        process = DEPLOY if kind == DEPLOY else name
        if (self._only and process != self._only) or (process == DEPLOY and kind == DEPLOY and not self._deploys):
            return
        if self._wanted is not None:
            hosts &= self._wanted()
        if hosts:
            self._renderer(process)
            self._assemblers[process].record(hosts, op, stream, flags, offset, data)

    def flush(self, hosts: int) -> None:
        """See Records."""
        for assembler in self._assemblers.values():
            assembler.flush(hosts)

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Not used: output comes as records."""
        raise NotImplementedError

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Not used: gaps come as records."""
        raise NotImplementedError

    def ended(self, outcome: Outcome) -> None:
        """See Renderer: each process's renderer learns how the process ended."""
        for process, renderer in list(self._renderers.items()):
            for own in self._progress.process_outcomes(process, outcome):
                renderer.ended(own)

    def finish(self) -> None:
        """See Renderer."""
        for renderer in self._renderers.values():
            renderer.finish()

    def _renderer(self, process: str) -> Renderer:
        found = self._renderers.get(process)
        if found is None:
            found = self._renderers[process] = self._make(process)
            self._assemblers[process] = Assembler(found)
        return found


def check_process(progress: RunProgress, process: str) -> None:
    """Raises UsageError when the run has no process of this name."""
    if process and process not in (*progress.processes, DEPLOY):
        known = ", ".join(name for name in progress.processes if name) or "none with a name"
        raise UsageError(f"--process {process}: the run has no such process; it has {known}")


def hosts_named(progress: RunProgress, texts: Sequence[str]) -> Callable[[], int] | None:
    """What tells the hosts of ``-w`` texts (names and ranges, as the run has them); None: all hosts.

    Raises UsageError when the run has no host of a name.
    """
    if not texts:
        return None
    from plush_worker.experiment.directory import nearest
    from plush_worker.experiment.host_list import read_host_list

    known = [str(host["name"]) for host in progress.spec.hosts]
    names = read_host_list(texts, group=lambda name: known if name == "all" else _no_group(name)).names
    for name in names:
        if name not in known:
            raise UsageError(f"-w {name}: not a host of this run{nearest(name, known)}")
    wanted = frozenset(names)
    mask, counted = 0, -1

    def hosts() -> int:
        nonlocal mask, counted
        if counted != len(progress.names):
            counted = len(progress.names)
            mask = sum(1 << number for number, name in progress.names.items() if name in wanted)
        return mask

    return hosts


def _no_group(name: str) -> list[str]:
    raise LookupError(f"@{name}: of a run's hosts, name hosts and ranges; @all is all of them")
