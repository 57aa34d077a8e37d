"""The standard input of an op at the top: groups of hosts, windows, patience; and that every host gets every byte."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.blobs import BlobMissing, BlobStore
from plush_worker.mesh import orders
from plush_worker.mesh.effects import Emit, FeedStdin, Send
from plush_worker.mesh.root_link import RootLink
from plush_worker.mesh.stdin_feed import FIRST_PATIENCE_S, PATIENCE_S, Piece, StdinFeed
from plush_worker.mesh.stdin_source import BLOCK_BYTES, StdinSource, StdinSources, open_source
from plush_worker.model import HostEntry, OpRecord, SliceSettings
from plush_worker.node import files, frames, messages
from plush_worker.node.limits import BULK_WINDOW_BYTES
from plush_worker.node.limits import OUTPUT_CUT_BYTES as CUT
from plush_worker.node.limits import STDIN_WINDOW_BYTES as WINDOW

from .test_mesh_state import RUN, lost, ready, standing

BIG = 10 * WINDOW


def pieces(feed: StdinFeed, below: int, now_s: float = 0.0, expected: int = 0) -> list[Piece]:
    """All that may go now."""
    found = []
    while piece := feed.next_piece(below, expected, now_s):
        found.append(piece)
        feed.check_invariants()
    return found


def test_hosts_that_are_equally_far_get_a_piece_together_up_to_their_window() -> None:
    feed = StdinFeed(BIG)
    feed.need(0b11, 0, True, 0.0)
    found = pieces(feed, 0b11)
    assert [piece.hosts for piece in found] == [0b11] * (WINDOW // CUT)
    assert [piece.offset for piece in found] == list(range(0, WINDOW, CUT))
    assert not any(piece.end for piece in found)
    feed.need(0b11, CUT, False, 0.0)
    assert pieces(feed, 0b11) == [Piece(0b11, WINDOW, CUT, False)]


def test_subtrees_have_a_pace_of_their_own() -> None:
    feed = StdinFeed(BIG)
    feed.need(0b11, 0, True, 0.0)
    assert feed.next_piece(0b01, 0, 0.0) == Piece(0b01, 0, CUT, False)
    assert feed.next_piece(0b10, 0, 0.0) == Piece(0b10, 0, CUT, False)


@pytest.mark.parametrize("size", [0, 1, CUT, CUT + 1])
def test_the_end_travels_with_the_last_piece(size: int) -> None:
    feed = StdinFeed(size)
    feed.need(1, 0, True, 0.0)
    found = pieces(feed, 1)
    assert [piece.end for piece in found] == [False] * (len(found) - 1) + [True]
    assert sum(piece.length for piece in found) == size
    feed.need(1, size, True, 0.0)
    assert pieces(feed, 1) == [Piece(1, size, 0, True)], "a lost end can be asked for"


def test_a_slower_host_is_waited_for_a_moment_and_then_left_behind() -> None:
    feed = StdinFeed(BIG)
    feed.need(0b11, 0, True, 0.0)
    pieces(feed, 0b11)
    feed.need(0b01, WINDOW // 2, False, 1.0)
    assert not pieces(feed, 0b11, 1.0)
    assert feed.wake_at_s == 1.0 + PATIENCE_S
    ahead = pieces(feed, 0b11, 1.0 + PATIENCE_S)
    assert {piece.hosts for piece in ahead} == {0b01}
    feed.need(0b10, WINDOW // 2, False, 2.0)
    behind = pieces(feed, 0b11, 2.0)
    assert {piece.hosts for piece in behind} == {0b10}
    feed.need(0b11, WINDOW, False, 3.0)
    assert {piece.hosts for piece in pieces(feed, 0b11, 3.0)} == {0b11}, "equally far again: together again"


def test_much_input_waits_for_hosts_that_are_still_to_start_and_little_does_not() -> None:
    for size, waits in ((BIG, True), (CUT, False)):
        feed = StdinFeed(size)
        feed.need(0b01, 0, True, 0.0)
        assert (not pieces(feed, 0b11, 0.0, expected=0b11)) == waits
    feed = StdinFeed(BIG)
    feed.need(0b01, 0, True, 0.0)
    assert not pieces(feed, 0b11, 0.9 * FIRST_PATIENCE_S, expected=0b11)
    assert pieces(feed, 0b11, FIRST_PATIENCE_S, expected=0b11)


def test_who_wants_nothing_more_or_is_gone_gets_nothing() -> None:
    feed = StdinFeed(BIG)
    feed.need(0b111, 0, True, 0.0)
    feed.need(0b001, -1, True, 0.0)
    feed.drop(0b010)
    assert {piece.hosts for piece in pieces(feed, 0b111)} == {0b100}


@given(st.integers(0, 3 * WINDOW), st.integers(1, 6), st.integers(0, 2**32))
def test_whatever_is_lost_and_however_slow_every_host_gets_all_of_it(size: int, count: int, seed: int) -> None:
    """A model of the hosts: they read at a rate of their own, lose pieces, and ask again after a while."""
    chance = random.Random(seed)
    feed, everybody, now_s = StdinFeed(size), (1 << count) - 1, 0.0
    got, read, told, ended = [0] * count, [0] * count, [0] * count, [False] * count
    feed.need(everybody, 0, True, 0.0)
    for turn in range(3000):
        now_s += 0.1
        for piece in pieces(feed, everybody, now_s):
            for host in range(count):
                if not piece.hosts >> host & 1 or chance.random() < 0.02:
                    continue
                if piece.offset <= got[host] <= piece.offset + piece.length:
                    got[host] = piece.offset + piece.length
                    ended[host] |= piece.end
                    assert got[host] <= told[host] + WINDOW + CUT, "more than the window is on its way"
        for host in range(count):
            read[host] = min(got[host], read[host] + chance.randrange(WINDOW // 2))
            if not ended[host] and turn % 20 == 19:
                told[host] = got[host]
                feed.need(1 << host, got[host], True, now_s)
            elif read[host] - told[host] >= WINDOW // 4:
                told[host] = read[host]
                feed.need(1 << host, told[host], False, now_s)
        if all(ended):
            break
    assert got == [size] * count and all(ended)


# Through the mesh state


def stdin_op(op: int = 20, hosts: str = "0-4") -> OpRecord:
    return OpRecord(op=op, run_id=RUN, mesh="m", kind="exec", hosts=hosts, command="cat", stdin="0" * 64)


def need(state: Any, root: int, hosts: int, offset: int, again: bool, op: int = 20) -> list[Any]:
    body = messages.encode(frames.NEED, op=op, offset=offset, again=again)
    effects: list[Any] = state.frame_received(root, frames.NEED, hosts, body, 0.0)
    state.check_invariants()
    return effects


def test_an_op_says_that_it_has_a_standard_input_and_only_then() -> None:
    for record, has in ((stdin_op(), True), (OpRecord(20, RUN, "m", "exec", "0", "date"), False)):
        [first, *_] = standing().op_ordered(record, 5 if has else None)
        assert isinstance(first, Send)
        frame = frames.Decoder().feed(first.frame)[0]
        assert messages.decode(frames.OP, frame[4]).get("stdin", False) == has


def test_hosts_of_a_subtree_are_fed_after_they_asked_and_no_more_when_lost_or_ended() -> None:
    state = standing()
    state.op_ordered(stdin_op(), 3 * CUT)
    assert not list(state.next_stdin(0, 0.0))
    assert FeedStdin() in need(state, 0, 0b1111, 0, True)
    assert list(state.next_stdin(0, 0.0)) == [(20, Piece(0b1111, 0, CUT, False))]
    assert not list(state.next_stdin(4, 0.0)), "the other subtree hasn't asked"
    lost(state, 1, 0b1010)
    assert list(state.next_stdin(0, 0.0)) == [(20, Piece(0b0101, CUT, CUT, False))]
    body = messages.encode(frames.STATE, op=20, ordinal=2, state="exited", code=0, signal=None, detail="")
    state.frame_received(0, frames.STATE, 0b0001, body, 0.0)
    assert list(state.next_stdin(0, 0.0)) == [(20, Piece(0b0100, 2 * CUT, CUT, True))]
    ready(state, 0, 0b1010, 30)


def test_an_op_whose_input_is_missing_fails_on_every_host_once_and_is_never_sent() -> None:
    state = standing()
    effects = state.op_ordered(stdin_op(), None, "no such blob")
    ended = [effect.event for effect in effects if isinstance(effect, Emit)]
    assert [(event["type"], event["hosts"], event["state"], event["detail"]) for event in ended] == [
        ("op_ended", "0-4", "failed", "no such blob")
    ]
    assert not [effect for effect in effects if isinstance(effect, Send)]
    assert not state.op_ordered(stdin_op(), None, "no such blob")


# What is sent


def deploy(entries: list[dict[str, Any]]) -> OpRecord:
    return OpRecord(op=20, run_id=RUN, mesh="m", kind="deploy", hosts="0", files=tuple(entries))


def entry(dest: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"dest": dest, "kind": kind, "mode": 0o644, "size": 0, "sha256": "", "target": "", "hosts": None} | more


def test_a_deploy_is_read_alike_in_any_pieces(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    data = bytes(range(256)) * 3000
    digest = hashlib.sha256(data).hexdigest()
    blobs.put_stream([data], digest)
    source = open_source(
        deploy(
            [entry("d", "dir"), entry("d/a", "file", size=len(data), sha256=digest, hosts=[1, 2]), entry("l", "link")]
        ),
        blobs,
    )
    assert source is not None
    whole = source.read(0, source.size_bytes + 10)
    head = files.encode_record(b"d/a", "file", 0o644, len(data), bytes.fromhex(digest), b"", hosts=[1, 2])
    assert head + data in whole and len(whole) == source.size_bytes
    for size in (1000, CUT, BLOCK_BYTES):
        assert b"".join(source.read(at, size) for at in range(0, len(whole), size)) == whole


def test_a_blob_that_is_missing_or_of_another_size_is_told(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest = hashlib.sha256(b"").hexdigest()
    with pytest.raises(BlobMissing, match="same state folder"):
        open_source(deploy([entry("a", "file", sha256=digest)]), blobs)
    blobs.put_stream([], digest)
    with pytest.raises(BlobMissing, match="has 0 bytes, not 5"):
        open_source(deploy([entry("a", "file", sha256=digest, size=5)]), blobs)
    assert open_source(OpRecord(20, RUN, "m", "exec", "0", "date"), blobs) is None


def test_pieces_are_read_once_however_many_subtrees_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs, data = BlobStore(tmp_path), bytes(8 * BLOCK_BYTES + 5)
    digest = hashlib.sha256(data).hexdigest()
    blobs.put_stream([data], digest)
    reads: list[int] = []
    real = StdinSource.read
    monkeypatch.setattr(
        StdinSource, "read", lambda self, offset, size: reads.append(offset) or real(self, offset, size)
    )
    sources = StdinSources(blobs)
    assert sources.open(OpRecord(20, RUN, "m", "exec", "0", "cat", stdin=digest)) == len(data)

    async def read_all() -> None:
        for ahead in range(0, len(data), CUT):
            for at in {ahead, max(0, ahead - 4 * BLOCK_BYTES)}:
                assert len(await sources.read(20, at, CUT)) == min(CUT, len(data) - at)

    asyncio.run(read_all())
    assert len(reads) == 9, "two readers, 1 MiB apart"
    sources.keep({})


# The link to a subtree root


class FakeLink:
    """What a RootLink writes to."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        pass


class FakeOwner:
    """What a RootLink reports to."""

    def __init__(self) -> None:
        self.rooms = 0

    def link_has_room(self, link: RootLink) -> None:
        self.rooms += 1

    def link_ended(self, link: RootLink, code: str, detail: str, reached: bool) -> None:
        raise AssertionError(detail)


def test_a_root_takes_bulk_within_its_window_and_says_when_there_is_room_again() -> None:
    owner: Any = FakeOwner()
    link: Any = RootLink(owner, 0, HostEntry("h", "h"), SliceSettings(), ())
    assert not link.takes_bulk(), "it isn't open yet"
    link._link = FakeLink()
    link.data_received(frames.MARKER)
    sent = 0
    while link.takes_bulk():
        link.send_bulk(bytes(CUT))
        sent += CUT
    assert BULK_WINDOW_BYTES - 2 * CUT <= sent <= BULK_WINDOW_BYTES
    link.data_received(frames.encode(frames.CREDIT, b"", messages.encode_credit(2 * CUT)))
    assert link.takes_bulk() and owner.rooms == 1
    link.data_received(frames.encode(frames.CREDIT, b"", messages.encode_credit(1 << 60)))
    link.pause_writing()
    assert not link.takes_bulk(), "what it is given now would wait in memory"
    link.resume_writing()
    assert link.takes_bulk() and owner.rooms == 3
    assert len(link._link.written) == sent


def test_what_built_in_ops_say_to_the_hosts() -> None:
    fetch = messages.unpack(orders.op_body(OpRecord(1, RUN, "m", "fetch", "0", paths=("a",), ranks={"0": 2})))
    assert (fetch["built_in"], fetch["paths"], fetch["ranks"]) == ("fetch", ["a"], {"0": 2})
    assert fetch["lossless"] is True, "a gap in an orphan's output would spoil the file"
    assert "stdin" not in fetch
    plain = messages.unpack(orders.op_body(OpRecord(1, RUN, "m", "exec", "0", "date")))
    assert set(plain) == {"op", "command", "env", "ttl_s", "timeout_s"}
    assert messages.unpack(orders.op_body(OpRecord(1, RUN, "m", "exec", "0", "date", cwd="d")))["cwd"] == "d"
