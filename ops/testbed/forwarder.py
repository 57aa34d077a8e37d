"""The process that moves every packet of the testbed: reads each host's TUN device, waits, writes to the target's.

One thread, one epoll. What a packet's time is decides ``links.Links``; here are only descriptors and the clock. Orders
come over one ``SOCK_SEQPACKET`` socket as JSON, devices beside them as SCM_RIGHTS; the process ends when that socket
does. Run by ``ForwarderClient.start`` as ``python -m ops.testbed.forwarder FD``; needs no rights but its descriptors.

An order is carried out between two packets, so it holds for every packet after its answer. What is under way looks
again when it is written: the two hosts must still be attached and the pair not be cut.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from types import FrameType
from typing import Any

from ops.testbed.delay_queue import SLOT_S, DelayQueue
from ops.testbed.lag import LagHistogram
from ops.testbed.links import DROPPED, Links, PathSettings
from ops.testbed.packets import LARGEST_BYTES, TARGET, address_key, wire_sizes
from ops.testbed.port import Port

MESSAGE_MAX_BYTES = 200_000  # below net.core.wmem_max of an untouched Linux, 212,992
QUEUED_MAX_BYTES = 256 << 20  # of all packets under way
# A round reads about as many packets, which takes 2 ms, before it writes what is due.
PACKETS_PER_ROUND = 256
PACKETS_PER_PORT = 32  # at least, of a port that has so many
PORTS_PER_ROUND = 32
CLOSING_THREADS = 32  # closing a TUN device waits for RCU: 490 take 17 s one by one, 1.2 s so
NICENESS = -10
PR_SET_TIMERSLACK = 29  # linux/prctl.h
BLOCKED_S = 50e-6  # a wait that took longer than this began with nothing to read


# target, source, packet, how late it may have been read, sizes until it has passed the target's downlink
Entry = tuple[Port, Port, bytes, float, "tuple[int, int] | None"]


class Forwarder:
    """See the module. ``run`` returns when the other end of the control socket is closed."""

    def __init__(self, control: socket.socket, links: Links, addresses: list[str]) -> None:
        self._control = control
        self._links = links
        self._routes = {address_key(address): host for host, address in enumerate(addresses)}
        self._ports: list[Port | None] = [None] * len(addresses)
        self._by_fd: dict[int, Port] = {}
        self._queue: DelayQueue[Entry] = DelayQueue()
        self._queued_bytes = 0
        self._lag = LagHistogram()
        self._forwarded_count = self._forwarded_bytes = 0
        self._cut_count = self._overflow_count = self._unroutable_count = 0
        self._retried_count = self._refused_count = 0
        self._epoll = select.epoll()
        self._epoll.register(control, select.EPOLLIN)
        self._view = memoryview(bytearray(LARGEST_BYTES))
        self._buffers = [self._view]
        self._closer = ThreadPoolExecutor(CLOSING_THREADS)
        self._ended = False

    def run(self) -> None:
        """Move packets and obey orders until the control socket ends."""
        seen_s = time.monotonic()  # a port that hasn't been read since then had nothing to read then
        while not self._ended:
            seen_s = self._wait(seen_s)
            self._write_due(time.monotonic())
            polled_s = time.monotonic()
            events = self._epoll.poll(0, PORTS_PER_ROUND)
            read_max = max(PACKETS_PER_PORT, PACKETS_PER_ROUND // max(1, len(events)))
            for fd, event in events:
                port = self._by_fd.get(fd)
                if port is None:
                    if fd == self._control.fileno():
                        self._obey()
                    continue
                if event & select.EPOLLOUT:
                    self._write_waiting(port)
                if event & ~select.EPOLLOUT:
                    self._read(port, seen_s, read_max)
            if len(events) < PORTS_PER_ROUND:
                seen_s = polled_s

    def close(self) -> None:
        """Let go of all devices, many at once."""
        for port in self._ports:
            if port is not None:
                self._release(port)
        self._closer.shutdown()
        self._epoll.close()

    def _wait(self, seen_s: float) -> float:
        """Until something is due or can be read; returns ``seen_s``, or a later time for which the same holds.

        A moment before something is due, nothing else wakes this process: under load that makes one round of many,
        as network cards do with their interrupts. With select and not the time limit of epoll, which is in whole
        milliseconds, rounded up.
        """
        began_s = time.monotonic()
        next_s = self._queue.next_s()
        if next_s is not None and next_s - began_s < SLOT_S:
            if next_s > began_s:
                time.sleep(next_s - began_s)
            return seen_s
        select.select([self._epoll.fileno()], (), (), None if next_s is None else next_s - began_s)
        woken_s = time.monotonic()
        return woken_s if woken_s - began_s > BLOCKED_S else seen_s

    def _read(self, port: Port, seen_s: float, read_max: int) -> None:
        """Take in what the host sends."""
        fd, source, ports, routes, put = port.fd, port.host, self._ports, self._routes, self._queue.put
        links, buffers, view, readv = self._links, self._buffers, self._view, os.readv
        send, rated = links.send, links.rated
        now_s = time.monotonic()
        waited_s = min(port.waited_s(now_s, seen_s), links.idle_s(now_s, source))
        for _ in range(read_max):
            try:
                # One large buffer and a copy of the packet's size: a large bytes object for each read, cut to size by
                # os.read, leaves holes in the heap that malloc then searches for a tenth of all time.
                packet = bytes(view[: readv(fd, buffers)])
            except BlockingIOError:
                port.found_empty(now_s)
                return
            except OSError:  # EBADFD: the device has been deleted
                self._detach(source)
                return
            target_host = routes.get(packet[TARGET])
            if target_host is None:
                self._unroutable_count += 1
                continue
            target = ports[target_host]
            if target is None:
                self._cut_count += 1
                continue
            sizes = wire_sizes(packet) if rated else None
            due_s = send(now_s, source, target_host, sizes)
            if due_s == DROPPED:
                continue
            if self._queued_bytes > QUEUED_MAX_BYTES:
                self._overflow_count += 1
                continue
            self._queued_bytes += len(packet)
            put(due_s, (target, port, packet, waited_s, sizes))
        port.found_more(read_max)

    def _write_due(self, now_s: float) -> None:
        """Write what is due; what must first pass a downlink comes again when it has."""
        cut_targets, record, clock, write = self._links.cut_targets, self._lag.record, time.monotonic, os.write
        for slot_s, entries in self._queue.take(now_s):
            for entry in entries:
                target, source, packet, waited_s, sizes = entry
                if target.fd < 0 or source.fd < 0 or target.host in cut_targets[source.host]:
                    self._cut_count += 1
                elif sizes is not None and self._holds_back(entry, slot_s):
                    continue
                elif target.waiting:
                    target.waiting.append((slot_s - waited_s, packet))
                    continue
                else:
                    try:
                        write(target.fd, packet)
                        record(clock() - slot_s + waited_s)
                        self._forwarded_count += 1
                        self._forwarded_bytes += len(packet)
                    except BlockingIOError:
                        self._wait_for(target, slot_s - waited_s, packet)
                        continue
                    except OSError:  # EIO: the interface is down
                        self._refused_count += 1
                self._queued_bytes -= len(packet)

    def _holds_back(self, entry: Entry, slot_s: float) -> bool:
        """Whether the target's downlink takes more time for this packet, or drops it; both are seen to here.

        Even a packet for which the downlink is free waits until those that were held back are written.
        """
        target, source, packet, waited_s, sizes = entry
        assert sizes is not None
        done_s = self._links.arrive(slot_s, source.host, target.host, sizes)
        if done_s == DROPPED:
            self._queued_bytes -= len(packet)
            return True
        if done_s < slot_s + SLOT_S and target.held_until_s < slot_s:
            return False
        target.held_until_s = done_s
        self._queue.put(done_s, (target, source, packet, waited_s, None))
        return True

    def _wait_for(self, target: Port, due_s: float, packet: bytes) -> None:
        """The device takes no more now: this packet, and all that follow, wait for it."""
        self._retried_count += 1
        target.waiting.append((due_s, packet))
        self._epoll.modify(target.fd, select.EPOLLIN | select.EPOLLOUT)

    def _write_waiting(self, port: Port) -> None:
        while port.waiting:
            due_s, packet = port.waiting[0]
            try:
                os.write(port.fd, packet)
                self._lag.record(time.monotonic() - due_s)
                self._forwarded_count += 1
                self._forwarded_bytes += len(packet)
            except BlockingIOError:
                return
            except OSError:
                self._refused_count += 1
            self._queued_bytes -= len(packet)
            port.waiting.popleft()
        self._epoll.modify(port.fd, select.EPOLLIN)

    # Orders

    def _obey(self) -> None:
        """One order from the control socket, and its answer."""
        data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_MAX_BYTES, 1)
        if not data:
            self._ended = True
            return
        order = json.loads(data)
        try:
            answer = self._carry_out(order, fds)
        except (ValueError, OSError) as error:
            answer = {"error": str(error)}
        self._control.send(json.dumps(answer).encode())

    def _carry_out(self, order: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        """Raises ValueError or OSError with what the other end should know."""
        self._check_hosts(order)
        links = self._links
        match order["do"]:
            case "attach":
                self._attach(order["host"], fds[0])
            case "detach":
                self._detach(order["host"])
            case "cut":
                links.cut(order["a"], order["b"])
                if order["both"]:
                    links.cut(order["b"], order["a"])
            case "heal":
                links.heal(order["a"], order["b"])
                links.heal(order["b"], order["a"])
            case "delay":
                links.set_delay(order["a"], order["b"], order["one_way_s"])
                links.set_delay(order["b"], order["a"], order["one_way_s"])
            case "loss":
                links.set_loss(order["a"], order["b"], order["share"])
                links.set_loss(order["b"], order["a"], order["share"])
            case "jitter":
                links.set_jitter(order["share"])
            case "rate":
                links.set_rate(order["hosts"], order["mbit_up"], order["mbit_down"])
            case "lag":
                summary = asdict(self._lag.summary())
                if order["reset"]:
                    self._lag.reset()
                return summary
            case "traffic":
                return self._traffic()
            case other:
                raise ValueError(f"no order is called {other!r}")
        return {}

    def _check_hosts(self, order: dict[str, Any]) -> None:
        named = [*order.get("a", ()), *order.get("b", ()), *order.get("hosts", ())]
        if "host" in order:
            named.append(order["host"])
        unknown = [host for host in named if not 0 <= host < len(self._ports)]
        if unknown:
            raise ValueError(f"there are hosts 0 to {len(self._ports) - 1}, and no {unknown[0]}")

    def _traffic(self) -> dict[str, int]:
        return {
            "forwarded_count": self._forwarded_count,
            "forwarded_bytes": self._forwarded_bytes,
            "lost_count": self._links.lost_count,
            "cut_count": self._links.cut_count + self._cut_count,
            "overflow_count": self._links.overflow_count + self._overflow_count,
            "unroutable_count": self._unroutable_count,
            "retried_count": self._retried_count,
            "refused_count": self._refused_count,
        }

    def _attach(self, host: int, fd: int) -> None:
        if self._ports[host] is not None:
            os.close(fd)
            raise ValueError("it has a device already; detach that first")
        os.set_blocking(fd, False)
        self._ports[host] = self._by_fd[fd] = Port(host, fd)
        self._epoll.register(fd, select.EPOLLIN)

    def _detach(self, host: int) -> None:
        port = self._ports[host]
        if port is not None:
            self._ports[host] = None
            self._cut_count += len(port.waiting)
            self._queued_bytes -= sum(len(packet) for _, packet in port.waiting)
            self._release(port)
            self._links.forget(host)

    def _release(self, port: Port) -> None:
        """No packet passes this port from here on; its descriptor is closed by and by."""
        fd, port.fd = port.fd, -1
        port.waiting.clear()
        del self._by_fd[fd]
        self._epoll.unregister(fd)
        self._closer.submit(os.close, fd)


def receive_start(control: socket.socket) -> Forwarder:
    """The first message: hosts and settings, with the matrix in a file beside it."""
    data, fds, _, _ = socket.recv_fds(control, MESSAGE_MAX_BYTES, 1)
    start = json.loads(data)
    one_way_s = array.array("f")
    with os.fdopen(fds[0], "rb") as file:
        one_way_s.frombytes(file.read())
    links = Links(len(start["addresses"]), PathSettings(one_way_s=one_way_s, **start["paths"]))
    return Forwarder(control, links, start["addresses"])


def _prefer_this_process() -> None:
    """Wake up on time. Without the right to it, the reported lag shows what that costs.

    The real-time class, since niceness counts only among the processes of one session where the kernel groups them so
    (sched_autogroup_enabled), and here run hundreds of sessions. Linux leaves 5 % of a core to all others.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        try:
            os.nice(NICENESS)
        except OSError:
            pass
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    gc.disable()  # nothing here makes cycles


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Serve the control socket whose descriptor is the only argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command; the keeper closes the socket in the end
    signal.signal(signal.SIGTERM, _end)
    _prefer_this_process()
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        forwarder = receive_start(control)
    except ValueError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    control.send(b"{}")
    try:
        forwarder.run()
    finally:
        forwarder.close()


if __name__ == "__main__":
    main()
