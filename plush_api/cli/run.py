"""``plush run``: a command on many hosts, from the command line to the exit code.

Owns the order of things: options, hosts, service, submission, following, summary. Imported by ``app`` before anything
else, so nothing here may import what it doesn't need before the first request (150 ms from the start of the process).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from plush_worker.errors import EXIT_INTERRUPTED, EXIT_UNREACHABLE, PlushError, ServiceUnavailable
from plush_worker.model import SliceSettings

from .console import Console, OutputClosed
from .options import RunOptions, help_text, parse
from .submission import make_spec
from .view import RunView

if TYPE_CHECKING:
    from pathlib import Path

    from plush_api.client import Client
    from plush_worker.experiment.directory import Resolved

    from .control import RunControl
    from .follow import Follower
    from .json_lines import JsonRenderer
    from .output import Renderer
    from .service import FoundService

EXIT_PIPE = 141  # 128 + SIGPIPE: nobody reads our output any more


def main(words: Sequence[str]) -> int:
    """Run ``plush run WORDS`` and return its exit code."""
    options = parse(words)
    if options.help:
        sys.stdout.write(help_text())
        return 0
    console = Console(quiet=options.quiet)
    resolved = resolve_hosts(options)
    for note in resolved.notes:
        console.say(note)
    settings = settings_of(options, resolved.settings)
    if not resolved.entries:
        return report_rejected(options, resolved, console)
    with ExitStack() as stack:
        from .service import find_or_start_service

        service = find_or_start_service(options.workers, console, stack)
        client = service.connect()
        stack.callback(client.close)
        return follow_run(options, resolved, settings, console, client, service)[0]


def resolve_hosts(options: RunOptions) -> Resolved:
    """The hosts that were named. Raises PlushError when there are none."""
    from plush_worker.experiment.directory import HostOptions, resolve

    return resolve(
        options.hosts,
        HostOptions(
            exclude=tuple(options.exclude),
            login=options.login,
            config_file=options.ssh_config,
            hostfiles=tuple(options.hostfiles),
            directory=options.directory,
            slice=options.slice,
        ),
        read_stdin=sys.stdin.read,
    )


def settings_of(options: RunOptions, settings: SliceSettings) -> SliceSettings:
    """The slice's settings with what the command line says instead."""
    from dataclasses import replace

    if options.planner:
        settings = replace(settings, planner=options.planner)
    if options.connect_timeout_s:
        settings = replace(settings, connect_timeout_s=options.connect_timeout_s)
    return settings


def report_rejected(options: RunOptions, resolved: Resolved, console: Console) -> int:
    """Every name was rejected: their results, and no service is needed for that."""
    view = RunView(make_spec((), resolved.settings, options.command))
    for name, why in resolved.rejected.items():
        view.reject(name, why)
    renderer, json_renderer = _renderers(options, view, console, [], "none")
    for outcome in view.outcomes:
        renderer.ended(outcome)
    renderer.finish()
    _conclude(view, json_renderer, console, resolved, 0.0)
    return EXIT_UNREACHABLE


def follow_run(
    options: RunOptions,
    resolved: Resolved,
    settings: SliceSettings,
    console: Console,
    client: Client,
    service: FoundService,
) -> tuple[int, RunView]:
    """Submit the run and stay with it to its end. Returns the exit code and what is known then."""
    from .control import LEASE_S, Abandoned, RunControl
    from .follow import Follower
    from .summary import exit_code

    spec = make_spec(
        resolved.entries,
        settings,
        options.command,
        timeout_s=options.timeout_s,
        together=options.together,
        fanout=options.fanout,
        client_lease_s=LEASE_S,
    )
    view = RunView(spec)
    began = time.monotonic()
    renderer, json_renderer = _renderers(options, view, console, [e.name for e in resolved.entries], spec.run_id)
    with RunControl(service.connect, spec.run_id) as control:
        client.submit(spec)
        follower = Follower(client, spec.run_id, view, renderer, console, control, failure=service.failure)
        try:
            follower.perform([e for name, why in resolved.rejected.items() for e in view.reject(name, why)])
            follower.follow()
            renderer.finish()
        except Abandoned:
            console.say(f"left without waiting for the end of run {spec.run_id}", always=True)
            return EXIT_INTERRUPTED, view
        except (OutputClosed, PlushError, OSError) as error:
            return _give_up(follower, control, console, error), view
        _conclude(view, json_renderer, console, resolved, time.monotonic() - began)
        return exit_code(view.outcomes, interrupted_by=control.interrupted_by), view


def _give_up(follower: Follower, control: RunControl, console: Console, error: Exception) -> int:
    """Output can't be shown or kept, or the service is gone: nobody waits for this run, so it is stopped."""
    import signal

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


def _renderers(
    options: RunOptions, view: RunView, console: Console, names: list[str], run_id: str
) -> tuple[Renderer, JsonRenderer | None]:
    """What shows the output as the options say; the JSON renderer besides, if it is that."""
    from .render import LineRenderer, OrderedRenderer, Tee

    folder = None
    if options.outdir:
        from pathlib import Path as FolderPath

        from .outdir import OutputFolder

        folder = OutputFolder(FolderPath(options.outdir), view.name_of)
    shown: Renderer
    json_renderer = None
    if options.json:
        from .json_lines import JsonRenderer

        shown = json_renderer = JsonRenderer(console, view.name_of, lambda: _large_output_folder(run_id), folder)
    else:
        lines = LineRenderer(console, view.name_of, prefixed=not options.no_prefix, alone=len(names) == 1)
        shown = lines
        if options.ordered:
            shown = OrderedRenderer(lines, lambda: _in_order(view, names))
        elif options.gather or options.gather_stderr:
            from .gather import GatherRenderer

            shown = GatherRenderer(console, view.name_of, lines, with_stderr=options.gather_stderr)
    return (Tee(folder, shown) if folder else shown), json_renderer


def _large_output_folder(run_id: str) -> Path:
    """Where ``--json`` puts outputs beyond 1 MiB; they stay there."""
    from plush_worker import xdg

    return xdg.private_dir(xdg.private_dir(xdg.state_dir()) / "output") / run_id


def _in_order(view: RunView, names: list[str]) -> list[int]:
    numbers = {name: number for number, name in view.names.items()}
    return [numbers[name] for name in names if name in numbers]


def _conclude(
    view: RunView, json_renderer: JsonRenderer | None, console: Console, resolved: Resolved, wall_s: float
) -> None:
    """The summary and the failures, at the end."""
    from plush_worker.experiment.host_ranges import fold

    from .summary import counts, failure_lines

    if json_renderer:
        json_renderer.summary(counts(view, wall_s))
    console.flush()
    for line in failure_lines(view, {entry.name: entry.address for entry in resolved.entries}, fold):
        console.say(line)
