"""``plush token``: who may use the service over HTTP. A token is shown once, when made; arguments never hold one."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import Annotated

import typer

from plush_worker.errors import UsageError

_COLUMNS = ("TOKEN", "OWNER", "SCOPES", "SLICES", "NAME", "EXPIRES", "LAST USED")
_SCOPES = ("read", "run", "admin")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "": 86400}
MAX_EXPIRY_S = 100 * 365 * 86400

app = typer.Typer(no_args_is_help=True, help="Tokens for the service's HTTP interface.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a token.")]


@app.command("create")
def create(
    owner: Annotated[str, typer.Option(metavar="NAME", help="Whose runs it makes and sees; you by default.")] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="read, run or admin; may be repeated (run, which can read)."),
    ] = None,
    slices: Annotated[
        list[str] | None,
        typer.Option(
            "--slice",
            metavar="SLICE",
            help="A slice that it may use; may be repeated (all).",
        ),
    ] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="After so long: 12h, 30d, 8w (never).")] = "",
    name: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: nobody can show it again."""
    from .service import connect_to_service

    scopes = scope or ["run"]
    for word in scopes:
        if word not in _SCOPES:
            raise UsageError(f"--scope {word}: must be one of {', '.join(_SCOPES)}")
    expires_s = seconds_of(expires)
    client = connect_to_service()
    try:
        made = client.create_token(owner or client.owner(), scopes, slices or ["*"], name, expires_s)
    finally:
        client.close()
    if as_json:
        print(json.dumps(made))
        return
    print(made["token"])
    if sys.stdout.isatty():
        from .app import say

        say(f"token {made['id']} of {made['owner']}; it isn't shown again. To use it: PLUSH_TOKEN, or PLUSH_TOKEN_FILE")


@app.command("ls")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens, without their secrets."""
    from .ps import print_table
    from .service import connect_to_service

    client = connect_to_service()
    try:
        tokens = client.tokens()
    finally:
        client.close()
    if as_json:
        for token in tokens:
            print(json.dumps(token))
        return
    now_s = time.time()
    rows = [
        [
            token["id"],
            token["owner"],
            ",".join(token["scopes"]),
            ",".join(token["slices"]),
            token["name"],
            expiry_text(token["expires_at"], now_s),
            _ago_text(token["last_used_at"], now_s),
        ]
        for token in tokens
    ]
    print_table(_COLUMNS, rows)


@app.command("revoke")
def revoke(
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN...", help="Ids, as token ls shows them.")],
    as_json: AsJson = False,
) -> None:
    """Revoke tokens: who holds one is refused from now on."""
    from .service import connect_to_service

    for token in tokens:
        if token.startswith("plush_"):
            raise UsageError("that is a token, not its id: give the part between plush_ and the second _ only")
    client = connect_to_service()
    missing = []
    try:
        for token in tokens:
            if client.revoke_token(token):
                print(json.dumps({"id": token, "state": "revoked"}) if as_json else f"{token}: revoked")
            else:
                missing.append(token)
    finally:
        client.close()
    if missing:
        raise UsageError(f"there is no token {', '.join(missing)}; 'plush token ls' lists them")


def seconds_of(text: str) -> float:
    """``12h``, ``30d``, ``8w`` in seconds; a number alone is days; 0 for an empty text. Raises UsageError."""
    if not text:
        return 0.0
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text)
    found = int(match[1]) * _UNITS_S[match[2]] if match else 0
    if not 0 < found <= MAX_EXPIRY_S:
        raise UsageError(f"--expires {text}: give a time such as 12h, 30d or 8w, of at most 100 years")
    return float(found)


def expiry_text(at_s: float | None, now_s: float) -> str:
    """``never``, ``in 12h`` or ``expired``."""
    from .ps import age_text

    if not at_s:
        return "never"
    return f"in {age_text(at_s - now_s)}" if at_s > now_s else "expired"


def _ago_text(at_s: float | None, now_s: float) -> str:
    from .ps import age_text

    return f"{age_text(max(0.0, now_s - at_s))} ago" if at_s else "never"
