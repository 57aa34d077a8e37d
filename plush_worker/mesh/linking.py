"""Link orders, lost links and tries anew: how the hosts of a mesh come up and stay up. Pure."""

from __future__ import annotations

from plush_worker.mesh import orders
from plush_worker.mesh.effects import DrawOrder, Effect, OpenLink, Reassign, Send
from plush_worker.mesh.host_table import Host, HostTable, Phase
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node import hostset
from plush_worker.node.hostset import members

RETRY_FIRST_S = 0.25
RETRIES_OF_LIVING = 6  # a link that stood: about 16 s of tries
RETRIES_AT_JOIN = 3
# At a join these may pass (an sshd at its MaxStartups, an old node program still leaving); the rest is final.
PASSING_AT_JOIN = frozenset(("eof", "locked", "silent", "limit"))
NEVER_PASSING = frozenset(("host_key", "auth", "name", "no_ssh", "no_python", "old_python", "state_dir"))


class Linking:
    """Works on the host table; what it returns is for the driver."""

    def __init__(self, mesh: str, settings: SliceSettings, table: HostTable) -> None:
        self._mesh = mesh
        self.settings = settings
        self._table = table

    def order_drawn(self, order: int, hosts: int) -> list[Effect]:
        """A number for linking ``hosts`` has come."""
        waiting = hostset.of(
            n for n in members(hosts) if n in self._table.hosts and self._table.hosts[n].phase is Phase.WAITING
        )
        return self.link(waiting, order)

    def tick(self, now_s: float) -> list[Effect]:
        """Retries that are due."""
        due = hostset.of(n for n, h in self._table.hosts.items() if h.phase is Phase.DOWN and h.retry_at <= now_s)
        if not due:
            return []
        for number in members(due):
            self._table.move(number, Phase.WAITING)
        waiting = hostset.of(
            n
            for top in members(due)
            for n in members(self._table.below(top))
            if self._table.hosts[n].phase is Phase.WAITING
        )
        return [DrawOrder(waiting)]

    def link(self, waiting: int, order: int) -> list[Effect]:
        """Link orders for ``waiting`` hosts whose parent is up or is linked by the same order."""
        effects: list[Effect] = []
        for top in members(waiting):
            host = self._table.hosts[top]
            if host.parent is not None and (
                waiting >> host.parent & 1 or self._table.hosts[host.parent].phase is not Phase.UP
            ):
                continue
            chosen = self._linkable(top, waiting)
            for number in members(chosen):
                self._table.move(number, Phase.LINKING)
                self._table.hosts[number].order = order
            effects += self._order_link(top, order, chosen)
        return effects

    def _linkable(self, top: int, waiting: int) -> int:
        """The hosts of ``waiting`` that hang below ``top`` through hosts of ``waiting`` only, ``top`` included."""
        chosen = 1 << top
        for child in self._table.hosts[top].children:
            if waiting >> child & 1:
                chosen |= self._linkable(child, waiting)
        return chosen

    def _order_link(self, top: int, order: int, chosen: int) -> list[Effect]:
        host = self._table.hosts[top]
        root = self._table.root_of(top)
        epoch = self._table.epochs[root]
        if host.parent is None:
            hello = orders.hello_frame(self._mesh, self.settings, top, host.entry, order, epoch)
            links = orders.link_frames(self.settings, top, order, epoch, self._tree_entries(chosen & ~(1 << top), top))
            return [OpenLink(top, order, (hello, *links))]
        links = orders.link_frames(self.settings, host.parent, order, epoch, self._tree_entries(chosen, host.parent))
        return [Send(root, frame) for frame in links]

    def _tree_entries(self, chosen: int, start: int) -> list[tuple[int, int, HostEntry]]:
        """(number, parent, entry) of ``chosen`` below ``start``, parents before children."""
        found: list[tuple[int, int, HostEntry]] = []
        queue = [start]
        while queue:
            parent = queue.pop(0)
            for child in sorted(self._table.hosts[parent].children):
                if chosen >> child & 1:
                    found.append((child, parent, self._table.hosts[child].entry))
                    queue.append(child)
        return found

    def is_final(self, host: Host, code: str) -> bool:
        """Whether a link lost for ``code`` is not tried again."""
        if host.was_up:
            return host.tries >= RETRIES_OF_LIVING or code in NEVER_PASSING
        return code not in PASSING_AT_JOIN or host.tries >= RETRIES_AT_JOIN

    def retry_later(self, child: int, now_s: float) -> None:
        """The host is DOWN: tries again, each time twice as late."""
        host = self._table.hosts[child]
        host.retry_at = now_s + RETRY_FIRST_S * 2**host.tries
        host.tries += 1

    def link_stranded(self, fresh: int) -> list[Effect]:
        """Hosts that waited for a parent that has now come up."""
        stranded = hostset.of(
            child
            for number in members(fresh)
            for child in self._table.hosts[number].children
            if self._table.hosts[child].phase is Phase.WAITING
        )
        return [DrawOrder(self._table.waiting_below(stranded))] if stranded else []

    def give_up(self, child: int, code: str, detail: str) -> list[Effect]:
        """The host is gone; what hung below it moves up to its parent, or becomes subtrees of its own."""
        host = self._table.hosts[child]
        self._table.move(child, Phase.GONE)
        host.reason = (code, detail)
        orphans = sorted(host.children)
        if not orphans:
            return []
        if host.parent is not None:
            for orphan in orphans:
                self._table.reparent(orphan, host.parent)
            return [DrawOrder(self._table.waiting_below(hostset.of(orphans)))]
        return [Reassign(self._table.split_off(child))]
