"""Kept output: shared where equal, in a file where large, gone when dropped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_api.cli.pieces import Tracks


@pytest.fixture
def tiny() -> Iterator[Tracks]:
    tracks = Tracks(memory_bytes=4)
    yield tracks
    tracks.close()


def content(tracks: Tracks, host: int) -> bytes:
    return b"".join(tracks.chunks(tracks.cover(1 << host)[0]))


def test_equal_output_is_kept_once() -> None:
    tracks = Tracks()
    tracks.append(0b111, b"same")
    assert len(tracks.all()) == 1
    tracks.append(0b010, b" but one")
    assert sorted(track.hosts for track in tracks.all()) == [0b010, 0b101]
    assert content(tracks, 0) == b"same"
    assert content(tracks, 1) == b"same but one"


def test_beyond_the_limit_the_file_takes_it_and_is_emptied_again(tiny: Tracks) -> None:
    tiny.append(0b11, b"abcd")
    tiny.append(0b11, b"efgh")
    tiny.append(0b01, b"ij")
    assert content(tiny, 0) == b"abcdefghij"
    assert content(tiny, 1) == b"abcdefgh"
    tiny.drop(0b11)
    assert tiny.all() == []
    tiny.append(0b11, b"0123456789")
    assert content(tiny, 1) == b"0123456789"
    assert tiny._file_end == 10, "the file was not used from its start again"


@given(st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=6)), max_size=30), st.integers(0, 40))
def test_every_host_gets_what_it_printed(deliveries: list[tuple[int, bytes]], memory_bytes: int) -> None:
    tracks = Tracks(memory_bytes)
    expected = dict.fromkeys(range(4), b"")
    for at, (hosts, data) in enumerate(deliveries):
        tracks.append(hosts, data)
        for host in range(4):
            if hosts >> host & 1:
                expected[host] += data
        if at % 7 == 6:
            tracks.clear(tracks.cover(0b1000)[0])
            expected[3] = b""
    assert {host: content(tracks, host) for host in range(4)} == expected
    tracks.close()
