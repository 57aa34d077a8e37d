"""A worker's part in tests of standard input: sends what hosts need, within their windows and the link's."""

from __future__ import annotations

import time
from typing import Any

from plush_worker.mesh.stdin_feed import StdinFeed
from plush_worker.node import frames, hostset, messages, stdin

from .node_driver import NodeDriver


class Feeder:
    """The standard input ``data`` of one op on the hosts of a driver. ``loses(piece number)``: not sent at all."""

    def __init__(self, node: NodeDriver, op: int, data: bytes, hosts: Any = (0,), loses: Any = lambda number: False):
        self.node, self.op, self.data, self.loses = node, op, data, loses
        self.hosts = hostset.of(hosts)
        self.feed = StdinFeed(len(data))
        self.pieces = 0
        self.sent_bytes = 0  # bulk bytes on the link, running total
        self.furthest = 0  # the highest offset that was sent
        self._seen = 0

    def turn(self) -> None:
        """Take in what has come since, send what may go."""
        for frame in self.node.seen[self._seen :]:
            if frame.kind == frames.NEED and frame.fields["op"] == self.op:
                hosts = hostset.of(frame.hosts)
                self.feed.need(hosts, frame.fields["offset"], frame.fields["again"], time.monotonic())
        self._seen = len(self.node.seen)
        self.feed.check_invariants()
        while self.sent_bytes - self.credited() < self.node.window - 40_000:
            piece = self.feed.next_piece(self.hosts, self.hosts, time.monotonic())
            if piece is None:
                return
            self.pieces += 1
            data = self.data[piece.offset : piece.offset + piece.length]
            body = stdin.encode(self.op, piece.offset, data, stdin.END if piece.end else 0)
            frame = frames.encode(frames.STDIN, hostset.encode(piece.hosts), body)
            self.furthest = max(self.furthest, piece.offset + piece.length)
            if not self.loses(self.pieces):
                self.sent_bytes += len(frame)
                self.node.write(frame)

    def credited(self) -> int:
        """What the node program has taken in."""
        return max((messages.decode_credit(frame.body) for frame in self.node.of(frames.CREDIT)), default=0)

    def until(self, what: Any, timeout_s: float = 20.0) -> None:
        """Feed until ``what()``."""
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, f"not within {timeout_s} s; sent {self.pieces}\n{self.node.story()}"
            self.turn()
            self.node.read(0.05)
