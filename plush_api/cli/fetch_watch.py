"""A fetch that has been submitted: unpacks what each host sends into its folder, tells how it went.

Standard output of the op is the files (``unpacking.py``), standard error the hosts' own problems.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plush_worker.errors import EXIT_FAILURE, UsageError
from plush_worker.node import hostset
from plush_worker.node.messages import STDERR
from plush_worker.node.messages import STDOUT as FILES

from .console import STDOUT, Console
from .outdir import safe_file_name
from .output import Renderer
from .render import LineRenderer
from .summary import counts
from .unpacking import Unpacker
from .view import Outcome
from .watch import RunWatch

if TYPE_CHECKING:
    from plush_worker.experiment.directory import Resolved
    from plush_worker.model import RunSpec

    from .options import RunOptions

STDERR_BYTES = 64 << 10  # of a host's problems, kept for --json


def make_folder(folder: str) -> None:
    """Make the folder that everything goes to, before anything is asked of hosts. Raises UsageError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: no permission to write there")


class FetchRenderer:
    """Unpacks standard output into ``folder``; shows standard error with ``lines``, or with None one object a host."""

    def __init__(
        self, folder: Path, console: Console, name_of: Callable[[int], str], lines: LineRenderer | None
    ) -> None:
        self.failed = False  # something could not be put in its place here
        self._folder = folder
        self._console = console
        self._name_of = name_of
        self._lines = lines
        self._unpackers: dict[int, Unpacker] = {}
        self._said: dict[int, bytes] = {}  # without ``lines``: host -> its standard error
        _allow_many_files()

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """See Renderer."""
        if stream == STDERR and self._lines is not None:
            self._lines.output(hosts, stream, data)
            return
        for number in hostset.members(hosts):
            if stream == FILES:
                self._unpacker(number).feed(data)
            else:
                self._said[number] = (self._said.get(number, b"") + data)[:STDERR_BYTES]

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """See Renderer."""
        for number in hostset.members(hosts):
            if stream == FILES:
                self._unpacker(number).lose(lost_bytes)

    def ended(self, outcome: Outcome) -> None:
        """See Renderer."""
        for number in hostset.members(outcome.hosts):
            unpacker = self._unpacker(number)
            self._finish(number)
            said = self._said.pop(number, b"").decode("utf-8", "replace").splitlines()
            self._tell(self._name_of(number), outcome, unpacker, said + unpacker.problems)
        if outcome.name:
            self._tell(outcome.name, outcome, Unpacker(self._folder), [])
        if self._lines is not None:
            self._lines.ended(outcome)

    def finish(self) -> None:
        """Nothing half-written stays."""
        for number in list(self._unpackers):
            self._finish(number)
        if self._lines is not None:
            self._lines.finish()

    def _unpacker(self, number: int) -> Unpacker:
        found = self._unpackers.get(number)
        if found is None:
            found = Unpacker(self._folder / safe_file_name(self._name_of(number)))
            self._unpackers[number] = found
        return found

    def _finish(self, number: int) -> None:
        unpacker = self._unpackers.pop(number)
        unpacker.finish()
        self.failed = self.failed or bool(unpacker.problems)
        for problem in unpacker.problems if self._lines is not None else ():
            self._console.say(f"{self._name_of(number)}: {problem}", always=True)

    def _tell(self, name: str, outcome: Outcome, unpacker: Unpacker, problems: list[str]) -> None:
        if self._lines is not None:
            return
        told: dict[str, Any] = {"host": name, "state": str(outcome.state), "code": outcome.code}
        told |= {"signal": outcome.signal, "error": "; ".join(filter(None, [outcome.error, *problems]))}
        told |= {"files": unpacker.files_count, "bytes": unpacker.size_bytes}
        self._console.write(STDOUT, json.dumps(told).encode() + b"\n")


class FetchWatch(RunWatch):
    """A RunWatch whose output is files, which go into ``folder``."""

    def __init__(self, folder: str, options: RunOptions, resolved: Resolved, spec: RunSpec, console: Console) -> None:
        self._folder = Path(folder)
        super().__init__(options, resolved, spec, console)

    def to_the_end(self, *arguments: Any) -> int:
        """See RunWatch; at least 1 when a file could not be put in its place."""
        try:
            code = super().to_the_end(*arguments)
        finally:
            self._files.finish()
        return code or (EXIT_FAILURE if self._files.failed else 0)

    def conclude(self, wall_s: float) -> None:
        """See RunWatch."""
        super().conclude(wall_s)
        if self._options.json:
            summary = {"summary": counts(self.view, wall_s)}
            self._console.write(STDOUT, json.dumps(summary).encode() + b"\n")
            self._console.flush()

    def _make_renderer(self) -> Renderer:
        name_of = self.view.name_of
        lines = None if self._options.json else LineRenderer(self._console, name_of, streams=(STDERR,))
        self._files = FetchRenderer(self._folder, self._console, name_of, lines)
        return self._files


def _allow_many_files() -> None:
    """One file of every host may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
