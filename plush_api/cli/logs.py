"""``plush logs``: what the hosts of a run printed, as lines; from the beginning, and with ``-f`` as it comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated

import typer

from plush_worker.errors import EXIT_INTERRUPTED
from plush_worker.node import hostset
from plush_worker.node.messages import STDERR, STDOUT

from .console import STDOUT as TO_STDOUT
from .console import Console, OutputClosed
from .pieces import Tracks
from .run_ids import RunArgument, find_run
from .view import Outcome
from .watch_run import EXIT_PIPE

LINE_BYTES = 1 << 20  # kept of a line that isn't whole


def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on to the end of the run.")] = False,
    hosts: Annotated[
        list[str] | None,
        typer.Option("-w", metavar="HOSTS", help="Only of these hosts of the run."),
    ] = None,
    stderr: Annotated[bool, typer.Option("--stderr", help="Standard error only.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Standard output only.")] = False,
    process: Annotated[str, typer.Option("--process", metavar="NAME", help="Of this process only.")] = "",
    no_prefix: Annotated[bool, typer.Option("-N", help="No 'host: ' before the lines.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line of output.")] = False,
) -> None:
    """Show what the hosts printed: each line with its host, standard error on standard error."""
    from .process_output import ProcessOutput, check_process, hosts_named
    from .run_display import RunDisplay
    from .service import connect_to_service

    streams = tuple(s for s, only in ((STDOUT, stdout), (STDERR, stderr)) if only) or (STDOUT, STDERR)
    client = connect_to_service()
    try:
        display = RunDisplay(client, find_run(client, run), lambda _: Console(quiet=True))
        progress = display.progress
        check_process(progress, process)
        wanted = hosts_named(progress, hosts or ())
        if as_json:
            display.show(
                ProcessOutput(
                    progress,
                    lambda name: JsonLines(display.console, progress.name_of, name, streams),
                    wanted=wanted,
                    only=process,
                )
            )
        else:
            display.show(display.lines(prefixed=not no_prefix, streams=streams, wanted=wanted, only=process))
        if follow:
            display.follow()
        else:
            display.catch_up()
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except OutputClosed:
        raise typer.Exit(EXIT_PIPE) from None
    finally:
        client.close()


class JsonLines:
    """A renderer: ``{"host", "process", "stream", "line"}`` for each line that is whole, or the last of its host.

    A line of more than 1 MiB comes in several objects, all but the last with ``continues``. Bytes that aren't UTF-8
    become U+FFFD; ``plush results --json`` has them as they were.
    """

    def __init__(self, console: Console, name_of: Callable[[int], str], process: str, streams: tuple[int, ...]) -> None:
        self._console = console
        self._name_of = name_of
        self._process = {"process": process} if process else {}
        self._kept = {stream: Tracks() for stream in streams}

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """See Renderer."""
        kept = self._kept.get(stream)
        if kept is None:
            return
        cut = data.rfind(b"\n") + 1
        for track in kept.cover(hosts):
            if cut:
                whole = b"".join(kept.chunks(track)) + data[:cut]
                kept.clear(track)
                self._show(track.hosts, stream, whole)
            if data[cut:]:
                kept.extend(track, data[cut:])
            if track.size_bytes > LINE_BYTES:
                self._show(track.hosts, stream, b"".join(kept.chunks(track)), continues=True)
                kept.clear(track)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """See Renderer; as an object with ``lost_bytes``."""
        for number in hostset.members(hosts) if stream in self._kept else ():
            self._write(number, stream, {"lost_bytes": lost_bytes})

    def ended(self, outcome: Outcome) -> None:
        """See Renderer."""
        for stream, kept in self._kept.items():
            for track in kept.cover(outcome.hosts):
                if track.size_bytes:
                    self._show(track.hosts, stream, b"".join(kept.chunks(track)))
            kept.drop(outcome.hosts)

    def finish(self) -> None:
        """See Renderer."""
        for kept in self._kept.values():
            kept.close()

    def _show(self, hosts: int, stream: int, data: bytes, *, continues: bool = False) -> None:
        lines = data.removesuffix(b"\n").split(b"\n")
        more = {"continues": True} if continues else {}
        for number in hostset.members(hosts):
            for line in lines:
                self._write(number, stream, {"line": line.decode("utf-8", "replace"), **more})

    def _write(self, number: int, stream: int, values: dict[str, object]) -> None:
        head = {"host": self._name_of(number), **self._process, "stream": "stdout" if stream == STDOUT else "stderr"}
        self._console.write(TO_STDOUT, json.dumps(head | values).encode() + b"\n")
