"""Who links to whom, decided while the tree grows: work stealing, as TakTuk does it. Pure.

Source: Claudel, Huard, Richard: TakTuk, adaptive deployment of remote executions, HPDC 2009; and what TakTuk 3.7.7
does, which gives one host to a thief whenever it asks (the growth that its manual describes does not come about).
A simulation only: Plush plans before it links. Entry point: ``Stealing``, played by ``simulate.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from .events import Agenda

WINDOW = 10  # logins that one TakTuk has in progress (its option -w)


class Stealing:
    """The lists of hosts yet to be linked to, one for each node, and the thefts between a node and its parent.

    A node whose list is empty, and which may have more logins in progress, asks its parent. A parent that has nothing
    either keeps the thief waiting and asks its own parent. A message takes half a round trip. Nodes are hosts
    (0 and up) and workers (negative).
    """

    def __init__(
        self,
        agenda: Agenda,
        shares: Mapping[int, Sequence[int]],  # worker -> the hosts that it begins with
        parents: Sequence[int],  # host -> parent; filled while the tree grows
        message_s: Callable[[int, int], float],  # from one node to another
        go_on: Callable[[int], None],  # a node has got work
    ) -> None:
        self._agenda = agenda
        self._parents = parents
        self._message_s = message_s
        self._go_on = go_on
        self._hosts: dict[int, deque[int]] = {worker: deque(hosts) for worker, hosts in shares.items()}
        self._thieves: dict[int, deque[int]] = {}  # node -> its children that wait
        self._asked: set[int] = set()
        self.handed_on_count = 0

    def take(self, node: int) -> int | None:
        """The next host for a node to link to."""
        hosts = self._hosts.get(node)
        return hosts.popleft() if hosts else None

    def want(self, node: int) -> None:
        """The node could link to more hosts than it has: it asks, unless it has asked already."""
        if node < 0 or node in self._asked or self._hosts.get(node):
            return
        self._asked.add(node)
        parent = self._parents[node]
        self._agenda.after(self._message_s(node, parent), self._asked_by, parent, node)

    def _asked_by(self, node: int, thief: int) -> None:
        if not self._give(node, thief):
            self._thieves.setdefault(node, deque()).append(thief)
            self.want(node)

    def _give(self, node: int, thief: int) -> bool:
        host = self.take(node)
        if host is None:
            return False
        self.handed_on_count += 1
        self._agenda.after(self._message_s(node, thief), self._receive, thief, host)
        return True

    def _receive(self, node: int, host: int) -> None:
        self._asked.discard(node)
        self._hosts.setdefault(node, deque()).append(host)
        self._go_on(node)  # its own links come first
        thieves = self._thieves.get(node)
        while thieves and self._give(node, thieves[0]):
            thieves.popleft()
        if thieves:
            self.want(node)
