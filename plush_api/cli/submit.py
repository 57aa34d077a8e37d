"""``plush submit``: an experiment as a run that goes on by itself."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .host_options import DirectoryFile, SshConfig

if TYPE_CHECKING:
    from plush_worker.model import RunSpec


def submit(
    file: Annotated[str, typer.Argument(metavar="EXP.yaml", help="The experiment; - for standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run to its end, as plush watch does.")] = False,
    plain: Annotated[bool, typer.Option("--lines", help="With --watch: lines of output, on a terminal too.")] = False,
    ssh_config: SshConfig = "",
    directory: DirectoryFile = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No notes.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object; with --watch one a host, then the summary.")
    ] = False,
) -> None:
    """Submit an experiment and print the id of its run, which goes on without this command.

    Files that it names are relative to its folder (for -: to the current one). With --watch the exit code is that of
    the run, as of plush run, and Ctrl-C leaves it to itself.
    """
    from .service import connect_to_service
    from .validate import read_experiment
    from .watch_run import watch_to_the_end

    experiment = read_experiment(file)
    base_dir = os.path.dirname(os.path.abspath(file)) if file != "-" else os.getcwd()
    client = connect_to_service()
    try:
        spec = client.submit_experiment(experiment, base_dir, directory, ssh_config)
        if not watch:
            _tell(spec, as_json=as_json, quiet=quiet)
            return
        if not as_json and not quiet:
            print(_text(spec), file=sys.stderr)
        code = watch_to_the_end(client, spec.run_id, as_json=as_json, plain=plain, quiet=quiet)
    finally:
        client.close()
    raise typer.Exit(code)


def _tell(spec: RunSpec, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps({"run": spec.run_id, "name": spec.name, "hosts": len(spec.hosts), "state": "submitted"}))
        return
    print(spec.run_id)
    if not quiet and sys.stderr.isatty():
        from .app import say

        say(f"{_text(spec)}; plush watch {spec.run_id[:8]} shows how it goes")


def _text(spec: RunSpec) -> str:
    hosts = f"{len(spec.hosts)} host" + ("" if len(spec.hosts) == 1 else "s")
    return f"run {spec.run_id}" + (f" ({spec.name})" if spec.name else "") + f" on {hosts}"
