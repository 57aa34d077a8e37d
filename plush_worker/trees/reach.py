"""Who can open a link to whom: what ``reachable_from``, jump hosts, inner logins and pinned keys allow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plush_worker.model import HostEntry, SliceSettings

WORKER = "@worker"  # in reachable_from: the worker, too


@dataclass(frozen=True, slots=True)
class Rule:
    """Who can be the parent of a host. Hosts with equal reasons share one rule."""

    worker: bool
    hosts: frozenset[int] | None  # None: every host
    lack: str  # why there may be nobody: "X can't be reached: <lack>"

    def allows(self, parent: int) -> bool:
        """Whether a host (its index) or a worker (negative) can be the parent."""
        return self.worker if parent < 0 else self.hosts is None or parent in self.hosts


class Reach:
    """The rules of all hosts of one plan."""

    def __init__(self, entries: Sequence[HostEntry], settings: SliceSettings) -> None:
        self._entries = entries
        self._no_inner = settings.inner_login == "none"
        self._known: dict[tuple[object, ...], Rule] = {}
        self._by_name: dict[str, list[int]] = {}
        self._by_label: dict[str, list[int]] = {}
        self._by_proxy: dict[tuple[str, str], list[int]] = {}
        for index, entry in enumerate(entries):
            self._by_name.setdefault(entry.name, []).append(index)
            bare = entry.name.rpartition("@")[2]
            if bare != entry.name:
                self._by_name.setdefault(bare, []).append(index)
            for label in (entry.site, *("@" + tag for tag in entry.tags)):
                self._by_label.setdefault(label, []).append(index)
            self._by_proxy.setdefault((entry.proxy_jump, entry.proxy_command), []).append(index)
        self.rules = [self._rule(entry) for entry in entries]

    def _rule(self, entry: HostEntry) -> Rule:
        pinned = any(not line.startswith("@revoked") for line in entry.known_hosts)
        key = (entry.reachable_from, entry.proxy_jump, entry.proxy_command, pinned)
        if key not in self._known:
            self._known[key] = self._make(entry, pinned)
        return self._known[key]

    def _make(self, entry: HostEntry, pinned: bool) -> Rule:
        worker = not entry.reachable_from or WORKER in entry.reachable_from
        if self._no_inner:
            lack = (
                "only other hosts reach it (reachable_from), and inner_login is none: "
                "set inner_login to agent or key in a slice of the host directory"
            )
            return Rule(worker, frozenset(), lack)
        if not pinned:
            # A parent is given the only keys it accepts; accept_new exists for a worker's own links alone.
            lack = "only other hosts reach it (reachable_from), and they need its host key pinned: plush hosts trust"
            return Rule(worker, frozenset(), lack)
        if entry.reachable_from:
            hosts = self._named(entry.reachable_from)
            names = ", ".join(entry.reachable_from[:5])
            lack = f"it is reachable from {names}, and " + (
                "none of those can be reached" if hosts else "no host of this run is that: name one of them, too"
            )
            return Rule(worker, hosts, lack)
        if entry.proxy_jump or entry.proxy_command:
            return Rule(worker, self._behind(entry), "")
        return Rule(worker, None, "")

    def _named(self, items: Sequence[str]) -> frozenset[int]:
        return frozenset(
            index for item in items for index in (*self._by_name.get(item, ()), *self._by_label.get(item, ()))
        )

    def _behind(self, entry: HostEntry) -> frozenset[int]:
        """Hosts behind the same jump host are taken to reach each other, and the jump host to reach them all."""
        jump = entry.proxy_jump.rpartition(",")[2].rpartition("@")[2].partition(":")[0]
        same = self._by_proxy[entry.proxy_jump, entry.proxy_command]
        return frozenset((*same, *(self._by_name.get(jump, ()) if jump else ())))
