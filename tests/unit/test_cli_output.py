"""Output records to streams: whatever comes doubled, overlapping or early, each host's bytes come once and in order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_api.cli.output import Assembler
from plush_api.cli.view import Outcome
from plush_worker.node import hostset
from plush_worker.node.messages import END, GAP, STDERR, STDOUT


class Streams:
    """A renderer that keeps each host's streams; a gap becomes that many question marks."""

    def __init__(self) -> None:
        self.got: dict[tuple[int, int], bytes] = {}

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        assert data, "an empty piece was passed on"
        for host in hostset.members(hosts):
            self.got[host, stream] = self.got.get((host, stream), b"") + data

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        self.output(hosts, stream, b"?" * lost_bytes)

    def ended(self, outcome: Outcome) -> None: ...

    def finish(self) -> None: ...


def test_pieces_of_many_hosts_split_and_go_on_apart() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    assembler.record(0b111, 7, STDOUT, 0, 0, b"abc")
    assembler.record(0b001, 7, STDOUT, 0, 3, b"X")
    assembler.record(0b110, 7, STDOUT, 0, 3, b"Y")
    assembler.record(0b111, 7, STDOUT, END, 4, b"z")
    assert streams.got == {(0, 1): b"abcXz", (1, 1): b"abcYz", (2, 1): b"abcYz"}


def test_doubles_and_overlaps_are_dropped() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    for _ in range(2):
        assembler.record(1, 7, STDOUT, 0, 0, b"abc")
    assembler.record(1, 7, STDOUT, 0, 1, b"bcde")
    assert streams.got == {(0, STDOUT): b"abcde"}


def test_streams_are_apart() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    assembler.record(1, 7, STDOUT, 0, 0, b"out")
    assembler.record(1, 7, STDERR, 0, 0, b"err")
    assert streams.got == {(0, STDOUT): b"out", (0, STDERR): b"err"}


def test_what_comes_early_waits() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    assembler.record(1, 7, STDOUT, 0, 3, b"def")
    assert not streams.got
    assembler.record(1, 7, STDOUT, 0, 0, b"abc")
    assert streams.got == {(0, STDOUT): b"abcdef"}


def test_a_hole_that_stays_is_reported_at_the_end() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    assembler.record(1, 7, STDOUT, 0, 2, b"cd")
    assembler.record(1, 7, STDOUT, 0, 6, b"gh")
    assembler.flush(1)
    assert streams.got == {(0, STDOUT): b"??cd??gh"}


def test_holes_are_given_up_when_too_much_waits() -> None:
    streams = Streams()
    assembler = Assembler(streams, early_bytes=10)
    assembler.record(1, 7, STDOUT, 0, 1, b"x" * 8)
    assert not streams.got
    assembler.record(1, 7, STDOUT, 0, 9, b"y" * 8)
    assert streams.got == {(0, STDOUT): b"?" + b"x" * 8 + b"y" * 8}


def test_a_gap_record_moves_on() -> None:
    streams = Streams()
    assembler = Assembler(streams)
    assembler.record(1, 7, STDOUT, GAP, 0, (3).to_bytes(8, "big"))
    assembler.record(1, 7, STDOUT, 0, 3, b"d")
    assembler.record(1, 7, STDOUT, GAP, 0, (3).to_bytes(8, "big"))
    assert streams.got == {(0, STDOUT): b"???d"}


@given(st.randoms(use_true_random=False), st.integers(1, 4), st.binary(max_size=40))
def test_any_order_of_any_cuts_gives_the_stream(chance: random.Random, host_count: int, content: bytes) -> None:
    pieces: list[tuple[int, int, bytes]] = []
    for host in range(host_count):
        at = 0
        while at < len(content):
            length = chance.randint(1, 9)
            pieces += [(1 << host, at, content[at : at + length])] * chance.randint(1, 2)
            at += length
    chance.shuffle(pieces)
    streams = Streams()
    assembler = Assembler(streams)
    for hosts, offset, data in pieces:
        assembler.record(hosts, 7, STDOUT, 0, offset, data)
    assembler.flush(-1 & (1 << host_count) - 1)
    assert all(got == content for got in streams.got.values())
    assert len(streams.got) == (host_count if content else 0)


@pytest.mark.parametrize("count", [1, 3])
def test_merged_and_single_pieces_mix(count: int) -> None:
    streams = Streams()
    assembler = Assembler(streams)
    everyone = (1 << count) - 1
    assembler.record(1, 7, STDOUT, 0, 0, b"ab")
    assembler.record(everyone, 7, STDOUT, 0, 0, b"abcd")
    assert set(streams.got.values()) == {b"abcd"}
