"""Ops on the hosts of one worker: sent, signalled, their states and output taken in, acknowledged, closed. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plush_worker.mesh import orders
from plush_worker.mesh.effects import AskOp, Effect, Emit, FeedStdin, StoreOutput
from plush_worker.mesh.host_table import ANY_OP, HostTable
from plush_worker.mesh.progress import OpProgress, SyncPoint
from plush_worker.mesh.stdin_feed import StdinFeed
from plush_worker.model import OpRecord
from plush_worker.node import frames, hostset, messages
from plush_worker.node.hostset import to_text

GAP_COUNT_BYTES = 8  # a gap's piece is the number of bytes lost


class OpTraffic:
    """Works on the host table; what it returns is for the driver."""

    def __init__(self, table: HostTable) -> None:
        self._table = table
        self.ops: dict[int, OpProgress] = {}
        self._unclaimed: dict[int, int] = {}  # op held by hosts, not known here -> those hosts

    def op_ordered(self, record: OpRecord, stdin_bytes: int | None = None, refused: str = "") -> list[Effect]:
        """See MeshState.op_ordered."""
        if record.kind == "signal":
            return self._signal_ordered(record)
        if record.op in self.ops:
            return []
        targets = hostset.from_text(record.hosts) & self._table.mine()
        progress = self.ops[record.op] = OpProgress(record, targets, refused)
        if refused:
            return self._refuse(progress, targets)
        if stdin_bytes is not None:
            progress.stdin = StdinFeed(stdin_bytes)
        effects = self._send_op(progress, self._table.in_reach(targets, record.op))
        if held := self._unclaimed.pop(record.op, 0):
            effects += self._resume(progress, held)
        return effects

    def subtrees_opened(self) -> list[Effect]:
        """Hosts have become this worker's: ops that were ordered for them before, since wake-ups cross, go out."""
        effects: list[Effect] = []
        mine = self._table.mine()
        for op, progress in self.ops.items():
            new = hostset.from_text(progress.record.hosts) & mine & ~progress.targets
            if new:
                progress.targets |= new
                if progress.refused:
                    effects += self._refuse(progress, new)
                else:
                    effects += self._send_op(progress, self._table.in_reach(new, op))
        return effects

    @staticmethod
    def _refuse(progress: OpProgress, hosts: int) -> list[Effect]:
        progress.ended |= hosts
        progress.reported |= hosts
        ended = {"type": "op_ended", "op": progress.record.op, "hosts": to_text(hosts), "state": "failed"}
        event = ended | {"code": None, "signal": None, "detail": progress.refused}
        return [Emit(progress.record.run_id, event)] if hosts else []

    def op_forgotten(self, op: int) -> list[Effect]:
        """Nobody knows the op that hosts hold: they may forget it."""
        return self._close_op(op, self._unclaimed.pop(op, 0))

    def ops_closed(self, run_id: str) -> list[Effect]:
        """The run is over: what is left of its ops here is forgotten."""
        effects: list[Effect] = []
        for op, progress in list(self.ops.items()):
            if progress.record.run_id == run_id:
                effects += self._close_op(op, progress.targets & ~progress.reported)
                del self.ops[op]
        return effects

    def sync_points(self) -> dict[int, SyncPoint]:
        """What a write that begins now will make safe; give it back to synced() when it has ended."""
        return {op: progress.sync_point() for op, progress in self.ops.items()}

    def synced(self, points: Mapping[int, SyncPoint]) -> list[Effect]:
        """Output taken in before ``points`` is on disk and indexed: report ends, acknowledge."""
        effects: list[Effect] = []
        for op, point in points.items():
            progress = self.ops.get(op)
            if progress is None:
                continue
            for hosts, out, err in progress.acknowledgements(point):
                effects += self._acknowledge(op, progress, hosts, out, err, resume=False)
            effects += self._report_ended(op, progress, point.complete & ~progress.reported)
        return effects

    def _signal_ordered(self, record: OpRecord) -> list[Effect]:
        progress = self.ops.get(record.ref)
        if progress is None:
            targets = hostset.from_text(record.hosts) & self._table.mine()
            return self._send_signal(record, self._table.in_reach(targets, ANY_OP))
        if any(known.op == record.op for known in progress.signals):
            return []
        progress.signals.append(record)
        targets = hostset.from_text(record.hosts) & progress.targets & ~progress.ended
        return self._send_signal(record, self._table.in_reach(targets, ANY_OP))

    def _send_signal(self, record: OpRecord, hosts: int) -> list[Effect]:
        body = messages.encode(
            frames.SIGNAL, op=record.op, ref=record.ref, signal=record.signal, grace_ms=record.grace_ms
        )
        return self._table.multicast(hosts, frames.SIGNAL, body)

    def _send_op(self, progress: OpProgress, hosts: int) -> list[Effect]:
        if not hosts:
            return []
        progress.sent |= hosts
        return self._table.multicast(hosts, frames.OP, orders.op_body(progress.record))

    def catch_up(self, fresh: int, order: int) -> list[Effect]:
        """Hosts have come up: an op newer than their admission goes to them; an older one that may have reached an
        earlier incarnation is sent again, so that the host says what became of it (P1 keeps it from starting)."""
        effects: list[Effect] = []
        for op, progress in self.ops.items():
            waiting = fresh & progress.targets & ~progress.ended
            again = waiting & progress.sent if order > op else 0
            first = waiting & ~progress.sent if order < op else 0
            effects += self._send_op(progress, again | first)
            for record in progress.signals:
                effects += self._send_signal(record, waiting & hostset.from_text(record.hosts))
            effects += self._close_op(op, fresh & progress.reported)
        return effects

    def unreached(self, hosts: int) -> None:
        """The link to these hosts failed before a node program could read anything: no op got to them."""
        for progress in self.ops.values():
            progress.sent &= progress.started | ~hosts

    def take_state(self, hosts: int, values: dict[str, Any]) -> list[Effect]:
        """A STATE message."""
        progress = self.ops.get(values["op"])
        if progress is None:
            return []
        progress.take_state(hosts & progress.targets, values)
        return []

    def report_started(self) -> list[Effect]:
        """One event for all that have started since the last call and still run: what ends soon needs none."""
        effects: list[Effect] = []
        for op, progress in self.ops.items():
            if new := progress.started & ~progress.started_reported & ~progress.ended:
                progress.started_reported |= new
                event = {"type": "op_started", "op": op, "hosts": to_text(new)}
                effects.append(Emit(progress.record.run_id, event))
        return effects

    def take_output(self, hosts: int, body: bytes) -> list[Effect]:
        """An OUTPUT message. Raises MessageError."""
        op, stream, flags, offset = messages.decode_output(body)
        progress = self.ops.get(op)
        if progress is None:
            return []
        size_bytes = _output_bytes(body, flags)
        hosts &= progress.targets
        ledger, end = progress.stream(stream), bool(flags & messages.END)
        effects: list[Effect] = []
        for known, group in ledger.partly_known(hosts, offset, size_bytes, end):
            rest = _without_first(body, op, stream, flags, offset, known)
            ledger.advance(group, known, offset + size_bytes - known, end)
            effects.append(self._store(progress, group, rest))
        accepted, ahead = ledger.advance(hosts, offset, size_bytes, end)
        if ahead:
            effects += self._resume(progress, ahead)
        if accepted:
            effects.append(self._store(progress, accepted, body))
        return effects

    @staticmethod
    def _store(progress: OpProgress, hosts: int, body: bytes) -> StoreOutput:
        progress.bytes_since_ack += len(body)
        return StoreOutput(progress.record.run_id, frames.encode(frames.OUTPUT, hostset.encode(hosts), body))

    def take_need(self, hosts: int, values: dict[str, Any], now_s: float) -> list[Effect]:
        """A NEED message: processes have read so much of their standard input, or miss what follows."""
        progress = self.ops.get(values["op"])
        if progress is None or progress.stdin is None:
            return []
        wanted = hosts & progress.targets & ~progress.ended
        if wanted:
            progress.stdin.need(wanted, values["offset"], values["again"], now_s)
        return [FeedStdin()]

    def unlinked(self, hosts: int) -> None:
        """The links to these hosts are gone: nothing can be sent until they say again what they need."""
        for progress in self.ops.values():
            if progress.stdin is not None:
                progress.stdin.drop(hosts)

    def take_held(self, hosts: int, op: int) -> list[Effect]:
        """A HELD message: node programs took the op over and ask where to go on."""
        progress = self.ops.get(op)
        if progress is not None:
            effects = self._resume(progress, hosts & progress.targets)
            return effects + self._close_op(op, hosts & progress.reported)
        known = op in self._unclaimed
        self._unclaimed[op] = self._unclaimed.get(op, 0) | hosts
        return [] if known else [AskOp(op)]

    def _resume(self, progress: OpProgress, hosts: int) -> list[Effect]:
        effects: list[Effect] = []
        progress.sent |= hosts
        for group, out, err in progress.offsets(hosts):
            effects += self._acknowledge(progress.record.op, progress, group, out, err, resume=True)
        return effects

    def _acknowledge(
        self, op: int, progress: OpProgress, hosts: int, out: int, err: int, *, resume: bool
    ) -> list[Effect]:
        effects: list[Effect] = []
        for ordinal, group in enumerate(
            (
                hosts & ~progress.started & ~progress.ended,
                hosts & progress.started & ~progress.ended,
                hosts & progress.ended,
            )
        ):
            body = messages.encode(frames.ACK, op=op, stdout=out, stderr=err, ordinal=ordinal, resume=resume)
            effects += self._table.multicast(self._table.in_reach(group, ANY_OP), frames.ACK, body)
        return effects

    def _report_ended(self, op: int, progress: OpProgress, complete: int) -> list[Effect]:
        if not complete:
            return []
        effects: list[Effect] = []
        for outcome, hosts in progress.outcomes.items():
            if ended := hosts & complete:
                event = {"type": "op_ended", "op": op, "hosts": to_text(ended), "state": outcome.state}
                event |= {"code": outcome.code, "signal": outcome.signal, "detail": outcome.detail}
                closes = self._close_op(op, ended)
                effects.append(Emit(progress.record.run_id, event, then=tuple(closes)))
        progress.reported |= complete
        return effects

    def _close_op(self, op: int, hosts: int) -> list[Effect]:
        return self._table.multicast(
            self._table.in_reach(hosts, ANY_OP), frames.CLOSE, messages.encode(frames.CLOSE, ops=[op])
        )

    def check_invariants(self) -> None:
        """Raises AssertionError when the state contradicts itself."""
        for op, progress in self.ops.items():
            assert not progress.ended & ~progress.targets, f"op {op} ended where it was not sent"
            assert not progress.reported & ~progress.ended, f"op {op} was reported before it ended"
            progress.stdout.check_invariants()
            progress.stderr.check_invariants()
            if progress.stdin is not None:
                progress.stdin.check_invariants()


def _output_bytes(body: bytes, flags: int) -> int:
    """How far the piece moves its stream on. Raises MessageError for a gap that isn't a number."""
    size_bytes = len(body) - messages.OUTPUT_HEADER_BYTES
    if not flags & messages.GAP:
        return size_bytes
    if size_bytes != GAP_COUNT_BYTES:
        raise messages.MessageError(f"a gap of {size_bytes} bytes, not {GAP_COUNT_BYTES}")
    return int.from_bytes(body[messages.OUTPUT_HEADER_BYTES :], "big")


def _without_first(body: bytes, op: int, stream: int, flags: int, offset: int, known: int) -> bytes:
    """The piece without what is known of it: from offset ``known`` on."""
    data = body[messages.OUTPUT_HEADER_BYTES :]
    if flags & messages.GAP:
        left = int.from_bytes(data, "big") - (known - offset)
        data = left.to_bytes(GAP_COUNT_BYTES, "big")
    else:
        data = data[known - offset :]
    return messages.encode_output(op, stream, known, data, flags)
