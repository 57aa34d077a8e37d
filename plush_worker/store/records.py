"""What travels to and from Redis: encoding with its limits, and decoding of replies. Pure; shared by both clients.

Imports little: the command line needs it before its first request.
"""

from __future__ import annotations

import json
import os

from . import limits
from .errors import TooLarge

FIELD_CHARS_IN_LIST = 4096  # longer fields of a run are left out of lists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    FieldValue = str | int | float | list[Any] | dict[str, Any] | tuple[Any, ...]


def token() -> str:
    """A random name of one request, so that its repetition is known as such."""
    return os.urandom(9).hex()


def milliseconds(seconds: float) -> int:
    """A time to live as Redis takes it: whole milliseconds, at least 1."""
    return max(1, round(seconds * 1000))


def encode_json(value: object) -> str:
    """Compact ASCII JSON; lone surrogates (bytes that aren't UTF-8) survive as escapes."""
    return json.dumps(value, separators=(",", ":"))


def encode_event(event: Mapping[str, Any]) -> str:
    """JSON of one event. Raises TooLarge, and ValueError when it has no type."""
    if not event.get("type"):
        raise ValueError(f"an event needs a type: {event!r:.200}")
    return limited(encode_json(event), limits.MAX_EVENT_BYTES, f"event {event['type']}")


def limited(text: str, limit_bytes: int, what: str) -> str:
    """``text`` (ASCII). Raises TooLarge when it is longer than the limit."""
    if len(text) > limit_bytes:
        raise TooLarge(f"{what} has {len(text)} bytes, at most {limit_bytes} are stored")
    return text


def encode_fields(fields: Mapping[str, FieldValue]) -> list[str | bytes]:
    """Field and value by turns; lists and mappings as JSON, everything else as text. Raises TooLarge."""
    out: list[str | bytes] = []
    for name, value in fields.items():
        text = encode_json(value) if isinstance(value, (list, tuple, dict)) else str(value)
        data = text.encode("utf-8", "surrogateescape")
        if len(data) > limits.MAX_FIELD_BYTES:
            raise TooLarge(f"run field {name} has {len(data)} bytes, at most {limits.MAX_FIELD_BYTES} are stored")
        out += [name, data]
    return out


def text_of(data: bytes | str | int) -> str:
    """A reply as text."""
    return data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else str(data)


def decode_pairs(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[str, str]:
    """A hash: field -> value, from a mapping or a list of both by turns."""
    if not isinstance(reply, dict):
        values = list(reply)
        reply = dict(zip(values[::2], values[1::2], strict=True))
    return {text_of(field): text_of(value) for field, value in reply.items()}


def decode_events(entries: Iterable[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Stream entries as (id, event), in order."""
    found = []
    for entry_id, values in entries:
        data = values[b"e"] if isinstance(values, dict) else values[1]
        found.append((text_of(entry_id), json.loads(data)))
    return found


def decode_runs(reply: Iterable[Any]) -> list[dict[str, str]]:
    """Runs as their fields and ``run_id``."""
    return [{"run_id": text_of(run_id), **decode_pairs(fields)} for run_id, fields in reply]


def decode_meshes(reply: Iterable[Any]) -> list[dict[str, Any]]:
    """Meshes: id, slice, owner, state, created_at and last_used (Unix time), hosts, total, up, workers, dead_workers.

    ``hosts`` is how many have a number; ``total`` and ``up`` count the members of subtrees whose owner lives.
    """
    from ..node import hostset

    found: list[dict[str, Any]] = []
    for mesh_id, reply_fields, hosts, subtrees in reply:
        fields = decode_pairs(reply_fields)
        total = up = 0
        workers: dict[str, bool] = {}
        for members, members_up, owner, alive in subtrees:
            workers[text_of(owner)] = bool(alive)
            if alive:
                total |= hostset.from_text(text_of(members))
                up |= hostset.from_text(text_of(members_up))
        found.append(
            {
                "id": text_of(mesh_id),
                "slice": fields.get("slice", ""),
                "owner": fields.get("owner", ""),
                "state": fields.get("state", ""),
                "created_at": int(fields.get("created_at", 0)) / 1000,
                "last_used": int(fields.get("last_used", 0)) / 1000,
                "hosts": hosts,
                "total": hostset.size(total),
                "up": hostset.size(up),
                "workers": sorted(name for name, alive in workers.items() if alive),
                "dead_workers": sorted(name for name, alive in workers.items() if not alive),
            }
        )
    return found
