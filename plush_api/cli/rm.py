"""``plush rm``: forget runs that have ended, and what they printed."""

from __future__ import annotations

import json
from signal import SIGTERM
from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import RunNotFound, UserError

from .run_ids import find_run

if TYPE_CHECKING:
    from plush_api.client import Client

KILL_GRACE_S = 5.0


class RunGoesOn(UserError):
    """A run that has not ended can't be removed."""

    code = "run_goes_on"
    exit_code = 1


def rm(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Ids, or their beginnings; -: the newest."),
    ],
    force: Annotated[bool, typer.Option("--force", help="End what goes on first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a run.")] = False,
) -> None:
    """Remove ended runs: everything that is known of them, and what they printed."""
    from .service import connect_to_service

    client = connect_to_service()
    try:
        for run_id in dict.fromkeys(find_run(client, text) for text in runs):
            remove(client, run_id, force=force)
            print(json.dumps({"run": run_id, "state": "removed"}) if as_json else f"{run_id}: removed")
    finally:
        client.close()


def remove(client: Client, run_id: str, *, force: bool) -> None:
    """Remove a run; ``force``: end it first. Raises RunGoesOn, RunNotFound."""
    from .kill import end_run
    from .ps import final_state

    if not final_state(client.run(run_id)):
        if not force:
            raise RunGoesOn(f"run {run_id} has not ended: 'plush kill {run_id}' ends it, 'plush rm --force' does both")
        if not end_run(client, run_id, SIGTERM, KILL_GRACE_S, "plush rm"):
            raise RunGoesOn(
                f"run {run_id} has not confirmed its end; try again, 'plush status {run_id}' says how far it is"
            )
    if not client.remove(run_id):
        raise RunNotFound(f"there is no run {run_id} any more")
