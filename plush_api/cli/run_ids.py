"""Which run people mean: an id, the beginning of one, or ``-`` and ``last`` for the newest of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import RunNotFound, UsageError

if TYPE_CHECKING:
    from plush_api.client import Client

NEWEST = ("-", "last")
LOOKED_AT = 1000  # runs among which a beginning is looked for

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="The run's id, or the beginning of it; - or last: your newest run.",
        show_default=False,
    ),
]


def find_run(client: Client, text: str) -> str:
    """The id of the run that ``text`` means. Raises RunNotFound, UsageError when several ids begin so."""
    if text in NEWEST:
        return _newest(client)
    if text and client.run(text):
        return text
    found = [fields["run_id"] for fields in client.runs(LOOKED_AT) if text and fields["run_id"].startswith(text)]
    if not found:
        raise RunNotFound(f"there is no run {text!r}; 'plush ps' lists those that there are")
    if len(found) > 1:
        raise UsageError(f"{len(found)} runs begin with {text}: {', '.join(found[:5])}; give more of the id")
    return found[0]


def _newest(client: Client) -> str:
    owner = client.owner()
    for fields in client.runs(LOOKED_AT):
        if fields.get("owner") == owner:
            return fields["run_id"]
    raise RunNotFound(f"there is no run of {owner} among the newest {LOOKED_AT}; 'plush ps' lists those that there are")
