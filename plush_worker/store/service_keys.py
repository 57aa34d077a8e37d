"""Key names of what only the API keeps in Redis: tokens, idempotency keys, each owner's open runs. Pure.

A function called with an empty name gives the prefix of its family, as in ``keys.py``.
"""

from __future__ import annotations

from .keys import PREFIX

TOKENS = PREFIX + "tokens"  # sorted set: token id -> when it was made, ms


def token(token_id: str) -> str:
    """Hash: digest, owner, scopes and slices (JSON), name, created_at, expires_at (ms, 0: never), last_used (ms)."""
    return f"{PREFIX}token:{token_id}"


def idempotency(digest: str) -> str:
    """Hash with a TTL: body (digest), run (id), made (1: the run was stored). Named by a hash of owner and key."""
    return f"{PREFIX}idempotency:{digest}"


def open_runs(owner: str) -> str:
    """Sorted set: run id -> when it was admitted, ms; ended runs are removed by the next admission."""
    return f"{PREFIX}open-runs:{owner}"
