"""``plush slice``: the slices that runs may use, and their hosts."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from plush_worker.errors import UsageError

from .host_options import AsJson, DirectoryFile

_COLUMNS = ("SLICE", "HOSTS", "PLANNER", "INNER LOGIN")

app = typer.Typer(no_args_is_help=True, help="Slices: named sets of hosts, with how they are reached.")


@app.command("ls")
def list_slices(directory: DirectoryFile = "", as_json: AsJson = False) -> None:
    """List the slices of the host directory; of a service elsewhere those that your token may use."""
    from .ps import print_table
    from .slice_source import slice_source

    with slice_source(directory) as source:
        slices = source.slices()
    if as_json:
        for found in slices:
            print(json.dumps(found))
        return
    rows = [
        [s["name"], str(s["hosts_count"]), str(s.get("planner", "")), str(s.get("inner_login", ""))] for s in slices
    ]
    print_table(_COLUMNS, rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="SLICE", help="Its name.")],
    directory: DirectoryFile = "",
    as_json: AsJson = False,
) -> None:
    """Show a slice: its hosts and its settings."""
    from plush_worker.experiment.directory import nearest
    from plush_worker.experiment.host_ranges import fold

    from .slice_source import slice_source

    with slice_source(directory) as source:
        known = source.slices()
        found = next((s for s in known if s["name"] == name), None)
        if found is None:
            raise UsageError(f"there is no slice {name!r} in {source.where}{nearest(name, [s['name'] for s in known])}")
        hosts = source.hosts(name)
    if as_json:
        print(json.dumps({**found, "hosts": hosts}))
        return
    for key, value in found.items():
        if value not in ("", None, [], {}):
            print(f"{key:<22} {', '.join(map(str, value)) if isinstance(value, list) else value}")
    print(f"{'hosts':<22} {fold(host['name'] for host in hosts)}")
