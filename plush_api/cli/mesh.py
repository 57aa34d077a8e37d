"""``plush mesh``: standing meshes, on which later commands start at once."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plush_worker.errors import PeerError, UsageError

if TYPE_CHECKING:
    from plush_api.client import Client

CLOSED_WITHIN_S = 20.0
POLL_S = 0.2
_COLUMNS = ("MESH", "SLICE", "OWNER", "STATE", "UP", "HOSTS", "USED", "WORKERS")

app = typer.Typer(no_args_is_help=True, help="Standing meshes: links that stay for the next command.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


class MeshNotFound(UsageError):
    """No mesh of this id."""

    code = "mesh_not_found"


@app.command("ls")
def list_meshes(as_json: AsJson = False) -> None:
    """List the standing meshes."""
    from .ps import age_text, print_table
    from .service import connect_to_service

    client = connect_to_service()
    try:
        meshes = client.meshes()
    finally:
        client.close()
    if as_json:
        for mesh in meshes:
            print(json.dumps(mesh))
        return
    now_s = time.time()
    rows = [
        [
            mesh["id"],
            mesh["slice"],
            mesh["owner"],
            mesh["state"],
            str(mesh["up"]),
            str(mesh["hosts"]),
            age_text(max(0.0, now_s - mesh["last_used"])),
            ",".join(mesh["workers"]) or "none",
        ]
        for mesh in meshes
    ]
    print_table(_COLUMNS, rows)


@app.command("up")
def bring_up(
    hosts: Annotated[list[str] | None, typer.Option("-w", metavar="HOSTS", help="Names and ranges.")] = None,
    exclude: Annotated[list[str] | None, typer.Option("-x", metavar="HOSTS", help="Leave these out.")] = None,
    login: Annotated[str, typer.Option("-l", metavar="USER", help="Log in as USER.")] = "",
    ssh_config: Annotated[str, typer.Option("-F", metavar="FILE", help="OpenSSH configuration to use.")] = "",
    hostfile: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Hosts from a file.")] = None,
    directory: Annotated[str, typer.Option(metavar="FILE", help="The host directory.")] = "",
    slice_name: Annotated[str, typer.Option("--slice", metavar="NAME", help="The slice.")] = "",
    planner: Annotated[str, typer.Option(metavar="P", help="Tree planner: auto, flat, kary, site or greedy.")] = "",
    timeout: Annotated[int | None, typer.Option("-t", min=1, metavar="SECONDS", help="Connect timeout.")] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no notes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Connect hosts now; the mesh stays until its idle time is over."""
    from .options import RunOptions

    options = RunOptions()
    options.hosts, options.exclude, options.hostfiles = hosts or [], exclude or [], hostfile or []
    options.login, options.ssh_config, options.directory, options.slice = login, ssh_config, directory, slice_name
    options.planner, options.connect_timeout_s, options.quiet, options.json = planner, timeout or 0, quiet, as_json
    raise typer.Exit(_join(options))


def _join(options: Any) -> int:
    """A run without a command: its hosts join the mesh and are done."""
    from .console import Console
    from .options import check_planner
    from .run import follow_run, resolve_hosts, settings_of
    from .service import RemoteService, find_running_service
    from .watch import report_rejected

    check_planner(options)
    console = Console(quiet=options.quiet)
    service = find_running_service()
    if isinstance(service, RemoteService):
        from .remote_run import run_remotely

        return run_remotely(options, service, console)
    resolved = resolve_hosts(options)
    for note in resolved.notes:
        console.say(note)
    if not resolved.entries:
        return report_rejected(options, resolved, console)
    with ExitStack() as stack:
        client = service.connect()
        stack.callback(client.close)
        return follow_run(options, resolved, settings_of(options, resolved.settings), console, client, service)


@app.command("down")
def bring_down(
    mesh: Annotated[str, typer.Argument(help="The mesh's id, or the beginning of it; without: all of yours.")] = "",
    kill: Annotated[bool, typer.Option("--kill", help="End what still runs on its hosts first.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until its links are closed.")] = True,
    as_json: AsJson = False,
) -> None:
    """Close a mesh: its links end, its node programs leave their hosts."""
    from .service import connect_to_service

    client = connect_to_service()
    closed: dict[str, bool] = {}
    try:
        for found in find_meshes(client.meshes(), mesh, "" if mesh else client.owner()):
            client.close_mesh(found["id"], kill=kill)
            closed[found["id"]] = not wait
        if wait and closed:
            closed = _wait_closed(client, list(closed))
    finally:
        client.close()
    for mesh_id, done in closed.items():
        state = "closed" if done and wait else "closing"
        print(json.dumps({"mesh": mesh_id, "state": state}) if as_json else f"{mesh_id}: {state}")
    if not closed and not as_json:
        print("no mesh is standing")
    if not all(closed.values()):
        raise PeerError(f"not closed within {CLOSED_WITHIN_S:g} s; 'plush mesh ls' shows what is left")


def find_meshes(meshes: list[dict[str, Any]], text: str, owner: str) -> list[dict[str, Any]]:
    """The meshes with links that ``text`` means: one whose id begins so, or all of ``owner`` when it is empty.

    Raises MeshNotFound.
    """
    if not text:
        return [mesh for mesh in meshes if mesh["owner"] == owner and mesh["total"]]
    found = [mesh for mesh in meshes if mesh["id"].startswith(text)]
    if len(found) != 1:
        known = ", ".join(mesh["id"] for mesh in meshes) or "none"
        raise MeshNotFound(f"{len(found) or 'no'} meshes begin with {text!r}; standing: {known}")
    return found


def _wait_closed(client: Client, meshes: list[str]) -> dict[str, bool]:
    deadline = time.monotonic() + CLOSED_WITHIN_S
    while True:
        standing = {mesh["id"] for mesh in client.meshes() if mesh["total"]}
        if not standing.intersection(meshes) or time.monotonic() > deadline:
            return {mesh: mesh not in standing for mesh in meshes}
        time.sleep(POLL_S)
