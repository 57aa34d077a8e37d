"""The testbed's forwarder, between real TUN devices in network namespaces of their own (root only), and between sockets
that stand in for devices where a device can't be made to do what is wanted."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from ops.testbed.errors import TestbedError
from ops.testbed.forwarder_client import ForwarderClient, PathSettings
from ops.testbed.packets import VNET_HEADER_BYTES
from ops.testbed.tun import make_tun
from tests.conftest import skip_or_fail, wait_empty

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
PORT = 7
LIMIT_S = 10.0
QUIET_S = 0.3  # nothing comes in this time: nothing comes
ADDRESSES = [f"10.77.0.{host + 1}" for host in range(4)]
LIBC = ctypes.CDLL(None, use_errno=True)


def in_thread(work: Callable[[], T]) -> T:
    """Namespaces belong to a thread: what it enters ends with it."""
    found: list[T | BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Host:
    """A network namespace with ``wan0``."""

    def __init__(self, address: str) -> None:
        self.address = address

        def make() -> tuple[int, int]:
            check(LIBC.unshare(CLONE_NEWNET))
            return make_tun(address), os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        self.tun_fd, self.namespace_fd = in_thread(make)

    def run(self, work: Callable[[], T]) -> T:
        """Call it in the namespace; sockets made there stay there."""

        def enter() -> T:
            check(LIBC.setns(self.namespace_fd, CLONE_NEWNET))
            return work()

        return in_thread(enter)

    def datagrams(self) -> socket.socket:
        """A UDP socket bound to this host's address and PORT."""

        def make() -> socket.socket:
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((self.address, PORT))
            udp.settimeout(LIMIT_S)
            return udp

        return self.run(make)


class Wide:
    """Hosts with their forwarder and one UDP socket each."""

    def __init__(self, paths: PathSettings, stack: ExitStack) -> None:
        self._stack = stack
        count = round(len(paths.one_way_s) ** 0.5)
        self.forwarder = ForwarderClient.start(count, ADDRESSES[:count], paths)
        stack.callback(self.forwarder.close)
        self.hosts: list[Host] = []
        self.udp: list[socket.socket] = []
        for index in range(count):
            host, udp = self.attach(index)
            self.hosts.append(host)
            self.udp.append(udp)

    def attach(self, index: int) -> tuple[Host, socket.socket]:
        """A new namespace for this host."""
        host = Host(ADDRESSES[index])
        self._stack.callback(os.close, host.namespace_fd)
        try:
            self.forwarder.attach(index, host.tun_fd)
        finally:
            os.close(host.tun_fd)
        return host, self._stack.enter_context(host.datagrams())

    def send(self, source: int, target: int, data: bytes = b"x") -> None:
        self.udp[source].sendto(data, (ADDRESSES[target], PORT))

    def rtt_s(self, a: int, b: int) -> float:
        """Best of five, for a busy machine; what comes from elsewhere fails the test."""
        times_s = []
        for number in range(5):
            began_s = time.monotonic()
            for source, target in ((a, b), (b, a)):
                self.send(source, target, bytes([number]))
                assert self.udp[target].recvfrom(100) == (bytes([number]), (ADDRESSES[source], PORT))
            times_s.append(time.monotonic() - began_s)
        return min(times_s)

    def hears(self, target: int) -> bool:
        """Whether anything comes for this host within QUIET_S."""
        ready, _, _ = select.select([self.udp[target]], [], [], QUIET_S)
        if ready:
            self.udp[target].recv(2000)
        return bool(ready)


def paths(one_way_s: Sequence[float] | float = 0.0, host_count: int = 3) -> PathSettings:
    values = [one_way_s] * host_count**2 if isinstance(one_way_s, float) else list(one_way_s)
    return PathSettings(array("f", values))


@pytest.fixture
def wide() -> Iterator[Callable[[PathSettings], Wide]]:
    """``wide(paths(0.01))``: hosts that are gone when the test ends."""
    if os.getuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        skip_or_fail("network namespaces with TUN devices need root and /dev/net/tun")
    with ExitStack() as stack:
        yield lambda settings: Wide(settings, stack)


@pytest.fixture
def sockets() -> Iterator[Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]]]:
    """A forwarder whose devices are sockets of packets; the other ends of these."""
    with ExitStack() as stack:

        def start(settings: PathSettings) -> tuple[ForwarderClient, list[socket.socket]]:
            count = round(len(settings.one_way_s) ** 0.5)
            forwarder = ForwarderClient.start(count, ADDRESSES[:count], settings)
            stack.callback(forwarder.close)
            ends = []
            for host in range(count):
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.settimeout(LIMIT_S)
                ends.append(stack.enter_context(ours))
                with theirs:
                    forwarder.attach(host, theirs.fileno())
            return forwarder, ends

        yield start


def packet(target: int, number: int, size_bytes: int = 1000) -> bytes:
    """An IPv4 packet as far as the forwarder looks, behind its 10 bytes."""
    header = bytes(VNET_HEADER_BYTES) + b"\x45" + bytes(15) + socket.inet_aton(ADDRESSES[target])
    return header + number.to_bytes(4, "big") + bytes(size_bytes - len(header) - 4)


def number_of(data: bytes) -> int:
    start = VNET_HEADER_BYTES + 20
    return int.from_bytes(data[start : start + 4], "big")


# Real devices


def test_round_trips_are_those_of_the_matrix(wide: Callable[[PathSettings], Wide]) -> None:
    up = wide(paths([0, 0.010, 0.040, 0.010, 0, 0.0, 0.060, 0.0, 0]))
    for a, b, wanted_s in ((0, 1, 0.020), (0, 2, 0.100), (2, 0, 0.100), (1, 2, 0.0)):
        assert up.rtt_s(a, b) == pytest.approx(wanted_s, rel=0.03, abs=0.002)
    traffic = up.forwarder.traffic()
    assert traffic.forwarded_count == 40
    assert traffic.unroutable_count == traffic.refused_count == traffic.overflow_count == 0
    assert up.forwarder.lag(reset=True).packet_count == 40
    assert up.forwarder.lag().packet_count == 0


def test_tcp_crosses_in_large_packets_and_whole(wide: Callable[[PathSettings], Wide]) -> None:
    """A wrong checksum, or a packet cut to size on its way, ends in a reset or other bytes."""
    up = wide(replace(paths(0.005, 2), jitter=0.5, loss=0.002))
    data = random.Random(1).randbytes(8_000_000)
    assert hashlib.sha256(carry(up, data)[0]).digest() == hashlib.sha256(data).digest()
    traffic = up.forwarder.traffic()
    assert traffic.forwarded_bytes > len(data)
    assert traffic.forwarded_bytes / traffic.forwarded_count > 3000  # acknowledgements included


@pytest.mark.parametrize(("up_mbit", "down_mbit"), [(20.0, 0.0), (0.0, 20.0), (20.0, 20.0)])
def test_rates_hold(wide: Callable[[PathSettings], Wide], up_mbit: float, down_mbit: float) -> None:
    up = wide(paths(0.001, 2))
    up.forwarder.rate([0], up_mbit, 0.0)
    up.forwarder.rate([1], 0.0, down_mbit)
    data = bytes(2_000_000)
    _, took_s = carry(up, data)
    headers = 1500 / 1448
    assert len(data) * 8e-6 * headers / took_s == pytest.approx(20.0, rel=0.1)


def carry(up: Wide, data: bytes) -> tuple[bytes, float]:
    """Send it by TCP from host 0 to host 1: what came, and how long it took from the first byte to the last."""
    listener = up.hosts[1].run(lambda: socket.create_server((ADDRESSES[1], PORT)))
    with closing(listener):
        client = up.hosts[0].run(lambda: socket.create_connection((ADDRESSES[1], PORT), LIMIT_S))
        server, _ = listener.accept()
    server.settimeout(LIMIT_S)
    with client, server:
        sender = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
        sender.start()
        came = bytearray(server.recv(1))
        began_s = time.monotonic()
        while piece := server.recv(1 << 18):
            came += piece
        took_s = time.monotonic() - began_s
        sender.join(LIMIT_S)
    return bytes(came), took_s


def test_jitter_keeps_the_order_of_a_pair(wide: Callable[[PathSettings], Wide]) -> None:
    up = wide(replace(paths(0.02, 2), jitter=1.0))
    for number in range(200):
        up.send(0, 1, bytes([number]))
    assert [up.udp[1].recv(10)[0] for _ in range(200)] == list(range(200))


def test_a_cut_holds_what_is_under_way_and_is_healed(wide: Callable[[PathSettings], Wide]) -> None:
    up = wide(paths(0.1))
    up.send(0, 1)
    up.forwarder.lag()  # answered in a round in which the packet was read
    assert up.forwarder.traffic().forwarded_count == 0
    up.forwarder.cut([0], [1], both=False)
    up.send(0, 1)
    up.send(1, 0)
    assert not up.hears(1)
    assert up.hears(0)
    up.forwarder.cut([1], [0, 2])
    up.send(2, 1)
    up.send(1, 2)
    assert not up.hears(1) and not up.hears(2)
    up.forwarder.heal([0, 2], [1])
    assert up.rtt_s(0, 1) == pytest.approx(0.2, abs=0.01)
    assert up.rtt_s(1, 2) == pytest.approx(0.2, abs=0.01)
    assert up.forwarder.traffic().cut_count == 4


def test_nothing_of_a_detached_host_leaves_or_arrives_and_it_comes_back_in_a_new_namespace(
    wide: Callable[[PathSettings], Wide],
) -> None:
    up = wide(paths(0.1))
    up.send(0, 1)
    up.send(1, 0)
    up.forwarder.lag()
    assert up.forwarder.traffic().forwarded_count == 0  # but read
    up.forwarder.detach(0)
    up.forwarder.detach(0)  # again is fine
    up.send(1, 0)
    assert not up.hears(1) and not up.hears(0)
    up.hosts[0], up.udp[0] = up.attach(0)
    assert not up.hears(0)
    assert up.rtt_s(0, 1) == pytest.approx(0.2, abs=0.01)


def test_a_device_that_is_deleted_is_as_good_as_detached(wide: Callable[[PathSettings], Wide]) -> None:
    """Its descriptor is readable for ever then, and every read fails."""
    up = wide(paths(0.0))
    up.hosts[2].run(lambda: subprocess.run(["ip", "link", "delete", "wan0"], check=True))
    up.send(0, 2)
    assert up.rtt_s(0, 1) < 0.005
    assert up.forwarder.traffic().cut_count == 1
    up.hosts[2], up.udp[2] = up.attach(2)
    assert up.rtt_s(0, 2) < 0.005


def test_delay_and_loss_of_pairs_change_while_it_runs(wide: Callable[[PathSettings], Wide]) -> None:
    up = wide(paths(0.0))
    up.forwarder.delay([0], [1], 0.05)
    up.forwarder.loss([0], [2], 1.0)
    assert up.rtt_s(1, 0) == pytest.approx(0.1, rel=0.03)
    up.send(0, 2)
    up.send(2, 0)
    assert not up.hears(0) and not up.hears(2)
    up.forwarder.delay([0], [1], None)
    up.forwarder.loss([0], [2], None)
    assert up.rtt_s(0, 1) < 0.005 > up.rtt_s(0, 2)
    assert up.forwarder.traffic().lost_count == 2


def test_the_device_gets_its_settings(wide: Callable[[PathSettings], Wide]) -> None:
    up = wide(paths(0.0, 2))

    def said() -> str:
        return subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout

    found = [tuple(line.split()[1:4]) for line in up.hosts[0].run(said).splitlines() if "::1/128" not in line]
    assert found == [("lo", "inet", "127.0.0.1/8"), ("wan0", "inet", "10.77.0.1/16")]


# Sockets for devices


def test_a_full_device_is_written_later_in_order_and_counted(
    sockets: Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]],
) -> None:
    forwarder, ends = sockets(paths(0.0, 2))
    sent = 0
    while not forwarder.traffic().retried_count:
        for _ in range(20):
            ends[0].send(packet(1, sent, 20_000))
            sent += 1
        assert sent < 5000
    ends[0].send(packet(1, sent))
    assert [number_of(ends[1].recv(70_000)) for _ in range(sent + 1)] == list(range(sent + 1))
    ends[0].send(packet(1, 7))
    assert number_of(ends[1].recv(70_000)) == 7
    assert forwarder.traffic().forwarded_count == sent + 2


def test_packets_of_a_pair_stay_in_order_through_narrow_links(
    sockets: Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]],
) -> None:
    """Those which the downlink holds back must not be overtaken by those for which it is free again."""
    forwarder, ends = sockets(replace(paths(0.002), rate_mbit=100.0))
    numbers: dict[int, list[int]] = {0: [], 1: []}
    for number in range(300):
        for source in (0, 1):
            ends[source].send(packet(2, source << 16 | number, 100 + 1300 * (number % 3 == 0)))
    for _ in range(600):
        source, number = divmod(number_of(ends[2].recv(2000)), 1 << 16)
        numbers[source].append(number)
    assert numbers == {0: list(range(300)), 1: list(range(300))}
    assert forwarder.traffic().overflow_count == 0


def test_packets_to_nobody_and_shorter_than_a_header_are_counted(
    sockets: Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]],
) -> None:
    forwarder, ends = sockets(paths(0.0, 2))
    for data in (packet(3, 1), bytes(5), packet(1, 2)):
        ends[0].send(data)
    assert number_of(ends[1].recv(2000)) == 2
    assert forwarder.traffic().unroutable_count == 2


def test_an_order_that_makes_no_sense_is_refused_and_changes_nothing(
    sockets: Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]],
) -> None:
    forwarder, ends = sockets(paths(0.0, 2))
    refused: list[tuple[Callable[[], None], str]] = [
        (lambda: forwarder.cut([0], [2]), "told to cut and refused: there are hosts 0 to 1, and no 2"),
        (lambda: forwarder.rate([-1], 1, 1), "no -1"),
        (lambda: forwarder.rate([0], -1, 1), "-1 Mbit/s is not within"),
        (lambda: forwarder.loss([0], [1], 2.0), "loss 2.0 is a share"),
        (lambda: forwarder.delay([0], [1], -1.0), "delay of -1.0 s is not within"),
        (lambda: forwarder.attach(0, ends[0].fileno()), "told to attach host 0 and refused: it has a device already"),
    ]
    for order, wanted in refused:
        with pytest.raises(TestbedError, match=wanted):
            order()
    ends[0].send(packet(1, 5))
    assert number_of(ends[1].recv(2000)) == 5


# Its life


def test_bad_settings_are_refused_at_the_start() -> None:
    with pytest.raises(TestbedError, match=r"told to start and refused: loss 2\.0 is a share"):
        ForwarderClient.start(2, ADDRESSES[:2], replace(paths(0.0, 2), loss=2.0))
    with pytest.raises(TestbedError, match="9 delays for 2 hosts, not 4"):
        ForwarderClient.start(2, ADDRESSES[:2], paths(0.0, 3))
    with pytest.raises(TestbedError, match="illegal IP address"):
        ForwarderClient.start(1, ["h0"], paths(0.0, 1))
    with pytest.raises(TestbedError, match="2 addresses for 3 hosts"):
        ForwarderClient.start(3, ADDRESSES[:2], paths(0.0, 3))


def test_a_forwarder_that_was_killed_is_told_apart_and_seen_at_once() -> None:
    with closing(ForwarderClient.start(1, ADDRESSES[:1], paths(0.0, 1))) as forwarder:
        os.kill(forwarder.pid, signal.SIGKILL)
        assert select.select([forwarder], [], [], LIMIT_S)[0]
        with pytest.raises(TestbedError, match=r"it ended with -9; make a new testbed"):
            forwarder.lag()
    with pytest.raises(TestbedError, match="it has been closed"):
        forwarder.lag()
    forwarder.close()


def test_detaching_closes_the_device(
    sockets: Callable[[PathSettings], tuple[ForwarderClient, list[socket.socket]]],
) -> None:
    """Otherwise it would stay in its namespace, and the namespace with it."""
    forwarder, ends = sockets(paths(0.0, 2))
    forwarder.detach(0)
    assert ends[0].recv(1) == b""
    assert forwarder.traffic().forwarded_count == 0


def test_closing_ends_the_process_and_its_devices() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forwarder = ForwarderClient.start(1, ADDRESSES[:1], paths(0.0, 1))
    with ours, theirs:
        forwarder.attach(0, theirs.fileno())
        theirs.close()
        forwarder.close()
        assert not Path(f"/proc/{forwarder.pid}").exists()
        assert ours.recv(1) == b""


def test_the_forwarder_ends_when_its_owner_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from array import array\n"
        "from ops.testbed.forwarder_client import ForwarderClient, PathSettings\n"
        "forwarder = ForwarderClient.start(1, ['10.77.0.1'], PathSettings(array('f', [0.0])))\n"
        "print(forwarder.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    left = wait_empty(lambda: Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes())
    assert not left
