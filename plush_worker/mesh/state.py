"""The state of one mesh as far as one worker owns it: which hosts are linked, how ops stand on them. Pure.

Events come in as method calls (frames, links opened and lost, orders from the coordinator, the clock), effects go
out as a list (``effects.py``) that the driver performs in order. Nothing here reads a clock, a socket or the store.
Its parts: ``host_table.py`` (the tree and its phases), ``linking.py`` (link orders, retries), ``op_traffic.py`` (ops).
Entry points: ``open_subtrees``, ``frame_received``, ``link_lost``, ``op_ordered``, ``tick``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from plush_worker.mesh.effects import CloseLink, DrawOrder, Effect, Emit, Log, SaveUp
from plush_worker.mesh.host_table import ANY_OP, HostTable, Phase
from plush_worker.mesh.linking import Linking
from plush_worker.mesh.op_traffic import OpTraffic
from plush_worker.mesh.progress import OpProgress, SyncPoint
from plush_worker.mesh.stdin_feed import Piece
from plush_worker.model import HostEntry, OpRecord, SliceSettings, SubtreeRecord
from plush_worker.node import frames, hostset, messages
from plush_worker.node.hostset import members, to_text


class MeshState:
    """See the module's docstring. ``mesh`` is the mesh's id."""

    def __init__(self, mesh: str, settings: SliceSettings) -> None:
        self.table = HostTable()
        self.linking = Linking(mesh, settings, self.table)
        self.traffic = OpTraffic(self.table)
        self.interest: dict[str, int] = {}  # run -> hosts it wants to hear of

    # ---- what the store and the coordinator order

    def open_subtrees(
        self, run_id: str, records: Iterable[SubtreeRecord], entries: Mapping[int, HostEntry], hosts: int
    ) -> list[Effect]:
        """Owns these subtrees from now on and links what isn't linked; tells the run what is up already.

        ``hosts`` are the ones the run asks for: only these are tried again when they had been given up.
        """
        wanted: dict[int, int] = {}
        for record in records:
            self.table.adopt(record, entries)
            for number in members(hostset.from_text(record.members)):
                host = self.table.hosts[number]
                if host.phase is Phase.GONE and hosts >> number & 1:
                    self.table.move(number, Phase.WAITING)
                    host.tries = 0
                if host.phase is Phase.WAITING:
                    order = record.epoch if record.epoch > host.order else 0
                    wanted[order] = wanted.get(order, 0) | 1 << number
        effects: list[Effect] = []
        if run_id:
            self.interest[run_id] = self.interest.get(run_id, 0) | hosts
            effects += self._tell_standing(run_id, hosts)
        for order, waiting in wanted.items():
            effects += self.linking.link(waiting, order) if order else [DrawOrder(waiting)]
        return effects + self.traffic.subtrees_opened()

    def order_drawn(self, order: int, hosts: int) -> list[Effect]:
        """A number for linking ``hosts`` has come."""
        return self.linking.order_drawn(order, hosts)

    def op_ordered(self, record: OpRecord, stdin_bytes: int | None = None, refused: str = "") -> list[Effect]:
        """An op of the coordinator's; sent to those of its hosts that can take it. Idempotent.

        ``stdin_bytes``: the size of its standard input, None without one. ``refused``: why it fails on every host.
        """
        if record.op in self.traffic.ops:
            return []
        effects = self.traffic.op_ordered(record, stdin_bytes, refused)
        if record.kind != "signal":
            targets = self.traffic.ops[record.op].targets
            self.interest[record.run_id] = self.interest.get(record.run_id, 0) | targets
            effects += self._tell_given_up(record.run_id, targets)
        return effects

    def op_forgotten(self, op: int) -> list[Effect]:
        """Nobody knows the op that hosts hold: they may forget it."""
        return self.traffic.op_forgotten(op)

    def run_over(self, run_id: str) -> list[Effect]:
        """The run is over: what is left of its ops here is forgotten."""
        self.interest.pop(run_id, None)
        return self.traffic.ops_closed(run_id)

    def close_subtrees(self, roots: Iterable[int], kill: bool) -> list[Effect]:
        """Ends these subtrees: node programs quit (after their living ops, with ``kill``), links are closed."""
        effects: list[Effect] = []
        for root in [r for r in roots if r in self.table.epochs]:
            if self.table.hosts[root].phase in (Phase.LINKING, Phase.UP):
                body = messages.encode(frames.QUIT, kill=kill)
                effects.append(self.table.send(root, frames.QUIT, self.table.below(root), body))
            effects.append(CloseLink(root))
            self.table.forget_subtree(root)
        return effects

    def beat(self) -> list[Effect]:
        """The owner's beat, to all that is linked."""
        reach = self.table.in_reach(self.table.mine(), ANY_OP)
        return self.table.multicast(reach, frames.BEAT, messages.encode(frames.BEAT))

    # ---- what the links report

    def link_lost(self, root: int, code: str, detail: str, reached: bool, now_s: float) -> list[Effect]:
        """The worker's own link to a subtree root failed or ended."""
        if root not in self.table.hosts:
            return []
        return self._lost(root, self.table.hosts[root].order, code, detail, reached, now_s)

    def frame_received(self, root: int, kind: int, hosts: int, body: bytes, now_s: float) -> list[Effect]:
        """A frame from below ``root``; dropped when it speaks for others (P6). Raises MessageError."""
        if root not in self.table.epochs:
            return []
        strangers = hosts & ~self.table.below(root)
        if strangers or not hosts:
            text = f"{self.table.name(root)} spoke for hosts {to_text(strangers)} that are not below it: dropped"
            return [Log(text)]
        if kind == frames.OUTPUT:
            return self.traffic.take_output(hosts, body)
        values = messages.decode(kind, body)
        if kind == frames.STATE:
            return self.traffic.take_state(hosts, values)
        if kind == frames.READY:
            return self._ready(hosts, values["order"])
        if kind == frames.LOST:
            return self._lost_below(root, hosts, values, now_s)
        if kind == frames.HELD:
            return self.traffic.take_held(hosts, values["op"])
        if kind == frames.NEED:
            return self.traffic.take_need(hosts, values, now_s)
        return [Log(f"{self.table.name(hostset.lowest(hosts))}: {values.get('text', frames.NAMES[kind])}")]

    # ---- standard input

    def next_stdin(self, root: int, now_s: float) -> Iterator[tuple[int, Piece]]:
        """(op, piece): what may go to the subtree of ``root`` now, a piece of each op that has one; taken as sent."""
        if root not in self.table.epochs:
            return
        below = self.table.below(root)
        for op, progress in self.traffic.ops.items():
            if progress.stdin is not None and progress.stdin.asked:
                piece = progress.stdin.next_piece(below, self._may_still_ask(progress), now_s)
                if piece is not None:
                    yield op, piece

    def _may_still_ask(self, progress: OpProgress) -> int:
        return progress.sent & ~progress.ended & self.table.in_reach(progress.sent, progress.record.op)

    def stdin_wakes_at_s(self) -> float | None:
        """When next_stdin() may have something without anything else happening; asked for once."""
        feeds = [progress.stdin for progress in self.traffic.ops.values() if progress.stdin is not None]
        times = [feed.wake_at_s for feed in feeds if feed.wake_at_s is not None]
        for feed in feeds:
            feed.wake_at_s = None
        return min(times, default=None)

    # ---- output on disk

    def sync_points(self) -> dict[int, SyncPoint]:
        """What a write that begins now will make safe; give it back to synced() when it has ended."""
        return self.traffic.sync_points()

    def synced(self, points: Mapping[int, SyncPoint]) -> list[Effect]:
        """Output taken in before ``points`` is on disk: report ends, acknowledge."""
        return self.traffic.synced(points)

    # ---- time

    def tick(self, now_s: float) -> list[Effect]:
        """Retries that are due; ops that have been running for a while."""
        return [*self.linking.tick(now_s), *self.traffic.report_started()]

    def busy(self) -> bool:
        """Whether a run still waits for something here."""
        return bool(self.traffic.ops or self.interest)

    def check_invariants(self) -> None:
        """Raises AssertionError when the state contradicts itself. Called after every step in tests."""
        self.table.check_invariants()
        self.traffic.check_invariants()

    # ---- inside

    def _ready(self, hosts: int, order: int) -> list[Effect]:
        fresh = 0
        for number in members(hosts):
            fresh |= self._come_up(number, order)
        if not fresh:
            return []
        effects = self._tell(fresh, {"type": "hosts_up", "order": order})
        effects += [SaveUp(root, up) for root, up in self.table.refresh_up(fresh).items()]
        effects += self.traffic.catch_up(fresh, order)
        return effects + self.linking.link_stranded(fresh)

    def _come_up(self, number: int, order: int) -> int:
        """The host is up under that order, and so is what it hangs below: its answer came through there."""
        host = self.table.hosts[number]
        if host.phase is not Phase.LINKING or host.order != order:
            return 0
        above = 0
        if host.parent is not None and self.table.hosts[host.parent].phase is not Phase.UP:
            above = self._come_up(host.parent, order)
            if not above:
                return 0
        self.table.move(number, Phase.UP)
        host.was_up = host.ever_reached = True
        host.tries = 0
        return above | 1 << number

    def _lost_below(self, root: int, hosts: int, values: dict[str, Any], now_s: float) -> list[Effect]:
        child = values["child"]
        if child == root or child < 0 or not hosts >> child & 1:
            return [Log(f"{self.table.name(root)} reported the loss of a host that is not below it: dropped")]
        return self._lost(child, values["order"], values["code"], values["detail"], values["reached"], now_s)

    def _lost(self, child: int, order: int, code: str, detail: str, reached: bool, now_s: float) -> list[Effect]:
        host = self.table.hosts[child]
        if host.order != order or host.phase not in (Phase.LINKING, Phase.UP):
            return []
        fallen = 0
        host.ever_reached |= reached
        for number in members(self.table.below(child) & ~(1 << child)):
            below = self.table.hosts[number]
            below.ever_reached |= reached and below.phase is Phase.LINKING
            if below.phase in (Phase.LINKING, Phase.UP):
                fallen |= 1 << number
            if below.phase in (Phase.LINKING, Phase.UP, Phase.DOWN):
                self.table.move(number, Phase.WAITING)
        self.traffic.unreached(
            hostset.of(n for n in members(fallen | 1 << child) if not self.table.hosts[n].ever_reached)
        )
        self.traffic.unlinked(self.table.below(child))
        self.table.move(child, Phase.DOWN)
        final = self.linking.is_final(host, code)
        lost = {"type": "hosts_lost", "child": child, "reached": reached}
        above = {**lost, "code": "parent", "detail": f"{host.entry.name} above it was lost", "final": False}
        effects = self._tell(fallen, above) if fallen else []
        effects += self._tell(1 << child, {**lost, "code": code, "detail": detail, "final": final})
        effects += [SaveUp(root, up) for root, up in self.table.refresh_up(fallen | 1 << child).items()]
        if final:
            return effects + self.linking.give_up(child, code, detail)
        self.linking.retry_later(child, now_s)
        return effects

    def _tell(self, hosts: int, event: dict[str, Any]) -> list[Effect]:
        return [
            Emit(run_id, {**event, "hosts": to_text(hosts & wanted)})
            for run_id, wanted in self.interest.items()
            if hosts & wanted
        ]

    def _tell_standing(self, run_id: str, hosts: int) -> list[Effect]:
        by_order: dict[int, int] = {}
        for number in members(hosts & self.table.up()):
            order = self.table.hosts[number].order
            by_order[order] = by_order.get(order, 0) | 1 << number
        return [
            Emit(run_id, {"type": "hosts_up", "order": order, "hosts": to_text(up)}) for order, up in by_order.items()
        ]

    def _tell_given_up(self, run_id: str, targets: int) -> list[Effect]:
        effects: list[Effect] = []
        for number in members(targets & ~self.table.up()):
            host = self.table.hosts[number]
            if host.phase is Phase.GONE:
                code, detail = host.reason
                lost = {"type": "hosts_lost", "child": number, "code": code, "detail": detail}
                effects.append(Emit(run_id, {**lost, "reached": False, "final": True, "hosts": to_text(1 << number)}))
        return effects
