"""Tokens made, listed and revoked where the service's Redis is: whoever may connect to it may do that.

Imports redis-py and asyncio; only ``plush token`` needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from plush_worker.store.service import ServiceStore
    from plush_worker.store.tokens import TokenRecord

T = TypeVar("T")


def create_token(
    redis_url: str, owner: str, scopes: Sequence[str], slices: Sequence[str], name: str, expires_s: float
) -> dict[str, Any]:
    """The token's fields as ``token_fields`` has them, and ``token``, which nobody can find out later."""
    from plush_worker.store.tokens import new_token

    async def create(store: ServiceStore) -> dict[str, Any]:
        while True:
            token = new_token()
            if await store.create_token(
                token, owner=owner, scopes=scopes, slices=slices, name=name, expires_s=expires_s
            ):
                break
        made = next(record for record in await store.tokens() if record.token_id == token.token_id)
        return {**token_fields(made), "token": token.text()}

    return _with_store(redis_url, create)


def list_tokens(redis_url: str) -> list[dict[str, Any]]:
    """All tokens, as ``token_fields`` has them, oldest first."""

    async def find(store: ServiceStore) -> list[dict[str, Any]]:
        return [token_fields(record) for record in await store.tokens()]

    return _with_store(redis_url, find)


def revoke_token(redis_url: str, token_id: str) -> bool:
    """False when there is none of that id."""
    return _with_store(redis_url, lambda store: store.revoke_token(token_id))


def token_fields(record: TokenRecord) -> dict[str, Any]:
    """id, owner, scopes, slices, name, created_at, expires_at (None: never), last_used_at (None: not yet)."""
    return {
        "id": record.token_id,
        "owner": record.owner,
        "scopes": list(record.scopes),
        "slices": list(record.slices),
        "name": record.name,
        "created_at": record.created_at,
        "expires_at": record.expires_at or None,
        "last_used_at": record.last_used_at or None,
    }


def _with_store(redis_url: str, ask: Callable[[ServiceStore], Awaitable[T]]) -> T:
    from plush_worker.store.service import ServiceStore

    async def run() -> T:
        store = await ServiceStore.connect(redis_url)
        try:
            return await ask(store)
        finally:
            await store.close()

    return asyncio.run(run())
