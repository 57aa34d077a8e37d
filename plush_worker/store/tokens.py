"""Bearer tokens of the API: made, found, listed, revoked. Of a token's secret only the SHA-256 is stored.

A token reads ``plush_<id>_<secret>``: the id finds its record, the secret has 192 random bits, so that a fast hash
keeps it. ``new_token``, ``parse_token`` and ``TokenRecord.accepts`` are pure; ``Tokens`` is the part of the store.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from . import service_keys
from .connection import Argument, Connection
from .errors import TooLarge
from .records import decode_pairs, encode_json, milliseconds

SCOPES = ("read", "run", "admin")  # each includes the ones before it
ALL_SLICES = "*"
MAX_TOKENS = 10_000
TOUCH_EVERY_S = 60.0  # how coarse ``last_used_at`` is
_KEPT_EXPIRED_S = 7 * 86400.0  # expired tokens are listed this long
_ID_BYTES, _SECRET_BYTES = 5, 24
_FORM = re.compile(r"plush_([0-9a-f]{10})_([0-9a-f]{48})")


class ParsedToken(NamedTuple):
    """The two halves of a token."""

    token_id: str
    secret: str

    def text(self) -> str:
        """The token as its holder sends it."""
        return f"plush_{self.token_id}_{self.secret}"


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of a token. Times are Unix times; ``expires_at`` 0 is never, ``last_used_at`` 0 is not yet."""

    token_id: str
    owner: str
    scopes: tuple[str, ...]
    slices: tuple[str, ...]  # names, or "*" for all
    name: str = ""
    created_at: float = 0.0
    expires_at: float = 0.0
    last_used_at: float = 0.0
    digest: str = ""

    def accepts(self, secret: str) -> bool:
        """Whether ``secret`` is this token's; takes the same time however much of it is right."""
        return hmac.compare_digest(self.digest, secret_digest(secret))

    def expired(self, now_s: float) -> bool:
        """Whether its time is over at ``now_s``."""
        return bool(self.expires_at) and now_s >= self.expires_at


def new_token() -> ParsedToken:
    """A fresh random token."""
    return ParsedToken(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))


def parse_token(text: str) -> ParsedToken | None:
    """The halves of a token as it was sent; None when it can't be one."""
    match = _FORM.fullmatch(text)
    return ParsedToken(match[1], match[2]) if match else None


def secret_digest(secret: str) -> str:
    """SHA-256 of a secret, hexadecimal."""
    return hashlib.sha256(secret.encode()).hexdigest()


def full_scopes(scopes: Sequence[str]) -> frozenset[str]:
    """The scopes with those that they include: ``admin`` is ``run`` and ``read`` too."""
    highest = max((SCOPES.index(scope) for scope in scopes), default=-1)
    return frozenset(SCOPES[: highest + 1])


class Tokens:
    """The part of the store about tokens. All times are Redis's."""

    _connection: Connection

    async def create_token(
        self,
        token: ParsedToken,
        *,
        owner: str,
        scopes: Sequence[str],
        slices: Sequence[str],
        name: str = "",
        expires_s: float = 0.0,
    ) -> bool:
        """Stores a token; ``expires_s`` from now, 0 for never. True also when this very token is there already.

        False when its id is another token's: make a new one. Raises TooLarge when there are too many.
        """
        fields = {
            "digest": secret_digest(token.secret),
            "owner": owner,
            "scopes": encode_json(list(scopes)),
            "slices": encode_json(list(slices)),
            "name": name,
        }
        arguments: list[Argument] = [token.token_id, MAX_TOKENS]
        arguments += [milliseconds(expires_s) if expires_s else 0, milliseconds(_KEPT_EXPIRED_S)]
        for field, value in fields.items():
            arguments += [field, value]
        reply = await self._connection.run(
            "create_token",
            [service_keys.token(token.token_id), service_keys.TOKENS],
            arguments,
            f"storing token {token.token_id}",
        )
        if int(reply) < 0:
            raise TooLarge(f"there are {MAX_TOKENS} tokens, and may be no more: revoke some with 'plush token revoke'")
        return bool(reply)

    async def find_token(self, token_id: str) -> tuple[TokenRecord, float] | None:
        """(record, Redis's time) of a token; None when there is none. Notes its use, once a minute."""
        reply = await self._connection.run(
            "find_token", [service_keys.token(token_id)], [milliseconds(TOUCH_EVERY_S)], "looking a token up"
        )
        if reply is None:
            return None
        now_ms, pairs = reply
        return _decode(token_id, decode_pairs(pairs)), int(now_ms) / 1000

    async def tokens(self) -> list[TokenRecord]:
        """All tokens, oldest first, expired ones for a week; without their digests."""
        reply = await self._connection.run(
            "list_tokens", [service_keys.TOKENS, service_keys.token("")], (), "listing the tokens"
        )
        found = []
        for token_id, pairs in reply:
            fields = decode_pairs(pairs)
            fields.pop("digest", None)
            found.append(_decode(token_id.decode(), fields))
        return found

    async def revoke_token(self, token_id: str) -> bool:
        """Forgets a token; False when there is none of that id."""
        reply = await self._connection.run(
            "remove_token",
            [service_keys.token(token_id), service_keys.TOKENS],
            [token_id],
            f"revoking token {token_id}",
        )
        return bool(reply)


def _decode(token_id: str, fields: dict[str, str]) -> TokenRecord:
    return TokenRecord(
        token_id=token_id,
        owner=fields["owner"],
        scopes=tuple(json.loads(fields["scopes"])),
        slices=tuple(json.loads(fields["slices"])),
        name=fields.get("name", ""),
        created_at=int(fields.get("created_at", 0)) / 1000,
        expires_at=int(fields.get("expires_at", 0)) / 1000,
        last_used_at=int(fields.get("last_used", 0)) / 1000,
        digest=fields.get("digest", ""),
    )
