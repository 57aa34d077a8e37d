"""``plush ps``: the runs that the service knows, newest first."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plush_worker.errors import UsageError

if TYPE_CHECKING:
    from plush_api.client import Client

COMMAND_CHARS = 50
MAX_LOOKED_AT = 10_000  # runs, where only some are asked for
STATES = ("waiting", "running", "stopping", "succeeded", "failed", "killed")
_COLUMNS = ("RUN", "STATE", "HOSTS", "UP", "DONE", "AGE", "COMMAND")


def ps(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=10_000, help="At most so many.")] = 20,
    state: Annotated[
        str, typer.Option(metavar="STATE", help="Only waiting, running, stopping, succeeded, failed or killed ones.")
    ] = "",
    owner: Annotated[str, typer.Option(metavar="NAME", help="Only runs of this owner.")] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="Only runs of experiments of this name.")] = "",
) -> None:
    """List runs, newest first."""
    from .service import connect_to_service

    if state and state not in STATES:
        raise UsageError(f"--state {state}: must be one of {', '.join(STATES)}")
    wanted = {field: text for field, text in (("owner", owner), ("name", name)) if text}
    client = connect_to_service()
    try:
        rows = rows_of(client, limit, state, wanted)
    finally:
        client.close()
    if as_json:
        for row in rows:
            print(json.dumps(row))
    else:
        print_table(_COLUMNS, [_cells(row) for row in rows])


def rows_of(client: Client, limit: int, state: str, wanted: dict[str, str]) -> list[dict[str, Any]]:
    """The newest runs with this state (all: ``""``) and these fields, at most ``limit``."""
    rows: list[dict[str, Any]] = []
    for fields in client.runs(MAX_LOOKED_AT if state or wanted else limit):
        if all(fields.get(field, "") == text for field, text in wanted.items()):
            if final_state(fields) not in ("", state) and state:
                continue  # without counting its hosts
            row = row_of(client, fields, time.time())
            if row["state"] == (state or row["state"]):
                rows.append(row)
        if len(rows) == limit:
            break
    return rows


def row_of(client: Client, fields: dict[str, str], now_s: float) -> dict[str, Any]:
    """One run: id, name, state, hosts, up, done, age_s, command, owner, kind.

    A run without an end is counted by its events, unless the client has counted it.
    """
    summary = json.loads(fields.get("summary") or "{}")
    hosts = int(summary.get("hosts") or fields.get("host_count") or 0)
    state, up, done = final_state(fields), hosts - int(summary.get("unreachable", 0)), hosts
    if not state and "up" in fields:
        state, up, done = fields["state"], int(fields["up"]), int(fields["done"])
    elif not state:
        state, up, done = _count(client, fields["run_id"])
    return {
        "run": fields["run_id"],
        "state": state,
        "hosts": hosts,
        "up": up,
        "done": done,
        "age_s": round(max(0.0, now_s - float(fields.get("submitted_at") or now_s)), 1),
        "command": fields.get("command", ""),
        "owner": fields.get("owner", ""),
        "name": fields.get("name", ""),
        "kind": fields.get("kind", "") or "run",
    }


def final_state(fields: dict[str, str]) -> str:
    """How a run ended; empty while it hasn't."""
    return fields.get("state", "") if fields.get("finished") else ""


def _count(client: Client, run_id: str) -> tuple[str, int, int]:
    """(state, hosts up, hosts done) of a run that has no end yet."""
    from plush_worker.model import RunSpec
    from plush_worker.node import hostset
    from plush_worker.run_state import RunState

    state, coordinated, after = RunState(RunSpec(run_id, "", "", ())), False, ""
    while events := client.events(run_id, after, 0):
        for event_id, event in events:
            after = event_id
            coordinated = coordinated or event["type"] == "coordinator_started"
            state.fold(event)
    name = "waiting" if not coordinated or state.waiting else "running"
    return "stopping" if state.kills else name, hostset.size(state.up | state.started), hostset.size(state.ended)


def age_text(seconds: float) -> str:
    """``45s``, ``12m``, ``3h``, ``2d``."""
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length_s:
            return f"{int(seconds // length_s)}{unit}"
    return f"{int(seconds)}s"


def print_table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """Columns as wide as they need to be; the last one is not padded."""
    lines = [list(columns), *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns) - 1)]
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*padded, line[-1]]).rstrip())


def _cells(row: dict[str, Any]) -> list[str]:
    what = f"[{row['name']}] {row['command']}" if row["name"] else row["command"]
    command = "".join(c if c.isprintable() else " " for c in what).rstrip()
    if len(command) > COMMAND_CHARS:
        command = command[: COMMAND_CHARS - 3] + "..."
    counts = [str(row[name]) for name in ("hosts", "up", "done")]
    return [row["run"], row["state"], *counts, age_text(row["age_s"]), command or "(join the mesh)"]
