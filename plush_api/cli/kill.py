"""``plush kill``: end a run from anywhere."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import RunNotFound, UsageError

if TYPE_CHECKING:
    from plush_api.client import Client

CONFIRM_S = 20.0  # beyond the grace, until we stop waiting for the run's end


def kill(
    run: Annotated[str, typer.Argument(help="The run's id, or the beginning of it.")],
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
            client.kill(run_id, number, round(grace * 1000), "plush kill")
            state = _wait(client, run_id, grace + CONFIRM_S) if wait else "stopping"
            text = (state if wait else "asked to stop") or "has not confirmed its end yet"
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


def find_run(client: Client, text: str) -> str:
    """The id of the run that ``text`` is, or begins. Raises RunNotFound, UsageError when several begin so."""
    if client.run(text):
        return text
    found = [fields["run_id"] for fields in client.runs(1000) if text and fields["run_id"].startswith(text)]
    if not found:
        raise RunNotFound(f"there is no run {text}; 'plush ps' lists those that there are")
    if len(found) > 1:
        raise UsageError(f"{len(found)} runs begin with {text}: {', '.join(found[:5])}; give more of the id")
    return found[0]


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
