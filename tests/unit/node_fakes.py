"""Stand-ins for a session's surroundings: a loop with a clock of its own, ops, and an opener of links."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from plush_worker.node import frames, hostset, messages
from plush_worker.node.flow import Link
from plush_worker.node.routing import Child, Tree
from plush_worker.node.session import Session


class FakeLoop:
    """Timers that fire when the test advances the clock."""

    def __init__(self) -> None:
        self.time_s, self.running, self.on_child_exit = 0.0, True, object()
        self.timers: list[list[Any]] = []

    def now(self) -> float:
        return self.time_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> list[Any]:
        self.timers.append([self.time_s + delay_s, len(self.timers), callback])
        return self.timers[-1]

    def cancel(self, timer: list[Any] | None) -> None:
        if timer in self.timers:
            self.timers.remove(timer)

    def advance(self, seconds: float) -> None:
        end = self.time_s + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[:2])
            self.timers.remove(timer)
            self.time_s = max(self.time_s, timer[0])
            timer[2]()
        self.time_s = end


class FakeOps:
    def __init__(self, node: Any = None) -> None:
        self.calls: list[Any] = []

    def handle(self, kind: int, epoch: int, body: bytes) -> None:
        self.calls.append((kind, epoch, body))

    def pass_stdin(self, op: int, frame: bytes) -> None:
        self.calls.append((op, frame))

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def recover(self) -> None:
        self.calls.append("recover")

    def quit(self, kill: bool, done: Callable[[], None]) -> None:
        self.calls.append(("quit", kill))
        self.done = done


class FakeOpener:
    def __init__(self) -> None:
        self.opened: list[tuple[Child, list[str]]] = []
        self.closed: list[Child] = []
        self.paused: dict[int, bool] = {}

    def open(self, child: Child, options: list[str]) -> None:
        self.opened.append((child, options))

    def close(self, child: Child) -> None:
        self.closed.append(child)

    def pause(self, child: Child, paused: bool) -> None:
        self.paused[child.number] = paused

    def beat(self) -> None:
        pass


class Bench:
    """A session of host 0 with everything around it faked; what it sends is decoded."""

    def __init__(self, host: int = 0, order: int = 1, window: int = 1 << 20) -> None:
        self.loop = FakeLoop()
        self.uplink = Link(window, 0.0)
        hello = {
            "version": 1, "mesh": "m", "host": host, "order": order, "name": "h", "beat_s": 5, "hold_ms": 20,
            "window": window, "connect_s": 10,
        }  # fmt: skip
        self.session: Any = Session(hello, self.loop, self.uplink, "/nonexistent", b"wire")
        self.ops = self.session.ops = FakeOps()
        self.opener = FakeOpener()
        self.tree = self.session.tree = Tree(self.session, self.opener)
        self._decoder = frames.Decoder()

    def down(self, kind: int, hosts: list[int] | int, epoch: int = 0, **fields: Any) -> None:
        numbers = hosts if isinstance(hosts, int) else hostset.of(hosts)
        self.session.on_frame(kind, 0, epoch, hostset.encode(numbers), messages.encode(kind, **fields))

    def link(self, order: int, entries: list[tuple[int, int]], /, **changes: Any) -> None:
        rows = [[n, p, f"host{n}", f"10.0.0.{n}", 22, "", b"", 0] for n, p in entries]
        self.down(frames.LINK, [0], **{"order": order, "ssh": [["-v"]], "entries": rows, **changes})

    def child(self, number: int) -> Child:
        found: Child = self.tree.children[number]
        return found

    def up(self, child: int, kind: int, hosts: list[int], body: bytes | None = None, /, **fields: Any) -> None:
        data = messages.encode(kind, **fields) if body is None else body
        self.tree.on_child_frame(self.child(child), kind, 0, 0, hostset.encode(hostset.of(hosts)), data)

    def sent(self) -> list[tuple[str, list[int], dict[str, Any]]]:
        """What went up since the last call."""
        return read(self.uplink, self._decoder)

    def sent_to(self, child: int) -> list[tuple[str, list[int], dict[str, Any]]]:
        """What was queued for a child since the last call; the payload in front of the first HELLO is taken away."""
        link = self.child(child).link
        if link._control and link._control[0] == b"wire":
            link._control.pop(0)
        return read(link, frames.Decoder())


def read(link: Link, decoder: Any) -> list[tuple[str, list[int], dict[str, Any]]]:
    found = []
    while out := bytes(link.output()):
        link.wrote(len(out), 0.0)
        for kind, _, _, hosts, body in decoder.feed(out):
            fields = messages.decode(kind, body) if kind in messages.FIELDS else {"body": body}
            found.append((frames.NAMES[kind], hostset.members(hostset.decode(hosts)), fields))
    return found
