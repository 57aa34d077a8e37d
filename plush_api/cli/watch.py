"""A run that has been submitted, watched to its end: output, failures, summary, exit code.

Puts together renderers, follower and summary as the options say. Imported after the submission, so that the workers
don't wait for it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plush_worker.errors import EXIT_UNREACHABLE, PlushError, ServiceUnavailable

from .console import STDOUT, Console, OutputClosed
from .follow import Follower
from .output import Renderer
from .render import LineRenderer, OrderedRenderer, Tee
from .submission import make_spec
from .summary import counts, exit_code, failure_lines
from .view import RunView

if TYPE_CHECKING:
    from plush_api.client import Client
    from plush_worker.experiment.directory import Resolved
    from plush_worker.model import RunSpec

    from .control import RunControl
    from .json_lines import JsonRenderer
    from .options import RunOptions

EXIT_PIPE = 141  # 128 + SIGPIPE: nobody reads our output any more


class RunWatch:
    """One run and what is shown of it."""

    def __init__(self, options: RunOptions, resolved: Resolved, spec: RunSpec, console: Console) -> None:
        self.view = RunView(spec)
        self._options = options
        self._resolved = resolved
        self._spec = spec
        self._console = console
        self._names = [entry.name for entry in resolved.entries]
        self._json: JsonRenderer | None = None
        self._renderer = self._make_renderer()

    def to_the_end(
        self, client: Client, control: RunControl, failure: Callable[[], str | None] | None, began_s: float
    ) -> int:
        """Follow the run, show everything, return the exit code. Raises Abandoned. ``began_s`` is monotonic."""
        view, console = self.view, self._console
        follower = Follower(client, self._spec.run_id, view, self._renderer, console, control, failure=failure)
        try:
            follower.perform([e for name, why in self._resolved.rejected.items() for e in view.reject(name, why)])
            follower.follow()
            self.conclude(time.monotonic() - began_s)
        except (OutputClosed, PlushError, OSError) as error:
            return self._give_up(follower, control, error)
        return exit_code(view.outcomes, interrupted_by=control.interrupted_by)

    def conclude(self, wall_s: float) -> None:
        """Everything that comes at the end: what was kept back, the summary, the failures."""
        from plush_worker.experiment.host_ranges import fold

        self._renderer.finish()
        if self._json:
            self._json.summary(counts(self.view, wall_s))
        elif not self._spec.command:  # hosts only joined the mesh
            self._console.write(STDOUT, f"{self.view.up_text}\n".encode())
        self._console.flush()
        for line in failure_lines(self.view, {e.name: e.address for e in self._resolved.entries}, fold):
            self._console.say(line)

    def show_rejected(self) -> None:
        """Results of the names that were rejected, where nothing is submitted."""
        for name, why in self._resolved.rejected.items():
            self.view.reject(name, why)
        for outcome in self.view.outcomes:
            self._renderer.ended(outcome)

    def _give_up(self, follower: Follower, control: RunControl, error: Exception) -> int:
        """Output can't be shown or kept, or the service is gone: nobody waits for this run, so it is stopped."""
        console = self._console
        console.close_output()
        if not isinstance(error, OutputClosed):
            console.say(f"{error}; stopping the run", always=True)
        if not control.interrupted_by:
            control.stop(signal.SIGTERM)
        if isinstance(error, ServiceUnavailable):
            return error.exit_code
        try:
            follower.mute()
            follower.follow()
        except PlushError as second:
            console.say(str(second), always=True)
        return EXIT_PIPE if isinstance(error, OutputClosed) else EXIT_UNREACHABLE

    def _make_renderer(self) -> Renderer:
        """What shows the output as the options say."""
        options, name_of = self._options, self.view.name_of
        shown: Renderer
        folder = None
        if options.outdir:
            from .outdir import OutputFolder

            folder = OutputFolder(Path(options.outdir), name_of)
        if options.json:
            from .json_lines import JsonRenderer

            shown = self._json = JsonRenderer(self._console, name_of, self._large_output_folder, folder)
        else:
            lines = LineRenderer(self._console, name_of, prefixed=not options.no_prefix, alone=len(self._names) == 1)
            shown = lines
            if options.ordered:
                shown = OrderedRenderer(lines, self._in_order)
            elif options.gather or options.gather_stderr:
                from .gather import GatherRenderer

                shown = GatherRenderer(self._console, name_of, lines, with_stderr=options.gather_stderr)
        return Tee(folder, shown) if folder else shown

    def _large_output_folder(self) -> Path:
        """Where ``--json`` puts outputs beyond 1 MiB; they stay there."""
        from plush_worker import xdg

        return xdg.private_dir(xdg.private_dir(xdg.state_dir()) / "output") / self._spec.run_id

    def _in_order(self) -> list[int]:
        numbers = {name: number for number, name in self.view.names.items()}
        return [numbers[name] for name in self._names if name in numbers]


def report_rejected(options: RunOptions, resolved: Resolved, console: Console) -> int:
    """Every name was rejected: their results, and no service is needed for that."""
    watch = RunWatch(options, resolved, make_spec((), resolved.settings, options.command), console)
    watch.show_rejected()
    watch.conclude(0.0)
    return EXIT_UNREACHABLE
