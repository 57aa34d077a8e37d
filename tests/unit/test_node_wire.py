"""Frames, host sets and messages: what any bytes from the other side may do to the decoders, and what they may not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import frames, hostset, limits, messages

HOSTS = st.sets(st.integers(0, limits.MAX_HOST_NUMBER), max_size=60) | st.builds(
    lambda first, count: set(range(first, first + count)), st.integers(0, 1000), st.integers(0, 500)
)
U64 = st.integers(0, 2**64 - 1)
KIND = st.sampled_from(sorted(frames.NAMES))
FRAME = st.tuples(KIND, st.integers(0, 255), U64, st.binary(max_size=40), st.binary(max_size=300))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=300) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=20), inner, max_size=5),
    max_leaves=20,
)


def encoded(frame: tuple[int, int, int, bytes, bytes]) -> bytes:
    kind, flags, epoch, hosts, body = frame
    return bytes(frames.encode(kind, hosts, body, epoch, flags))


# Frames


@given(st.lists(FRAME, max_size=6), st.randoms(use_true_random=False))
def test_frames_survive_any_split(sent: list[Any], rng: random.Random) -> None:
    stream = b"".join(map(encoded, sent))
    decoder, got, at = frames.Decoder(), [], 0
    while at < len(stream):
        size = rng.randint(1, 40)
        got += decoder.feed(stream[at : at + size])
        at += size
    assert got == sent
    assert [f for frame in sent for f in frames.Decoder().feed(encoded(frame))] == sent


def test_frames_byte_by_byte_with_trailing_bytes() -> None:
    frame = encoded((frames.OP, 0, 7, b"hh", b"body"))
    decoder = frames.Decoder()
    got = [found for at in range(len(frame)) for found in decoder.feed(frame[at : at + 1])]
    assert got == [(frames.OP, 0, 7, b"hh", b"body")]
    assert decoder.feed(frame[:-1]) == []
    assert decoder.feed(frame[-1:] + frame[:3]) == [(frames.OP, 0, 7, b"hh", b"body")]


def test_frame_at_the_limit_passes_and_one_byte_more_is_refused() -> None:
    body = bytes(limits.MAX_FRAME_BYTES - 16 + 4)
    assert frames.Decoder().feed(frames.encode(frames.LOG, b"", body))[0][4] == body
    with pytest.raises(frames.FrameError):
        frames.encode(frames.LOG, b"", body + b"x")
    header = (limits.MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes([frames.LOG]) + bytes(11)
    with pytest.raises(frames.FrameError):  # at the header: before anything is kept for the body
        frames.Decoder().feed(header)


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\0\0\x0b\x01\0\0\0" + bytes(8),  # shorter than its own header
        b"\0\0\0\x0c\x01\0\0\x05" + bytes(8),  # shorter than its host set
        b"\0\0\0\x0c\x7f\0\0\0" + bytes(8),  # unknown kind
        b"\xff" * 16,
        b"SSH-2.0-OpenSSH_9.2p1",
    ],
)
def test_bad_headers_are_refused(bad: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.Decoder().feed(bad)


@given(st.binary(max_size=400))
def test_any_bytes_give_frames_or_a_frame_error(data: bytes) -> None:
    try:
        found = frames.Decoder().feed(data)
    except frames.FrameError:
        return
    assert sum(16 + len(hosts) + len(body) for _, _, _, hosts, body in found) <= len(data)


# Host sets


@given(HOSTS)
def test_host_sets_keep_their_members(numbers: set[int]) -> None:
    hosts = hostset.of(numbers)
    assert hostset.members(hosts) == sorted(numbers)
    assert hostset.size(hosts) == len(numbers)
    assert hostset.decode(hostset.encode(hosts)) == hosts
    assert hostset.from_text(hostset.to_text(hosts)) == hosts
    assert len(hostset.encode(hosts)) <= max(numbers, default=-1) // 8 + 2
    if numbers:
        assert hostset.lowest(hosts) == min(numbers)


def test_host_sets_are_small_on_the_wire() -> None:
    assert len(hostset.encode(hostset.of(range(489)))) <= 5
    assert len(hostset.encode(hostset.of(range(0, 489, 2)))) <= 63  # every second one: a bitmap


@given(st.binary(max_size=64) | st.binary(max_size=20).map(lambda data: b"\0" + data))
def test_any_bytes_give_a_host_set_or_its_error(data: bytes) -> None:
    try:
        hosts = hostset.decode(data)
    except hostset.HostSetError:
        return
    assert hosts.bit_length() <= limits.MAX_HOST_NUMBER + 1


@pytest.mark.parametrize(
    "bad", [b"\0\x80", b"\0\x01", b"\0" + b"\xff" * 9, b"\2", b"\1" + bytes(20_000) + b"\1", bytes(70_000)]
)
def test_bad_host_sets_are_refused(bad: bytes) -> None:
    with pytest.raises(hostset.HostSetError):
        hostset.decode(bad)


@pytest.mark.parametrize("bad", ["x", "3-1", "-", "1,,2", "-1", str(limits.MAX_HOST_NUMBER + 1)])
def test_bad_host_set_texts_are_refused(bad: str) -> None:
    with pytest.raises(hostset.HostSetError):
        hostset.from_text(bad)


# Messages

VALUES: dict[type, Any] = {int: 5, str: "x", bytes: b"x", bool: True, list: [1], dict: {"a": "b"}}
SAMPLES: dict[int, dict[str, Any]] = {
    kind: {name: VALUES[types[0]] for name, types in fields.items()} for kind, fields in messages.FIELDS.items()
}


@given(VALUE)
def test_values_survive_packing(value: Any) -> None:
    packed = messages.pack(value)
    assert messages.unpack(packed) == value
    for size in range(min(len(packed), 60)):
        with pytest.raises(messages.MessageError):
            messages.unpack(packed[:size])
    with pytest.raises(messages.MessageError):
        messages.unpack(packed + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_message_error(data: bytes) -> None:
    for decode in (messages.unpack, messages.decode_output, messages.decode_credit):
        try:
            decode(data)
        except messages.MessageError:
            pass


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xcc\xff", 255), (b"\xcd\1\0", 256), (b"\xd0\xff", -1), (b"\xd1\xff\xfe", -2), (b"\xd2\xff\xff\xff\xfd", -3),
        (b"\xe0", -32), (b"\xa2hi", "hi"), (b"\xda\0\2hi", "hi"), (b"\xc5\0\2hi", b"hi"), (b"\x92\1\2", [1, 2]),
        (b"\xdc\0\1\1", [1]), (b"\x81\xa1a\1", {"a": 1}), (b"\xde\0\1\xa1a\1", {"a": 1}),
    ],
)  # fmt: skip
def test_forms_that_other_packers_use_are_understood(data: bytes, value: Any) -> None:
    assert messages.unpack(data) == value


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"\xc1", b"\xca\0\0\0\0", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
        b"\xd9\2\xff\xff", b"\x91" * 20 + b"\0", b"\x81\x90\0",
        b"\xdd" + (300_000).to_bytes(4, "big") + bytes(300_000),
    ],
)  # fmt: skip
def test_bad_values_are_refused_without_allocating_for_them(bad: bytes) -> None:
    with pytest.raises(messages.MessageError):
        messages.unpack(bad)


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_every_field_is_needed_and_typed_and_unknown_ones_are_ignored(kind: int) -> None:
    sample = SAMPLES[kind]
    assert messages.decode(kind, messages.encode(kind, **sample)) == sample
    assert messages.decode(kind, messages.pack({**sample, "new": [1]}))
    for name in sample:
        without = {key: value for key, value in sample.items() if key != name}
        with pytest.raises(messages.MessageError):
            messages.decode(kind, messages.pack(without))
        with pytest.raises(messages.MessageError):
            messages.encode(kind, **without)
        with pytest.raises(messages.MessageError):
            messages.decode(kind, messages.pack({**sample, name: None if type(sample[name]) is list else [None]}))
    with pytest.raises(messages.MessageError):
        messages.decode(kind, messages.pack([1]))


def test_every_kind_has_a_name_a_way_and_a_body() -> None:
    ways = [frames.DOWNWARD, frames.UPWARD, frames.LINK_LOCAL]
    assert frozenset().union(*ways) == set(frames.NAMES)
    assert sum(map(len, ways)) == len(frames.NAMES)
    assert set(messages.FIELDS) | {frames.OUTPUT, frames.CREDIT, frames.STDIN} == set(frames.NAMES)


@given(U64, st.sampled_from([1, 2]), st.integers(0, 255), U64, st.binary(max_size=50))
def test_output_survives(op: int, stream: int, flags: int, offset: int, data: bytes) -> None:
    body = messages.encode_output(op, stream, offset, data, flags)
    assert messages.decode_output(body) == (op, stream, flags, offset)
    assert body[messages.OUTPUT_HEADER_BYTES :] == data


def test_text_that_is_not_unicode_can_be_sent() -> None:
    body = messages.encode(frames.LOG, text="bad \udcff byte")
    assert messages.decode(frames.LOG, body)["text"] == "bad ? byte"
