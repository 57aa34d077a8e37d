"""The hosts of one mesh under one worker: who hangs below whom, and where each stands. Pure.

Owns the tree, the phases and the sets derived from them; orders nothing. Used by ``linking.py``, ``op_traffic.py`` and
``state.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from plush_worker.mesh.effects import Effect, Send
from plush_worker.model import HostEntry, SubtreeRecord
from plush_worker.node import frames, hostset
from plush_worker.node.hostset import members

ANY_OP = 1 << 64  # above every op number: for frames that any admission may take


class Phase(Enum):
    """Where one host stands. WAITING: has no order yet, or waits for its parent."""

    WAITING = "waiting"
    LINKING = "linking"
    UP = "up"
    DOWN = "down"  # was linked or nearly; tried again at retry_at
    GONE = "gone"  # given up, with the reason


# phase -> phases it may go to
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.WAITING: frozenset((Phase.LINKING, Phase.GONE)),
    Phase.LINKING: frozenset((Phase.UP, Phase.DOWN, Phase.WAITING, Phase.GONE)),
    Phase.UP: frozenset((Phase.DOWN, Phase.WAITING, Phase.GONE)),
    Phase.DOWN: frozenset((Phase.WAITING, Phase.LINKING, Phase.GONE)),
    Phase.GONE: frozenset((Phase.WAITING,)),
}


@dataclass(slots=True)
class Host:
    """One host of the mesh under this worker."""

    entry: HostEntry
    parent: int | None  # None: a subtree root
    phase: Phase = Phase.WAITING
    order: int = 0  # of the last link order
    was_up: bool = False
    ever_reached: bool = False  # a node program may have read what was sent to it
    tries: int = 0
    retry_at: float = 0.0
    reason: tuple[str, str] = ("", "")  # code, detail; when GONE
    children: set[int] = field(default_factory=set)


class HostTable:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.hosts: dict[int, Host] = {}
        self.epochs: dict[int, int] = {}  # root -> epoch
        self._below: dict[int, int] = {}
        self._up: dict[int, int] = {}  # root -> hosts of its subtree that are up

    # ---- changes

    def adopt(self, record: SubtreeRecord, entries: Mapping[int, HostEntry]) -> None:
        self.epochs[record.root] = record.epoch
        parents = {int(child): parent for child, parent in record.parents.items()}
        for number in members(hostset.from_text(record.members)):
            parent = parents.get(number)
            host = self.hosts.get(number)
            if host is None:
                self.hosts[number] = Host(entries[number], parent)
                continue
            host.entry = entries[number]
            if host.phase not in (Phase.LINKING, Phase.UP):
                self.reparent(number, parent)
        for number in members(hostset.from_text(record.members)):
            placed = self.hosts[number].parent
            if placed is not None:
                self.hosts[placed].children.add(number)
        self._below.clear()

    def reparent(self, number: int, parent: int | None) -> None:
        host = self.hosts[number]
        if host.parent is not None and host.parent in self.hosts:
            self.hosts[host.parent].children.discard(number)
        host.parent = parent
        if parent is not None:
            self.hosts[parent].children.add(number)
        self._below.clear()

    def move(self, number: int, phase: Phase) -> None:
        host = self.hosts[number]
        if phase not in TRANSITIONS[host.phase]:
            raise RuntimeError(f"host {number}: no way from {host.phase} to {phase}")
        host.phase = phase

    def split_off(self, gone: int) -> dict[int, int]:
        """What hung below a root that is given up becomes subtrees of its own: new root -> its hosts."""
        orphans = sorted(self.hosts[gone].children)
        split = {orphan: self.below(orphan) for orphan in orphans}
        for orphan in orphans:
            self.hosts[gone].children.discard(orphan)
            self.hosts[orphan].parent = None
            self.epochs[orphan] = self.epochs[gone]
        self._below.clear()
        return split

    def forget_subtree(self, root: int) -> None:
        """The subtree is no longer this worker's."""
        for number in members(self.below(root)):
            del self.hosts[number]
        del self.epochs[root]
        self._up.pop(root, None)
        self._below.clear()

    def refresh_up(self, changed: int) -> dict[int, int]:
        """To be called when hosts came up or went: root -> hosts that are up, for the subtrees concerned."""
        found: dict[int, int] = {}
        for root in self.epochs:
            below = self.below(root)
            if changed & below:
                found[root] = hostset.of(n for n in members(below) if self.hosts[n].phase is Phase.UP)
        self._up.update(found)
        return found

    # ---- sets

    def below(self, number: int) -> int:
        """The host set of the subtree under ``number``, itself included."""
        found = self._below.get(number)
        if found is None:
            found = 1 << number
            for child in self.hosts[number].children:
                found |= self.below(child)
            self._below[number] = found
        return found

    def waiting_below(self, tops: int) -> int:
        """The waiting hosts at and below ``tops``."""
        return hostset.of(
            n for top in members(tops) for n in members(self.below(top)) if self.hosts[n].phase is Phase.WAITING
        )

    def mine(self) -> int:
        mine = 0
        for root in self.epochs:
            mine |= self.below(root)
        return mine

    def in_reach(self, hosts: int, op: int) -> int:
        """Those of ``hosts`` that a frame sent now gets to: linked, or being linked by an order below ``op``."""
        reach = 0
        for root in self.epochs:
            part = hosts & self.below(root)
            if part:
                reach |= self._reach_below(root, part, op)
        return reach

    def _reach_below(self, root: int, part: int, op: int) -> int:
        if self._up.get(root, 0) == self.below(root):
            return part
        return hostset.of(
            n
            for n in members(part)
            if self.hosts[n].phase is Phase.UP or (self.hosts[n].phase is Phase.LINKING and self.hosts[n].order < op)
        )

    def up(self) -> int:
        found = 0
        for up in self._up.values():
            found |= up
        return found

    def root_of(self, number: int) -> int:
        parent = self.hosts[number].parent
        while parent is not None:
            number, parent = parent, self.hosts[parent].parent
        return number

    def name(self, number: int) -> str:
        return self.hosts[number].entry.name

    def multicast(self, hosts: int, kind: int, body: bytes) -> list[Effect]:
        if not hosts:
            return []
        parts = ((root, hosts & self.below(root)) for root in self.epochs)
        return [self.send(root, kind, part, body) for root, part in parts if part]

    def send(self, root: int, kind: int, hosts: int, body: bytes) -> Send:
        return Send(root, frames.encode(kind, hostset.encode(hosts), body, self.epochs[root]))

    def check_invariants(self) -> None:
        """Raises AssertionError when the state contradicts itself. Called after every step in tests."""
        for number, host in self.hosts.items():
            if host.parent is None:
                assert number in self.epochs, f"root {number} has no epoch"
            else:
                parent = self.hosts[host.parent]
                assert number in parent.children, f"{number} is not a child of its parent"
                if host.phase is Phase.UP:
                    assert parent.phase is Phase.UP, f"{number} is up under a parent that is {parent.phase}"
