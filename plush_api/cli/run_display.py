"""What is shown of a run that somebody else may have submitted: lines, a panel, JSON or files, whatever was asked for.

Puts together renderers, follower and summary, as ``watch.RunWatch`` does for ``plush run``. Looks only: nothing here
ends a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plush_worker.model import HostState
from plush_worker.node.messages import STDERR, STDOUT

from .console import Console
from .follow import Follower, NoControl
from .json_lines import JsonRenderer
from .output import Renderer
from .process_output import ProcessOutput
from .render import LineRenderer, Tee
from .run_progress import RunProgress
from .summary import counts, exit_code, failure_lines
from .view import Outcome

if TYPE_CHECKING:
    from plush_api.client import Client

    from .outdir import OutputFolder

EXIT_NO_SUCCESS = 1  # of a run that failed although no host has an exit code that says so


class RunDisplay:
    """One run and what is shown of it.

    Give ``show`` what ``lines``, ``json_lines`` or ``files`` made, or nothing; then ``catch_up`` or ``follow``.
    """

    def __init__(self, client: Client, run_id: str, console: Callable[[RunProgress], Console]) -> None:
        self.progress = RunProgress(client.spec(run_id))
        self.console = console(self.progress)
        self._client = client
        self._json: list[JsonRenderer] = []
        self._output: ProcessOutput | None = None

    def show(self, output: ProcessOutput) -> None:
        """Show output so."""
        self._output = output

    def lines(
        self,
        *,
        prefixed: bool = True,
        streams: tuple[int, ...] = (STDOUT, STDERR),
        wanted: Callable[[], int] | None = None,
        only: str = "",
    ) -> ProcessOutput:
        """``host: line``, and ``host/process: line`` where the run has several."""

        def make(process: str) -> Renderer:
            def name_of(number: int) -> str:
                name = self.progress.name_of(number)
                return f"{name}/{process}" if process and not only else name

            return LineRenderer(self.console, name_of, prefixed=prefixed, streams=streams)

        return ProcessOutput(self.progress, make, wanted=wanted, only=only)

    def json_lines(self, folder: Path | None = None) -> ProcessOutput:
        """One JSON object for each host and process, as ``plush run --json`` has them."""

        def make(process: str) -> Renderer:
            stored = self._folder(folder, process) if folder else None
            large = partial(self._large_output_folder, process)
            shown = JsonRenderer(self.console, self.progress.name_of, large, stored, process)
            self._json.append(shown)
            return Tee(stored, shown) if stored else shown

        return ProcessOutput(self.progress, make, deploys=False)

    def files(self, folder: Path) -> ProcessOutput:
        """A file for each host; in a folder for each process where there are several."""
        return ProcessOutput(self.progress, lambda process: self._folder(folder, process), deploys=False)

    def catch_up(self) -> None:
        """Show what there is by now. Raises PlushError."""
        self._follower().catch_up()
        self._finish(ended=self.progress.finished)

    def follow(self) -> None:
        """Show what there is and what comes, to the end of the run. Raises PlushError, OutputClosed."""
        self._follower().follow()
        self._finish(ended=True)

    def conclude(self, *, quiet: bool = False) -> int:
        """The failures on stderr, or the summary as JSON. Returns the exit code of the run."""
        from plush_worker.experiment.host_ranges import fold

        if self._json:
            self._json[0].summary(counts(self.progress, self._wall_s()) | {"state": self.progress.state_name})
        self.console.flush()
        for line in failure_lines(self.progress, {}, fold) if not quiet else ():
            self.console.say(line)
        return run_exit_code(self.progress)

    def _follower(self) -> Follower:
        renderer: Renderer = self._output or Tee()
        return Follower(
            self._client,
            self.progress.spec.run_id,
            self.progress,
            renderer,
            self.console,
            NoControl(),
            records=self._output or NoOutput(),
        )

    def _finish(self, *, ended: bool) -> None:
        if self._output is None:
            return
        if not ended:  # the last lines of hosts that go on
            rest = self.progress.targets & ~self.progress.ended
            self._output.flush(rest)
            if rest and not self._json:
                self._output.ended(Outcome(rest, HostState.UNKNOWN))
        self._output.finish()
        self.console.flush()

    def _wall_s(self) -> float:
        progress = self.progress
        return max(0, (progress.finished_ms or round(time.time() * 1000)) - progress.submitted_ms) / 1000

    def _folder(self, folder: Path, process: str) -> OutputFolder:
        from .outdir import OutputFolder, safe_file_name

        return OutputFolder(folder / safe_file_name(process) if process else folder, self.progress.name_of)

    def _large_output_folder(self, process: str) -> Path:
        from plush_worker import xdg

        from .outdir import safe_file_name

        folder = xdg.private_dir(xdg.private_dir(xdg.state_dir()) / "output") / self.progress.spec.run_id
        return folder / safe_file_name(process) if process else folder


class NoOutput:
    """Where output goes that nobody asked for."""

    def record(self, hosts: int, op: int, stream: int, flags: int, offset: int, data: bytes) -> None:
        """See process_output.Records."""

    def flush(self, hosts: int) -> None:
        """See process_output.Records."""


def run_exit_code(progress: RunProgress) -> int:
    """That of ``plush run``; 0 for a run that succeeded by its quorum, never 0 for one that did not succeed."""
    if progress.final_state == "succeeded":
        return 0
    code = exit_code(progress.outcomes)
    return code or EXIT_NO_SUCCESS if progress.final_state else code
