"""Who asks, and what they may: bearer tokens to principals, scopes, slices, the first admin token.

A run of somebody else's is answered as if it didn't exist, so that ids can't be tried out.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from plush_worker.errors import ConfigurationError
from plush_worker.store.service import ServiceStore
from plush_worker.store.tokens import ALL_SLICES, ParsedToken, full_scopes, new_token, parse_token

from .problems import Problem

PRINCIPAL = "plush.principal"  # where the gate puts it in the ASGI scope
DEFAULT_SLICE = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody with a valid token."""

    token_id: str
    owner: str
    scopes: frozenset[str]
    slices: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        """Whether they may see and do everything."""
        return "admin" in self.scopes

    def may_use(self, slice_name: str) -> bool:
        """Whether they may use the slice; "" is what a run without a slice uses."""
        return ALL_SLICES in self.slices or (slice_name or DEFAULT_SLICE) in self.slices

    def sees(self, owner: str) -> bool:
        """Whether runs and meshes of ``owner`` are theirs to read, kill and remove."""
        return self.is_admin or owner == self.owner


def token_in(header: str) -> ParsedToken:
    """The token of an Authorization header. Raises Problem (401)."""
    scheme, _, text = header.partition(" ")
    if not header:
        raise unauthorized("send a token: 'Authorization: Bearer plush_...'; 'plush token create' makes one")
    parsed = parse_token(text.strip()) if scheme.lower() == "bearer" else None
    if parsed is None:
        raise unauthorized("the Authorization header holds no token of the form 'Bearer plush_<id>_<secret>'")
    return parsed


async def authenticate(store: ServiceStore, token: ParsedToken) -> Principal:
    """Whose token it is. Raises Problem (401), StoreUnavailable."""
    found = await store.find_token(token.token_id)
    if found is None:
        raise unauthorized("the token isn't known: it was revoked, or is another service's")
    record, now_s = found
    if not record.accepts(token.secret):
        raise unauthorized("the token isn't known: it was revoked, or is another service's")
    if record.expired(now_s):
        raise unauthorized("the token has expired")
    return Principal(record.token_id, record.owner, full_scopes(record.scopes), record.slices)


def unauthorized(detail: str) -> Problem:
    """401, with what the scheme asks for."""
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="plush"'})


_bearer = HTTPBearer(auto_error=False, description="A token of `plush token create`: `plush_<id>_<secret>`.")


def needs(scope: str) -> Any:
    """What a route depends on: the principal, if it has the scope. The gate has checked the token."""

    def principal(request: Request, _token: Annotated[Any, Depends(_bearer)]) -> Principal:
        found: Principal = request.scope[PRINCIPAL]
        if scope not in found.scopes:
            held = ", ".join(sorted(found.scopes)) or "none"
            raise Problem(403, "missing_scope", f"this takes a token with scope {scope}; this one has: {held}")
        return found

    return Depends(principal)


Reader = Annotated[Principal, needs("read")]
Runner = Annotated[Principal, needs("run")]
Admin = Annotated[Principal, needs("admin")]


async def ensure_admin_token(store: ServiceStore, path: Path, owner: str = "") -> None:
    """Makes sure that the token in the file ``path`` is an admin's; makes it, 0600, when the file isn't there.

    Raises ConfigurationError when the file holds something else, or can't be read or written.
    """
    token = _read_token(path) or _write_token(path)
    given = {"owner": owner or _user_name(), "scopes": ("admin",), "slices": (ALL_SLICES,), "name": "first admin"}
    if not await store.create_token(token, **given):  # type: ignore[arg-type]
        raise ConfigurationError(f"the token in {path} has the id of another one: remove the file to have one made")


def _read_token(path: Path) -> ParsedToken | None:
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"the admin token can't be read: {path}: {error}") from error
    token = parse_token(text)
    if token is None:
        raise ConfigurationError(f"{path} holds no token (plush_<id>_<secret>): remove it to have one made")
    return token


def _write_token(path: Path) -> ParsedToken:
    token = new_token()
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(token.text() + "\n")
        try:
            os.link(part, path)
        except FileExistsError:  # another API process made it in this moment
            return _read_token(path) or token
        finally:
            part.unlink()
    except OSError as error:
        raise ConfigurationError(f"the admin token can't be written: {path}: {error.strerror}") from error
    return token


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
