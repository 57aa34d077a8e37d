"""The keeper's side of the forwarder: starts the process, hands TUN devices over, and orders faults.

One ``SOCK_SEQPACKET`` socket; every call sends one JSON message and waits for its answer, so what was ordered holds
when the call returns. The forwarder ends when the last copy of this socket closes, however its owner died: a process
forked from the owner must close its copy (``fileno``). Hosts are given by their index.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from array import array
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ops.testbed.errors import TestbedError
from ops.testbed.lag import Lag
from ops.testbed.links import PathSettings
from ops.testbed.traffic import Traffic

__all__ = ["ForwarderClient", "Lag", "PathSettings", "Traffic"]

CHECKOUT = Path(__file__).parents[2]
MESSAGE_MAX_BYTES = 200_000
ANSWER_LIMIT_S = 30.0
END_LIMIT_S = 30.0  # closing 490 devices takes 1.2 s on an idle machine
REPORT_BYTES = 2000  # of the forwarder's last words, in an error


class ForwarderClient:
    """Calls are for one thread at a time. Every one raises TestbedError when the forwarder is gone or refuses."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, errors_fd: int) -> None:
        """Use ``start``."""
        self._process = process
        self._control = control
        self._errors_fd = errors_fd

    @classmethod
    def start(cls, host_count: int, addresses: Sequence[str], paths: PathSettings) -> ForwarderClient:
        """Start ``python -m ops.testbed.forwarder``; ``addresses[i]`` is the IPv4 address of host ``i``."""
        if len(addresses) != host_count:
            raise TestbedError(f"{len(addresses)} addresses for {host_count} hosts: give each host one")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors_fd = os.memfd_create("forwarder-errors")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "ops.testbed.forwarder", str(theirs.fileno())],
                cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=errors_fd, stderr=errors_fd, pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            )  # fmt: skip
        ours.settimeout(ANSWER_LIMIT_S)
        client = cls(process, ours, errors_fd)
        matrix_fd = _memory_file(paths.one_way_s)
        try:
            settings = {name: value for name, value in asdict(paths).items() if name != "one_way_s"}
            client._ask({"do": "start", "addresses": list(addresses), "paths": settings}, [matrix_fd])
        except BaseException:
            client.close()
            raise
        finally:
            os.close(matrix_fd)
        return client

    @property
    def pid(self) -> int:
        """Of the forwarder."""
        return self._process.pid

    def fileno(self) -> int:
        """The socket; it becomes readable (end of file) when the forwarder ends on its own."""
        return self._control.fileno()

    def attach(self, host: int, tun_fd: int) -> None:
        """Pass a device on; the caller closes its own copy. See ``tun.make_tun``."""
        self._ask({"do": "attach", "host": host}, [tun_fd])

    def detach(self, host: int) -> None:
        """From the return on, no packet of this host leaves or arrives, queued ones included; a detached host is fine.

        The forwarder closes its descriptor in a thread: that takes about 30 ms, and this call doesn't wait for it.
        """
        self._ask({"do": "detach", "host": host})

    def cut(self, a: Sequence[int], b: Sequence[int], both: bool = True) -> None:
        """No packet from any of ``a`` to any of ``b`` (nor back, when ``both``) arrives, queued ones included."""
        self._ask({"do": "cut", "a": list(a), "b": list(b), "both": both})

    def heal(self, a: Sequence[int], b: Sequence[int]) -> None:
        """Undo ``cut`` between these, in both directions."""
        self._ask({"do": "heal", "a": list(a), "b": list(b)})

    def delay(self, a: Sequence[int], b: Sequence[int], one_way_s: float | None) -> None:
        """Set the delay in both directions; None: the matrix's again. Packets under way keep theirs and their order."""
        self._ask({"do": "delay", "a": list(a), "b": list(b), "one_way_s": one_way_s})

    def loss(self, a: Sequence[int], b: Sequence[int], share: float | None) -> None:
        """Lose this share of the packets in both directions; None: as at the start. A TSO packet is lost whole."""
        self._ask({"do": "loss", "a": list(a), "b": list(b), "share": share})

    def jitter(self, share: float) -> None:
        """Of every pair's delay, from now on."""
        self._ask({"do": "jitter", "share": share})

    def rate(self, hosts: Sequence[int], mbit_up: float, mbit_down: float) -> None:
        """10**6 bit/s; 0: no limit. What is already queued leaves at the rate it came under."""
        self._ask({"do": "rate", "hosts": list(hosts), "mbit_up": mbit_up, "mbit_down": mbit_down})

    def lag(self, reset: bool = False) -> Lag:
        """Since the start or the last reset."""
        return Lag(**self._ask({"do": "lag", "reset": reset}))

    def traffic(self) -> Traffic:
        """What went through and what didn't."""
        return Traffic(**self._ask({"do": "traffic"}))

    def close(self) -> None:
        """End the forwarder and wait for its end; again is fine."""
        if self._control.fileno() < 0:
            return
        self._control.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._errors_fd)

    def _ask(self, order: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        what = f"the forwarder was told to {order['do']}" + (f" host {order['host']}" if "host" in order else "")
        if self._control.fileno() < 0:
            raise TestbedError(f"{what}, but it has been closed; make a new testbed")
        message = json.dumps(order).encode()
        if len(message) > MESSAGE_MAX_BYTES:
            raise TestbedError(f"{what} in {len(message)} bytes; name fewer hosts at once")
        try:
            socket.send_fds(self._control, [message], fds)
            data = self._control.recv(MESSAGE_MAX_BYTES)
        except TimeoutError as error:
            raise TestbedError(f"{what} and didn't answer in {ANSWER_LIMIT_S:.0f} s; end the testbed") from error
        except OSError as error:
            raise TestbedError(f"{what}, but {self._last_words()}") from error
        if not data:
            raise TestbedError(f"{what}, but {self._last_words()}")
        answer: dict[str, Any] = json.loads(data)
        if "error" in answer:
            raise TestbedError(f"{what} and refused: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        """How the process ended, and what it printed."""
        try:
            status = f"it ended with {self._process.wait(1)}"
        except subprocess.TimeoutExpired:
            status = "it closed its socket"
        size_bytes = os.fstat(self._errors_fd).st_size
        said = os.pread(self._errors_fd, REPORT_BYTES, max(0, size_bytes - REPORT_BYTES)).decode(errors="replace")
        return f"{status}; make a new testbed. It said: {said.strip() or 'nothing'}"


def _memory_file(one_way_s: array[float]) -> int:
    """The matrix in a file without a name: 490 hosts make 1 MB, too much for a message."""
    fd = os.memfd_create("matrix")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(one_way_s.tobytes())
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        os.close(fd)
        raise
    return fd
