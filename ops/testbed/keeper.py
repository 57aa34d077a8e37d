"""The process that holds a testbed: it makes hosts and network, serves requests, and ends everything when told or left.

Started by the harness with one end of a socket pair as its only argument's descriptor. The first line on it is the
KeeperSpec, every further one a request; each gets one answer, ``{"ok": RESULT}`` or ``{"error": TEXT}``. The same
requests are taken on the control socket in the state folder. The end of the harness's socket, a SIGTERM, or the end
of the forwarder ends the testbed; if this process is killed, the hosts' first processes and the forwarder see it and
end too. Single-threaded: entering mount and time namespaces asks for that.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import Any

from . import cgroups, namespaces, state_folder
from .errors import TestbedError
from .forwarder_client import ForwarderClient
from .host_mounts import FileStore
from .keeper_hosts import Hosts
from .keeper_requests import Requests
from .keeper_spec import KeeperSpec

REQUEST_LIMIT_BYTES = 64 << 20  # the spec of some thousand hosts
DESCRIPTORS_PER_HOST = 4


class Down(Exception):
    """The testbed is to end."""


class Connection:
    """JSON lines on one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._pending = bytearray()

    def lines(self) -> list[bytes]:
        """What came, in whole lines. Raises EOFError at the end of the stream, and when a line has no end."""
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data or len(self._pending) > REQUEST_LIMIT_BYTES:
            raise EOFError
        self._pending += data
        if b"\n" not in data:
            return []
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        return lines

    def send(self, answer: dict[str, Any]) -> None:
        """Send it; a peer that is gone is noticed when reading."""
        try:
            self.sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            return


class Keeper:
    """The event loop."""

    def __init__(self, harness: socket.socket) -> None:
        self._harness = Connection(harness)
        self._selector = selectors.DefaultSelector()
        self._hosts: Hosts | None = None
        self._forwarder: ForwarderClient | None = None
        self._groups: cgroups.Groups | None = None
        self._testbed = ""
        self._reason = ""  # why it ends, when nobody asked

    def run(self) -> None:
        """Until the testbed is down."""
        try:
            spec = self._receive_spec()
            began = time.monotonic()
            try:
                requests = self._start(spec)
            except TestbedError as error:
                self._harness.send({"error": str(error)})
                raise Down from error
            self._harness.send({"ok": {"up_s": time.monotonic() - began}})
            self._serve(requests)
        except Down:
            pass
        finally:
            answer = self._end()
        self._harness.send(answer)

    def _receive_spec(self) -> KeeperSpec:
        while True:
            try:
                lines = self._harness.lines()
            except EOFError:
                raise Down from None
            if lines:
                return KeeperSpec.from_json(lines[0])

    def _start(self, spec: KeeperSpec) -> Requests:
        _raise_descriptor_limit(len(spec.hosts) * DESCRIPTORS_PER_HOST + 100)
        self._lock = state_folder.claim(spec.testbed)
        self._testbed = spec.testbed
        folder = state_folder.BASE / spec.testbed
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / state_folder.CONTROL))
        namespaces.keep_mounts_here()
        store = FileStore(folder / state_folder.FILES)
        store.make(spec.etc)
        self._groups = cgroups.Groups(spec.testbed, cgroups.find_hierarchies())
        self._forwarder = ForwarderClient.start(len(spec.hosts), [h.address for h in spec.hosts], spec.paths)
        self._hosts = Hosts(spec, store, self._groups, self._forwarder)
        requests = Requests(self._hosts, self._forwarder, spec.network, spec.paths.rate_mbit)
        requests.set_network()
        gc.collect()
        gc.freeze()  # hosts are forks: what the collector doesn't touch stays shared
        self._hosts.power_on(range(len(spec.hosts)))
        self._listener.listen()
        return requests

    def _serve(self, requests: Requests) -> None:
        waker, self._wake = socket.socketpair()
        waker.setblocking(False)
        self._wake.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for sock, what in ((self._harness.sock, self._harness), (self._listener, None), (waker, waker)):
            self._selector.register(sock, selectors.EVENT_READ, what)
        while True:
            for key, _ in self._selector.select():
                if key.data is waker:
                    waker.recv(4096)
                    self._look_after_children()
                elif key.data is None:
                    client, _ = self._listener.accept()
                    self._selector.register(client, selectors.EVENT_READ, Connection(client))
                else:
                    self._read(key.data, requests)

    def _read(self, connection: Connection, requests: Requests) -> None:
        try:
            lines = connection.lines()
        except EOFError:
            if connection is self._harness:
                raise Down from None
            self._selector.unregister(connection.sock)
            connection.sock.close()
            return
        for line in lines:
            request = json.loads(line)
            if request["do"] == "down":
                raise Down
            try:
                connection.send({"ok": requests.perform(request)})
            except (TestbedError, OSError) as error:
                connection.send({"error": str(error)})

    def _look_after_children(self) -> None:
        assert self._hosts is not None
        assert self._forwarder is not None
        if os.waitid(os.P_PID, self._forwarder.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            try:
                self._forwarder.lag()  # the error has its last words
            except TestbedError as error:
                self._reason = f"the forwarder ended by itself, and with it the network: {error}"
                raise Down from error
        for host in self._hosts.reap():
            print(f"testbed: {host.name} went off: its first process ended", file=sys.stderr)

    def _end(self) -> dict[str, Any]:
        """Take all down; what to answer to whoever asked."""
        began = time.monotonic()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        problems = [self._reason] if self._reason else []
        if self._hosts is not None:
            self._hosts.end_all()
        for part in (self._forwarder and self._forwarder.close, self._groups and self._groups.remove):
            try:
                if part:
                    part()
            except TestbedError as error:
                problems.append(str(error))
        if self._testbed:
            namespaces.unmount(str(state_folder.BASE / self._testbed / state_folder.FILES))
            state_folder.release(self._testbed)
        if problems:
            print(f"testbed: {'; '.join(problems)}", file=sys.stderr)
            return {"error": "; ".join(problems), "gone": True}
        return {"ok": {"down_s": time.monotonic() - began}}


def _raise_descriptor_limit(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard < wanted:
            raise TestbedError(
                f"{wanted} open files are needed and {hard} allowed: raise ulimit -Hn, or ask fewer hosts"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _told_to_end(*_: object) -> None:
    raise Down


def main(harness_fd: int) -> None:
    """Be the keeper."""
    os.setsid()  # a Ctrl-C at the terminal is for the harness, which then says what to do
    signal.signal(signal.SIGTERM, _told_to_end)
    Keeper(socket.socket(fileno=harness_fd)).run()
