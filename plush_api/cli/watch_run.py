"""``plush watch``: a run as it goes on, to its end. Looking on changes nothing: Ctrl-C leaves, the run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import EXIT_INTERRUPTED

from .console import Console, OutputClosed
from .run_ids import RunArgument, find_run

if TYPE_CHECKING:
    from plush_api.client import Client

    from .live import LiveConsole
    from .run_progress import RunProgress

EXIT_PIPE = 141  # 128 + SIGPIPE


def watch(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a host, then the summary.")] = False,
    plain: Annotated[bool, typer.Option("--lines", help="Lines of output, on a terminal too.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No list of failures at the end.")] = False,
) -> None:
    """Watch a run to its end: its tree, how far it is, the slowest hosts, the last output; else lines of output.

    Exit code as of plush run. Ctrl-C leaves; the run goes on.
    """
    from .service import connect_to_service

    client = connect_to_service()
    try:
        code = watch_to_the_end(client, find_run(client, run), as_json=as_json, plain=plain, quiet=quiet)
    finally:
        client.close()
    raise typer.Exit(code)


def watch_to_the_end(
    client: Client, run_id: str, *, as_json: bool = False, plain: bool = False, quiet: bool = False
) -> int:
    """Show the run until it ends, or until Ctrl-C. Returns the exit code. Raises PlushError."""
    from .live import LiveConsole, is_live
    from .run_display import RunDisplay

    live: list[LiveConsole] = []

    def console(progress: RunProgress) -> Console:
        if as_json or plain or not is_live():
            return Console(quiet=quiet)
        live.append(LiveConsole(progress, "Ctrl-C leaves, the run goes on"))
        return live[0]

    display = RunDisplay(client, run_id, console)
    display.show(display.json_lines() if as_json else display.lines())
    try:
        display.follow()
    except KeyboardInterrupt:
        _leave(live)
        display.console.end_progress()
        display.console.say(f"left run {run_id}, which goes on", always=True)
        display.console.say(f"plush watch {run_id} returns to it; plush kill {run_id} ends it", always=True)
        return EXIT_INTERRUPTED
    except OutputClosed:
        return EXIT_PIPE
    finally:
        _leave(live)
    return display.conclude(quiet=quiet)


def _leave(live: list[LiveConsole]) -> None:
    for console in live:
        console.leave()
