"""Make a host's network device, by ioctls in the network namespace of the calling thread; no ``ip`` process."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

from ops.testbed.errors import TestbedError

DEVICE = "wan0"
MTU_BYTES = 1500  # as in the wide area; TCP's packets of up to 64 KiB cross the device whole (TSO)
# Packets that wait in the device: what the forwarder moves in about 13 ms. The device allocates 8 bytes for each.
QUEUE_PACKETS = 2000

# Of these the first that a namespace may choose (net.ipv4.tcp_allowed_congestion_control), whatever this machine's own
# is: figures must not depend on it. With bbr no packet has more than two segments on narrow links: a multiple of work.
CONGESTION_CONTROLS = ("cubic", "reno")
# A TSO packet of a bulk transfer has at least so many segments, where Linux would take a millisecond's worth: two at
# 20 Mbit/s. That halves the forwarder's work on narrow links; their model cuts packets into segments again.
TSO_SEGMENTS = 16

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
# linux/sockios.h, linux/if.h
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFTXQLEN = 0x8916, 0x891C, 0x8922, 0x8943
IFF_UP, IFF_RUNNING = 0x1, 0x40


def make_tun(address: str, prefix_bits: int = 16) -> int:
    """Make ``wan0`` here, with this IPv4 address, bring it and ``lo`` up, and return its descriptor.

    The descriptor is close-on-exec and non-blocking, and made with IFF_TUN, IFF_NO_PI and IFF_VNET_HDR: each packet
    comes behind 10 bytes (``packets.py``). The device lives as long as a copy of the descriptor is open; closing the
    last one takes about 30 ms (RCU), so close many in threads. Raises TestbedError.
    """
    try:
        tun_fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TestbedError(f"/dev/net/tun: {error.strerror}; load the module tun and be root") from error
    try:
        fcntl.ioctl(tun_fd, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(tun_fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
        _tune()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            netmask = struct.pack("!I", (0xFFFFFFFF << (32 - prefix_bits)) & 0xFFFFFFFF)
            _set_number(control, SIOCSIFMTU, MTU_BYTES)
            _set_number(control, SIOCSIFTXQLEN, QUEUE_PACKETS)
            _set_address(control, SIOCSIFADDR, socket.inet_aton(address))
            _set_address(control, SIOCSIFNETMASK, netmask)
            _bring_up(control, "lo")
            _bring_up(control, DEVICE)
    except OSError as error:
        os.close(tun_fd)
        where = f" ({error.filename})" if error.filename else ""
        raise TestbedError(f"network device {DEVICE} with {address}: {error.strerror}{where}; be root") from error
    return tun_fd


def _set_number(control: socket.socket, request: int, number: int) -> None:
    fcntl.ioctl(control, request, struct.pack("16si20x", DEVICE.encode(), number))


def _set_address(control: socket.socket, request: int, address: bytes) -> None:
    fcntl.ioctl(control, request, struct.pack("16sHH4s16x", DEVICE.encode(), socket.AF_INET, 0, address))


def _bring_up(control: socket.socket, device: str) -> None:
    answer = fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16s24x", device.encode()))
    flags = struct.unpack_from("H", answer, 16)[0] | IFF_UP | IFF_RUNNING
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", device.encode(), flags))


def _tune() -> None:
    """Settings of this namespace. Raises OSError, with the name of the file."""
    ipv6_off = Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6")
    if ipv6_off.exists():  # not in a kernel without IPv6
        ipv6_off.write_text("1")  # no router solicitations
    Path("/proc/sys/net/ipv4/tcp_min_tso_segs").write_text(str(TSO_SEGMENTS))
    for name in CONGESTION_CONTROLS:
        try:
            Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(name)
            return
        except OSError:
            if name == CONGESTION_CONTROLS[-1]:
                raise
