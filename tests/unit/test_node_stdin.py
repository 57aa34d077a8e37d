"""Standard input on a host: passed on to whom it concerns, credited, given to its process in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plush_worker.node import files, frames, hostset, messages, stdin
from plush_worker.node import inlet as inlet_module
from plush_worker.node.inlet import ASK_S, STEP_BYTES, Inlet
from plush_worker.node.limits import STDIN_WINDOW_BYTES as WINDOW

from .node_fakes import Bench

OP = 7


def body(offset: int, data: bytes, flags: int = 0) -> bytes:
    return bytes(stdin.encode(OP, offset, data, flags))


def test_a_piece_survives() -> None:
    assert stdin.decode(stdin.encode(1 << 63, 5, b"data", stdin.END)) == (1 << 63, 5, stdin.END)
    with pytest.raises(messages.MessageError):
        stdin.decode(bytes(stdin.HEADER_BYTES - 1))


# On its way down


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.link(2, [(1, 0), (2, 0), (3, 1)])
    for child in (1, 2):
        bench.sent_to(child)
    bench.sent()
    return bench


def give(bench: Bench, hosts: list[int], data: bytes, epoch: int = 0) -> None:
    bench.session.on_frame(frames.STDIN, 0, epoch, hostset.encode(hostset.of(hosts)), body(0, data))


def test_each_child_gets_a_copy_for_the_hosts_below_it_and_this_host_its_own(bench: Bench) -> None:
    give(bench, [0, 1, 3], b"data")
    assert bench.sent_to(1) == [("STDIN", [1, 3], {"body": body(0, b"data")})]
    assert not bench.sent_to(2)
    assert bench.ops.calls == [(OP, frames.encode(frames.STDIN, b"", body(0, b"data")))]


def test_a_full_queue_loses_the_copy_of_that_child_alone(bench: Bench) -> None:
    bench.child(1).link.window = 1
    big = bytes(1 << 19)
    for _ in range(2 * stdin.QUEUE_BYTES // len(big)):
        give(bench, [1, 2], big)
        bench.sent_to(2)
        bench.child(2).link.on_local(frames.CREDIT, messages.encode_credit(1 << 40))
    assert bench.child(1).link.bulk_bytes <= stdin.QUEUE_BYTES + 2 * len(big)
    assert not bench.child(2).link.bulk_bytes


def test_the_parent_is_credited_for_all_that_came_also_of_an_old_epoch(bench: Bench) -> None:
    give(bench, [2], bytes(1000), epoch=5)
    assert not bench.sent()
    give(bench, [2], bytes(1 << 18), epoch=4)
    [(name, _, fields)] = bench.sent()
    assert name == "CREDIT"
    assert messages.decode_credit(fields["body"]) > 1 << 18
    assert len(bench.sent_to(2)) == 1, "what an owner of before sends is not passed on"


# At the process


class Process:
    """The inlet of a process that is a pipe: read() is what it would read."""

    def __init__(self, clock: list[float]) -> None:
        self.read_fd, write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.said: list[tuple[int, bool]] = []
        self.waiting: Callable[[], None] | None = None
        self.inlet: Any = Inlet(OP, write_fd, self._watch, self._unwatch, self._say)
        self.clock = clock

    def _watch(self, fd: int, events: int, handler: Callable[[], None]) -> None:
        self.waiting = handler

    def _unwatch(self, fd: int) -> None:
        self.waiting = None

    def _say(self, kind: int, said: bytes) -> None:
        fields = messages.decode(kind, said)
        self.said.append((fields["offset"], fields["again"]))

    def read(self, limit: int = 1 << 30) -> bytes | None:
        """What there is, up to ``limit``; None at the end."""
        found = b""
        while len(found) < limit:
            try:
                data = os.read(self.read_fd, min(limit - len(found), 1 << 16))
            except BlockingIOError:
                if self.waiting is None:
                    break
                before = self.waiting
                before()
                if self.waiting is before and not _readable(self.read_fd):
                    break
                continue
            if not data:
                return found or None
            found += data
        return found


def _readable(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    clock = [1000.0]
    monkeypatch.setattr(inlet_module.time, "monotonic", lambda: clock[0])
    process = Process(clock)
    yield process
    process.inlet.close()
    if process.read_fd >= 0:
        os.close(process.read_fd)


def test_it_is_given_in_order_and_ends(process: Process) -> None:
    process.inlet.need(True)
    process.inlet.take(body(0, b"one "))
    process.inlet.take(body(4, b"two", stdin.END))
    assert process.read() == b"one two"
    assert process.read() is None
    assert process.said == [(0, True)]
    assert process.inlet.ask_at is None


def test_an_empty_input_is_an_end(process: Process) -> None:
    process.inlet.take(body(0, b"", stdin.END))
    assert process.read() is None


def test_a_hole_is_asked_for_once_and_doubles_are_dropped(process: Process) -> None:
    process.inlet.take(body(0, b"abc"))
    for _ in range(3):
        process.inlet.take(body(6, b"ghi", stdin.END))
    assert process.said == [(3, True)]
    process.inlet.take(body(0, b"abcdef"))
    process.inlet.take(body(2, b"cd"))
    process.inlet.take(body(6, b"ghi", stdin.END))
    assert process.read() == b"abcdefghi"
    assert process.read() is None


def test_what_was_read_is_told_at_equal_places_whatever_the_pieces(process: Process) -> None:
    for at in range(0, 2 * STEP_BYTES + 3000, 1000):
        process.inlet.take(body(at, bytes(1000)))
        process.read()
    assert process.said == [(STEP_BYTES, False), (2 * STEP_BYTES, False)]


def test_a_process_that_reads_nothing_costs_a_window_and_no_more(process: Process) -> None:
    process.inlet.need(True)
    for at in range(0, 4 * WINDOW, 1 << 15):
        process.inlet.take(body(at, bytes(1 << 15)))
    assert len(process.inlet._waiting) <= 2 * WINDOW
    assert process.said == [(0, True)]


def test_when_nothing_comes_it_asks_again_ever_more_seldom(process: Process) -> None:
    process.inlet.need(True)
    pauses = []
    for _ in range(6):
        pauses.append(process.inlet.ask_at - process.clock[0])
        process.clock[0] = process.inlet.ask_at
        process.inlet.on_time(process.clock[0])
    assert pauses == [ASK_S, 2 * ASK_S, 4 * ASK_S, 8 * ASK_S, 16 * ASK_S, 16 * ASK_S]
    assert process.said == [(0, True)] * 7
    process.inlet.take(body(0, b"x"))
    assert process.inlet.ask_at == process.clock[0] + ASK_S


def test_a_process_that_closes_its_input_wants_nothing_more(process: Process) -> None:
    os.close(process.read_fd)
    process.read_fd = -1
    process.inlet.take(body(0, b"data"))
    assert process.said == [(-1, True)]
    process.inlet.take(body(4, b"data"))
    process.inlet.need(True)
    assert process.said == [(-1, True)] * 2, "also to a node program that asks anew"


# Paths on a host

ENVIRONMENT = {b"PLUSH_HOST": b"node7", b"PLUSH_INDEX": b"3", b"HOME": b"/h"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"a/b", b"/start/a/b"),
        (b"/a", b"/a"),
        (b"~", b"/h/"),
        (b"~/a", b"/h/a"),
        (b"~//etc/passwd", b"/h/etc/passwd"),
        (b"~user/a", b"/start/~user/a"),
        (b"/d/{host}-{index}/{x}", b"/d/node7-3/{x}"),
    ],
)
def test_paths_are_as_people_mean_them(path: bytes, found: bytes) -> None:
    assert files.expand(path, b"/start", ENVIRONMENT) == found


def test_an_index_that_is_not_known_stays() -> None:
    assert files.expand(b"/{index}", b"/", {b"PLUSH_HOST": b"x"}) == b"/{index}"
