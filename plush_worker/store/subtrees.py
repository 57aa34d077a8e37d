"""Subtrees: which worker incarnation owns which part of a mesh, under which epoch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..model import SubtreeRecord
from . import keys, limits
from .connection import Argument, Connection
from .errors import TooLarge
from .records import decode_pairs, encode_json, text_of, token


class Subtrees:
    """The part of Store about ownership."""

    _connection: Connection

    async def assign_subtrees(self, mesh: str, assignments: Sequence[SubtreeRecord]) -> list[SubtreeRecord]:
        """Gives subtrees to workers and returns those granted, all under one new epoch.

        Not granted: an owner whose lease isn't held by that incarnation; a subtree with a host that belongs to another
        one whose owner lives (or to an earlier one in this call). An assignment with ``epoch`` 0 makes a new subtree;
        one with the epoch of that root's standing subtree changes that, for the same incarnation, and ``up`` stays.
        Hosts of dead owners are taken out of their subtrees; a dead owner's subtree of the same root is replaced.
        Raises NoSuchMesh, MeshClosing, ValueError for a root given twice.
        """
        if not assignments:
            return []
        roots = {a.root for a in assignments}
        if len(roots) != len(assignments):
            raise ValueError("a root is assigned twice in one call")
        if len(assignments) > limits.MAX_ASSIGNMENTS:
            raise TooLarge(f"{len(assignments)} subtrees in one call, at most {limits.MAX_ASSIGNMENTS}")
        arguments: list[Argument] = [token()]
        for a in assignments:
            arguments += [a.root, a.owner, a.incarnation, a.epoch, a.members]
            arguments += [encode_json(a.parents), encode_json(a.settings)]
        epoch, *granted = await self._connection.run(
            "assign_subtrees",
            [keys.mesh(mesh), keys.mesh_roots(mesh), keys.subtree(mesh, ""), keys.worker("")],
            arguments,
            f"assigning subtrees of mesh {mesh}",
        )
        names = {int(root) for root in granted}
        return [replace(a, epoch=int(epoch)) for a in assignments if a.root in names]

    async def subtrees(self, mesh: str) -> tuple[dict[int, SubtreeRecord], frozenset[str]]:
        """(root -> subtree, the incarnations among their owners whose lease lives)."""
        reply = await self._connection.run(
            "list_subtrees",
            [keys.mesh_roots(mesh), keys.subtree(mesh, ""), keys.worker("")],
            (),
            f"listing subtrees of mesh {mesh}",
        )
        found: dict[int, SubtreeRecord] = {}
        alive: set[str] = set()
        for pairs, lives in reply:
            record = _decode(decode_pairs(pairs))
            found[record.root] = record
            if lives:
                alive.add(record.incarnation)
        return found, frozenset(alive)

    async def update_subtree(
        self,
        mesh: str,
        root: int,
        epoch: int,
        *,
        members: str | None = None,
        parents: Mapping[str, int] | None = None,
        up: str | None = None,
    ) -> bool:
        """Changes what is given; False when the subtree is gone or has another epoch: the caller no longer owns it."""
        changes = {"members": members, "parents": None if parents is None else encode_json(dict(parents)), "up": up}
        arguments: list[Argument] = [epoch]
        for name, value in changes.items():
            if value is not None:
                arguments += [name, value]
        reply = await self._connection.run(
            "update_subtree", [keys.subtree(mesh, root)], arguments, f"updating subtree {root} of mesh {mesh}"
        )
        return bool(reply)

    async def drop_subtrees(self, mesh: str, roots: Iterable[int], incarnation: str) -> int:
        """Forgets those of the subtrees that this incarnation owns; how many."""
        reply = await self._connection.run(
            "drop_subtrees",
            [keys.mesh_roots(mesh), keys.subtree(mesh, "")],
            [incarnation, *roots],
            f"dropping subtrees of mesh {mesh}",
        )
        return int(reply)


def _decode(fields: Mapping[str, str]) -> SubtreeRecord:
    return SubtreeRecord(
        root=int(text_of(fields["root"])),
        owner=fields["owner"],
        incarnation=fields["incarnation"],
        epoch=int(fields["epoch"]),
        members=fields["members"],
        parents=json.loads(fields["parents"]),
        settings=json.loads(fields["settings"]),
        up=fields["up"],
    )
