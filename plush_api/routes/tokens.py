"""Tokens, for admins: made, listed, revoked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from plush_api.auth import Admin, Reader
from plush_api.context import Shared, problems
from plush_api.problems import Problem
from plush_api.schemas import NewToken, Token, TokenList, TokenRequest
from plush_worker.store.tokens import TokenRecord, new_token

router = APIRouter(tags=["tokens"])


@router.post("/tokens", status_code=201, responses=problems(400, 413, 507))
async def create_token(shared: Shared, _admin: Admin, wanted: TokenRequest, response: Response) -> NewToken:
    """Make a token. The answer is the only one that shows it."""
    response.headers["Cache-Control"] = "no-store"
    token = new_token()
    given = wanted.model_dump()
    while not await shared.store.create_token(token, **given):  # its id is taken: once in a long life
        token = new_token()
    found = await shared.store.find_token(token.token_id)
    if found is None:
        raise Problem(409, "token_revoked", "the token was revoked while it was being made")
    return NewToken(token=token.text(), **_fields(found[0]))


@router.get("/tokens", responses=problems())
async def list_tokens(shared: Shared, _admin: Admin) -> TokenList:
    """All tokens without their secrets, oldest first; expired ones for a week."""
    return TokenList(tokens=[Token(**_fields(record)) for record in await shared.store.tokens()])


@router.get("/tokens/self", responses=problems(404))
async def show_own_token(shared: Shared, principal: Reader) -> Token:
    """The token that asks, without its secret."""
    found = await shared.store.find_token(principal.token_id)
    if found is None:
        raise Problem(404, "token_not_found", "the token was revoked in this moment")
    return Token(**_fields(found[0]))


@router.delete("/tokens/{token_id}", status_code=204, responses=problems(404))
async def revoke_token(shared: Shared, _admin: Admin, token_id: str) -> Response:
    """Revoke a token, from the next request on."""
    if len(token_id) > 64 or not await shared.store.revoke_token(token_id):
        raise Problem(404, "token_not_found", "there is no token of this id")
    return Response(status_code=204)


def _fields(record: TokenRecord) -> dict[str, Any]:
    return {
        "id": record.token_id,
        "owner": record.owner,
        "scopes": list(record.scopes),
        "slices": list(record.slices),
        "name": record.name,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "last_used_at": record.last_used_at,
    }
