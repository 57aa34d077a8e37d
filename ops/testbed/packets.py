"""What the forwarder needs to know of a packet: where it goes, and how long it is on the wire.

A packet is what a TUN device made with IFF_VNET_HDR gives: ``struct virtio_net_hdr`` (linux/virtio_net.h, 10 bytes:
flags, gso_type, hdr_len, gso_size, csum_start, csum_offset), then the IPv4 packet, which with TSO is up to 64 KiB of
TCP segments not yet cut. It is written to the other device as it was read.
"""

from __future__ import annotations

import socket

VNET_HEADER_BYTES = 10
LARGEST_BYTES = VNET_HEADER_BYTES + 65535
TARGET = slice(VNET_HEADER_BYTES + 16, VNET_HEADER_BYTES + 20)  # packet[TARGET]: the destination's address


def address_key(address: str) -> bytes:
    """What ``packet[TARGET]`` is for packets to this IPv4 address. Raises OSError for what is none."""
    return socket.inet_pton(socket.AF_INET, address)


def wire_sizes(packet: bytes) -> tuple[int, int]:
    """(bytes on the wire, bytes of the first segment): each segment of a TSO packet repeats the headers.

    ``hdr_len`` isn't used: Linux puts the linear part of the buffer there, which may hold data.
    """
    size_bytes = len(packet) - VNET_HEADER_BYTES
    segment_bytes = packet[4] | packet[5] << 8
    if not segment_bytes or not packet[1]:
        return size_bytes, size_bytes
    ip_bytes = (packet[VNET_HEADER_BYTES] & 15) * 4
    header_bytes = ip_bytes + (packet[VNET_HEADER_BYTES + ip_bytes + 12] >> 4) * 4
    if size_bytes <= header_bytes + segment_bytes:
        return size_bytes, size_bytes
    segment_count = -((header_bytes - size_bytes) // segment_bytes)
    return size_bytes + (segment_count - 1) * header_bytes, header_bytes + segment_bytes
