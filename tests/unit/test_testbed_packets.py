"""What the testbed's forwarder reads from a packet: the target's address, and the size on the wire."""

from __future__ import annotations

import random
import struct

import pytest

from ops.testbed.packets import LARGEST_BYTES, TARGET, address_key, wire_sizes


def packet(data_bytes: int, segment_bytes: int = 0, option_bytes: int = 12, hdr_len: int = 0) -> bytes:
    """TCP from 10.77.0.1 to 10.77.1.250, as a TUN device gives it."""
    vnet = struct.pack("=BBHHHH", 1, 1 if segment_bytes else 0, hdr_len, segment_bytes, 20, 16)
    size_bytes = 40 + option_bytes + data_bytes
    ip = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, size_bytes, 7, 0, 64, 6, 0, bytes([10, 77, 0, 1]), bytes([10, 77, 1, 250])
    )
    tcp = struct.pack("!HHIIBBHHH", 22, 40000, 1, 2, (5 + option_bytes // 4) << 4, 0x10, 500, 0, 0) + bytes(
        option_bytes
    )
    return vnet + ip + tcp + bytes(data_bytes)


def test_the_target_is_found_by_its_address() -> None:
    assert packet(100)[TARGET] == address_key("10.77.1.250") != address_key("10.77.0.1")


@pytest.mark.parametrize("text", ["10.77.0", "h3", "10.77.0.256", "fe80::1", ""])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        address_key(text)


def test_a_plain_packet_is_as_long_as_it_is() -> None:
    assert wire_sizes(packet(0)) == (52, 52)
    assert wire_sizes(packet(1448)) == (1500, 1500)


def test_each_segment_of_a_tso_packet_has_headers_of_its_own() -> None:
    assert wire_sizes(packet(10 * 1448, 1448)) == (15_000, 1500)
    assert wire_sizes(packet(10 * 1448 + 1, 1448)) == (15_000 + 53, 1500)


def test_the_length_of_the_headers_is_read_from_them_not_from_the_hint() -> None:
    """Linux puts there what happens to lie in the buffer's first part: up to the whole packet."""
    assert wire_sizes(packet(10 * 1448, 1448, hdr_len=14_532)) == wire_sizes(packet(10 * 1448, 1448))
    assert wire_sizes(packet(10 * 1448, 1448, option_bytes=0)) == (10 * 1488, 1488)


def test_a_tso_packet_of_one_segment_is_plain() -> None:
    assert wire_sizes(packet(100, 1448)) == (152, 152)
    assert wire_sizes(packet(1448, 1448)) == (1500, 1500)


def test_any_tso_packet_is_as_long_as_its_segments_together() -> None:
    pick = random.Random(1)
    for _ in range(300):
        option_bytes = pick.randrange(0, 44, 4)
        segment_bytes = pick.randrange(1, 1449)
        data_bytes = pick.randrange(1, min(65_535 - 80, 300 * segment_bytes))
        cut = [min(segment_bytes, data_bytes - start) for start in range(0, data_bytes, segment_bytes)]
        headers_bytes = 40 + option_bytes
        wanted = (sum(cut) + len(cut) * headers_bytes, cut[0] + headers_bytes)
        assert wire_sizes(packet(data_bytes, segment_bytes, option_bytes)) == wanted


def test_the_largest_packet_fits() -> None:
    assert len(packet(65_535 - 52, 1448)) == LARGEST_BYTES
