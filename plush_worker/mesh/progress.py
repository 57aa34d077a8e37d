"""How one op stands on the hosts of one worker: sent, started, output taken in, ended, reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plush_worker.mesh.ledger import StreamLedger
from plush_worker.mesh.stdin_feed import StdinFeed
from plush_worker.model import OpRecord
from plush_worker.node import hostset, messages

ACK_AFTER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """A final state, equal for all the hosts that ended so."""

    state: str
    code: int | None
    signal: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class SyncPoint:
    """What was complete, and how far the streams were, when a write to disk began."""

    complete: int
    offsets: tuple[tuple[int, int, int], ...]  # (hosts, stdout offset, stderr offset), of hosts that go on


@dataclass(slots=True)
class OpProgress:
    """One op that is no signal, as far as this worker's hosts go. All sets are host sets."""

    record: OpRecord
    targets: int
    refused: str = ""  # why it is not sent at all
    stdin: StdinFeed | None = None
    sent: int = 0  # an OP frame may have reached them
    started: int = 0
    started_reported: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    ended: int = 0  # union of outcomes
    reported: int = 0  # op_ended was appended to the run's stream
    stdout: StreamLedger = field(default_factory=StreamLedger)
    stderr: StreamLedger = field(default_factory=StreamLedger)
    signals: list[OpRecord] = field(default_factory=list)
    bytes_since_ack: int = 0
    acked_bytes: dict[int, int] = field(default_factory=dict)  # a group's lowest host -> stdout + stderr acknowledged

    def take_state(self, hosts: int, values: dict[str, Any]) -> int:
        """Takes a STATE message in; returns the hosts for which it was new."""
        if values["state"] == "started":
            new = hosts & ~self.started
            self.started |= hosts
            return new
        new = hosts & ~self.ended
        if new:
            outcome = Outcome(values["state"], values["code"], values["signal"], values["detail"])
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) | new
            self.ended |= new
            if self.stdin is not None:
                self.stdin.drop(new)
        return new

    def stream(self, number: int) -> StreamLedger:
        """The ledger of stdout (1) or stderr (2)."""
        return self.stdout if number == messages.STDOUT else self.stderr

    def complete(self) -> int:
        """Hosts that have ended and whose output is all here, and that have not been reported yet."""
        found = self.ended & self.stdout.ended & self.stderr.ended
        for outcome, hosts in self.outcomes.items():
            if outcome.state in ("failed", "unknown"):
                found |= hosts
            elif outcome.state == "killed":
                found |= hosts & ~self.started
        return found & ~self.reported

    def sync_point(self) -> SyncPoint:
        """A picture to be handed back, after the write, to acknowledgements()."""
        complete = self.complete()
        going_on = self.sent & ~complete & ~self.reported
        due = self.bytes_since_ack >= ACK_AFTER_BYTES
        return SyncPoint(complete, tuple(self.offsets(going_on)) if due else ())

    def offsets(self, hosts: int) -> list[tuple[int, int, int]]:
        """(hosts, stdout offset, stderr offset), one for each group that is equally far."""
        return [
            (group & other, out, err)
            for out, group in self.stdout.offsets(hosts)
            for err, other in self.stderr.offsets(group)
        ]

    def acknowledgements(self, point: SyncPoint) -> list[tuple[int, int, int]]:
        """Groups of ``point`` that are far enough beyond what was acknowledged, to be acknowledged now."""
        due = []
        for hosts, out, err in point.offsets:
            key = hostset.lowest(hosts)
            if out + err - self.acked_bytes.get(key, 0) >= ACK_AFTER_BYTES:
                self.acked_bytes[key] = out + err
                due.append((hosts, out, err))
        if point.offsets:
            self.bytes_since_ack = 0
        return due
