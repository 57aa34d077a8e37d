"""``plush kill``: end a run from anywhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import UsageError

from .run_ids import RunArgument, find_run

if TYPE_CHECKING:
    from plush_api.client import Client

CONFIRM_S = 20.0  # beyond the grace, until we stop waiting for the run's end


def kill(
    run: RunArgument,
    signal: Annotated[str, typer.Option("-s", "--signal", help="The first signal: a name or a number.")] = "TERM",
    grace: Annotated[float, typer.Option(min=0, max=86400, help="Seconds until SIGKILL.")] = 5.0,
    wait: Annotated[bool, typer.Option(help="Wait until the run has ended.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with a JSON object.")] = False,
) -> None:
    """Stop a run on all its hosts: a signal, then SIGKILL for what is left after the grace."""
    from .ps import final_state
    from .service import connect_to_service

    number = signal_number(signal)
    client = connect_to_service()
    try:
        run_id = find_run(client, run)
        state = final_state(client.run(run_id))
        if not state:
            if wait:
                state = end_run(client, run_id, number, grace, "plush kill")
                text = state or "has not confirmed its end yet"
            else:
                client.kill(run_id, number, round(grace * 1000), "plush kill")
                state, text = "stopping", "asked to stop"
        else:
            text = f"had ended already: {state}"
    finally:
        client.close()
    print(json.dumps({"run": run_id, "state": state or "stopping"}) if as_json else f"{run_id}: {text}")
    if not state:
        raise typer.Exit(1)


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM`` or ``15`` as 15. Raises UsageError."""
    import signal

    name = text.upper().removeprefix("SIG")
    found = signal.Signals.__members__.get(f"SIG{name}")
    number = int(text) if text.isascii() and text.isdigit() else int(found or 0)
    if not 1 <= number <= 64:
        raise UsageError(f"--signal {text}: no such signal; use a name such as TERM, or a number from 1 to 64")
    return number


def end_run(client: Client, run_id: str, number: int, grace_s: float, by: str) -> str:
    """Ask for the run's end and wait for it. Returns its final state; empty when it has none in time."""
    client.kill(run_id, number, round(grace_s * 1000), by)
    return _wait(client, run_id, grace_s + CONFIRM_S)


def _wait(client: Client, run_id: str, limit_s: float) -> str:
    """The run's final state; empty when it has none in time."""
    deadline = time.monotonic() + limit_s
    after = ""
    while (left_s := deadline - time.monotonic()) > 0:
        for event_id, event in client.events(run_id, after, round(min(left_s, 5.0) * 1000)):
            after = event_id
            if event["type"] == "run_finished":
                return str(event["state"])
    return ""
