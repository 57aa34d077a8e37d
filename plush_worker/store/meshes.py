"""Meshes: their counter, their hosts' numbers, their use."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Iterable, Sequence
from typing import Any

from ..model import HostEntry
from ..node.limits import MAX_HOST_NUMBER
from . import keys, limits
from .connection import Connection
from .records import decode_meshes, decode_pairs, encode_json, milliseconds, text_of

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_CHARS = 12


class Meshes:
    """The part of Store about meshes."""

    _connection: Connection

    async def open_mesh(self, slice: str, owner: str) -> str:  # noqa: A002 - the design's word
        """The id ([a-z0-9]{12}) of the standing mesh of (slice, owner), made at first use. Raises MeshClosing."""
        fresh = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))
        reply = await self._connection.run(
            "open_mesh",
            [keys.MESH_IDS, keys.MESHES, keys.mesh("")],
            [encode_json([slice, owner]), fresh, slice, owner],
            f"opening the mesh of slice {slice} and owner {owner}",
        )
        return text_of(reply)

    async def draw(self, mesh: str, count: int = 1) -> int:
        """The first of ``count`` new consecutive numbers of the mesh counter (generation << 32 | count).

        Raises NoSuchMesh. After a lost answer numbers may be skipped, never given twice.
        """
        if count < 1:
            raise ValueError(f"can't draw {count} numbers")
        last = await self._connection.run("draw", [keys.mesh(mesh)], [count], f"drawing numbers of mesh {mesh}")
        return int(last) - count + 1

    async def join_hosts(self, mesh: str, entries: Sequence[HostEntry]) -> list[int]:
        """The hosts' numbers, in the order of ``entries``: an equal entry has its old number, a changed one a new one.

        One call for each 1,000 entries. Raises NoSuchMesh, MeshClosing and, when all numbers are used up, TooLarge.
        """
        numbers: list[int] = []
        for at in range(0, len(entries), limits.JOIN_BATCH):
            arguments: list[str | bytes | int] = [mesh, MAX_HOST_NUMBER]
            for entry in entries[at : at + limits.JOIN_BATCH]:
                text = entry.to_json()
                arguments += [_digest(entry), text]
            numbers += await self._connection.run(
                "join_hosts",
                [keys.mesh(mesh), keys.mesh_hosts(mesh), keys.mesh_digests(mesh), keys.MESHES],
                arguments,
                f"joining hosts to mesh {mesh}",
            )
        return numbers

    async def host_entries(self, mesh: str, numbers: Iterable[int]) -> dict[int, HostEntry]:
        """number -> entry; numbers that were never given out are absent."""
        wanted = list(numbers)
        if not wanted:
            return {}
        found = await self._connection.command("HMGET", keys.mesh_hosts(mesh), *wanted, what=f"hosts of mesh {mesh}")
        return {n: HostEntry.from_json(text) for n, text in zip(wanted, found, strict=True) if text is not None}

    async def mesh_fields(self, mesh: str) -> dict[str, str]:
        """What is stored of a mesh (slice, owner, state, counter, times in ms); empty when there is none."""
        return decode_pairs(await self._connection.command("HGETALL", keys.mesh(mesh), what=f"reading mesh {mesh}"))

    async def meshes(self) -> list[dict[str, Any]]:
        """All meshes, last used first, as records.decode_meshes describes them."""
        families = [keys.mesh(""), keys.mesh_hosts(""), keys.mesh_roots(""), keys.subtree_family(), keys.worker("")]
        return decode_meshes(await self._connection.run("list_meshes", [keys.MESHES, *families], (), "listing meshes"))

    async def touch_mesh(self, mesh: str) -> bool:
        """Notes that the mesh is in use; False when it is gone."""
        return await self._touch(mesh, "")

    async def set_mesh_state(self, mesh: str, state: str) -> bool:
        """standing or closing (then nobody can open, join or own a part of it); False when it is gone."""
        if state not in ("standing", "closing"):
            raise ValueError(f"a mesh can't be {state!r}")
        return await self._touch(mesh, state)

    async def remove_mesh(self, mesh: str, idle_s: float = 0.0) -> bool:
        """Forgets the mesh, its hosts and the subtrees of dead owners.

        False, and nothing done, when it is gone, was used in the last idle_s, or a live worker owns a subtree of it.
        """
        fields = await self.mesh_fields(mesh)
        if not fields:
            return False
        reply = await self._connection.run(
            "remove_mesh",
            [
                *(family(mesh) for family in (keys.mesh, keys.mesh_hosts, keys.mesh_digests, keys.mesh_roots)),
                *(keys.MESHES, keys.MESH_IDS, keys.subtree(mesh, ""), keys.worker("")),
            ],
            [mesh, milliseconds(idle_s) if idle_s else 0, encode_json([fields["slice"], fields["owner"]])],
            f"removing mesh {mesh}",
        )
        return bool(reply)

    async def _touch(self, mesh: str, state: str) -> bool:
        return bool(
            await self._connection.run("touch_mesh", [keys.mesh(mesh), keys.MESHES], [mesh, state], f"mesh {mesh}")
        )


def _digest(entry: HostEntry) -> bytes:
    """Of what makes it that host, and not of how to log in there: an SSH agent's socket is another in each terminal."""
    jumps = (HostEntry.from_json(text) for text in entry.jumps)
    ways = [[jump.address, jump.port, jump.user] for jump in jumps]
    parts = [entry.name, entry.address, entry.port, entry.user, entry.known_hosts, entry.host_key_alias]
    text = encode_json([*parts, entry.proxy_jump, entry.proxy_command, ways])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
