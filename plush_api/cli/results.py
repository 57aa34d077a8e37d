"""``plush results``: how each host of a run ended, and what it printed as JSON or as files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Console, OutputClosed
from .run_ids import RunArgument, find_run
from .watch_run import EXIT_PIPE

if TYPE_CHECKING:
    from .run_display import RunDisplay
    from .run_progress import RunProgress

_COLUMNS = ("HOST", "STATE", "CODE", "ERROR")
_WITH_PROCESS = ("HOST", "PROCESS", "STATE", "CODE", "ERROR")


def results(
    run: RunArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a host, output included, then the summary.")
    ] = False,
    outdir: Annotated[
        str, typer.Option(metavar="DIR", help="Write each host's output to a file of its own; its folder is made.")
    ] = "",
) -> None:
    """Show how each host ended; with --json or --outdir also what it printed. Exit code 0, also of failed runs."""
    from .run import make_outdir
    from .run_display import RunDisplay
    from .service import connect_to_service

    if outdir:
        make_outdir(outdir)
    client = connect_to_service()
    try:
        display = RunDisplay(client, find_run(client, run), lambda _: Console())
        folder = Path(outdir) if outdir else None
        if as_json:
            display.show(display.json_lines(folder))
        elif folder:
            display.show(display.files(folder))
        display.catch_up()
        _show(display, table=not as_json and not outdir)
    except OutputClosed:
        raise typer.Exit(EXIT_PIPE) from None
    finally:
        client.close()


def _show(display: RunDisplay, *, table: bool) -> None:
    from .ps import print_table

    progress = display.progress
    if table:
        print_table(_WITH_PROCESS if len(progress.processes) > 1 else _COLUMNS, result_rows(progress))
    else:
        display.conclude(quiet=True)
    if not progress.finished:
        left = progress.hosts_count - progress.done_count
        display.console.say(f"the run goes on: {left} of {progress.hosts_count} hosts have not ended")


def result_rows(progress: RunProgress) -> list[list[str]]:
    """The table's rows: a host, or a host's process, each."""
    several = len(progress.processes) > 1
    rows: list[tuple[int, list[str]]] = []
    order = {str(host["name"]): at for at, host in enumerate(progress.spec.hosts)}
    for whole in progress.outcomes:
        for process in progress.processes if whole.hosts else [""]:
            for outcome in progress.process_outcomes(process, whole):
                for name in progress.host_names(outcome):
                    code = "" if outcome.code is None else str(outcome.code)
                    code = f"signal {outcome.signal}" if outcome.signal else code
                    cells = [name, *([process] if several else []), str(outcome.state), code, _one_line(outcome.error)]
                    rows.append((order.get(name, len(order)), cells))
    return [cells for _, cells in sorted(rows, key=lambda row: row[0])]


def _one_line(text: Any) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text))
