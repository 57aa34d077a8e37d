"""A worker's part in tests of ops: starts node programs one after another on one state folder, stores what they say.

``Store`` keeps what a worker keeps of one op; ``Node`` adds orders and acknowledgements to NodeDriver; ``Machine``
starts incarnations and knows which processes and files there should not be any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

from plush_worker.node import frames, messages

from .node_driver import NodeDriver

DEADLINE_S = 20.0
OUT, ERR = messages.STDOUT, messages.STDERR


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Until ``condition()`` is true; returns it."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)
    return found


def processes_with(text: str) -> list[int]:
    """The living processes whose command line holds ``text``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes() and b") Z " not in (entry / "stat").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


class Store:
    """What a worker stores of one op: bytes by offset, doubles dropped, holes and gaps noticed."""

    def __init__(self) -> None:
        self.digest = {OUT: hashlib.sha256(), ERR: hashlib.sha256()}
        self.data = {OUT: bytearray(), ERR: bytearray()}
        self.offset = {OUT: 0, ERR: 0}
        self.ended = {OUT: False, ERR: False}
        self.lost_bytes = {OUT: 0, ERR: 0}
        self.gaps = 0
        self.pieces: list[tuple[int, int, int, int]] = []
        self.states: list[dict[str, Any]] = []
        self.keeps = True  # more than the first thousand bytes

    def take(self, stream: int, flags: int, offset: int, data: bytes) -> None:
        """One piece of output."""
        self.pieces.append((stream, flags, offset, len(data)))
        assert offset <= self.offset[stream], f"a hole before {offset}, stored are {self.offset[stream]}"
        if flags & messages.GAP:
            self.gaps += 1
            lost = max(0, offset + int.from_bytes(data, "big") - self.offset[stream])
            self.offset[stream] += lost
            self.lost_bytes[stream] += lost
        else:
            data = data[self.offset[stream] - offset :]
            self.offset[stream] += len(data)
            self.digest[stream].update(data)
            self.data[stream] += data if self.keeps else data[: max(0, 1000 - len(self.data[stream]))]
        self.ended[stream] |= bool(flags & messages.END)

    @property
    def final(self) -> dict[str, Any] | None:
        """The final state."""
        return next((state for state in self.states if state["ordinal"] == 2), None)

    @property
    def complete(self) -> bool:
        """The final state and both ends are here."""
        return self.final is not None and all(self.ended.values())


class Node(NodeDriver):
    """A node program on ``python`` and the store above it. ``folder`` is its state folder."""

    def begin(self, stores: dict[int, Store]) -> Self:
        """Send the payload, wait for READY."""
        self.stores = stores
        self.taken = self.bulk_bytes = 0
        self.acknowledges = True
        self.start()
        self.wait(lambda driver: self.host in driver.ready())
        return self

    def _take(self, kind: int, epoch: int, hosts: bytes, body: bytes) -> None:
        super()._take(kind, epoch, hosts, body)
        if kind == frames.OUTPUT:
            self.seen.pop()
            op, stream, flags, offset = messages.decode_output(body)
            self.stores.setdefault(op, Store()).take(stream, flags, offset, body[messages.OUTPUT_HEADER_BYTES :])
            self.taken += len(body)
            self.bulk_bytes += frames.HEADER_BYTES + len(hosts) + len(body)
            if self.acknowledges and self.taken > 1 << 18:
                self.taken = 0
                self.acknowledge(op)
        elif kind == frames.STATE:
            state = self.seen[-1].fields
            store = self.stores.setdefault(state["op"], Store())
            if state["ordinal"] not in [known["ordinal"] for known in store.states]:
                store.states.append(state)

    def op(self, op: int, command: str | bytes, **changes: Any) -> Store:
        """Order an op."""
        command = command.encode() if isinstance(command, str) else command
        values = {"op": op, "command": command, "env": {}, "ttl_s": 600, "timeout_s": 0} | changes
        self.send(frames.OP, [self.host], **values)
        return self.stores.setdefault(op, Store())

    def signal(self, op: int, ref: int, number: int = signal.SIGTERM, grace_ms: int = 5000) -> None:
        """Order a signal."""
        self.send(frames.SIGNAL, [self.host], op=op, ref=ref, signal=int(number), grace_ms=grace_ms)

    def acknowledge(self, op: int, resume: bool = False) -> None:
        """Tell what is stored."""
        store = self.stores.setdefault(op, Store())
        self.send(
            frames.ACK, [self.host], op=op, stdout=store.offset[OUT], stderr=store.offset[ERR],
            ordinal=max([state["ordinal"] for state in store.states], default=0), resume=resume,
        )  # fmt: skip

    def complete(self, op: int, timeout_s: float = DEADLINE_S) -> Store:
        """Wait for all of an op."""
        self.wait(lambda _: self.stores[op].complete, timeout_s)
        return self.stores[op]

    def run(self, op: int, command: str | bytes, **changes: Any) -> Store:
        """Order an op and wait for all of it."""
        self.op(op, command, **changes)
        return self.complete(op)

    def close_ops(self, *ops: int) -> None:
        """Forget these."""
        self.send(frames.CLOSE, [self.host], ops=list(ops))

    @property
    def pid(self) -> int:
        """Of the node program itself: the shells before it exec."""
        return self.process.pid

    @property
    def folder(self) -> Path:
        """Its state folder."""
        return Path(f"/tmp/.plush-{os.getuid()}/{self.mesh}-{self.host}")

    def kill(self) -> None:
        """SIGKILL to the node program, as the OOM killer would."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait(lambda driver: driver.ended)


@cache
def real_path(python: str) -> str:
    """The program behind a pyenv shim, which is a script that adds to the environment."""
    asked = subprocess.run(
        [python, "-c", "import sys; print(sys.executable)"], check=True, capture_output=True, text=True
    )
    return asked.stdout.strip()


class Machine:
    """Starts node programs of one mesh, one after another, and sees to it that nothing of them stays."""

    def __init__(self, python: str, folder: Path) -> None:
        self.python, self.home = python, folder
        self.mesh = "t" + secrets.token_hex(6)
        self.mark = f"plush-test-{self.mesh}"
        self.order = 0
        self.stores: dict[int, Store] = {}
        self.nodes: list[Node] = []
        (folder / "bin").mkdir()
        (folder / "bin" / "python3").symlink_to(real_path(python))

    def node(self, order: int | None = None, env: Mapping[str, str] | None = None, **options: Any) -> Node:
        """The next incarnation."""
        self.order = order or self.order + 1000
        environ = dict(os.environ, PATH=f"{self.home / 'bin'}:{os.environ['PATH']}") | dict(env or {})
        node = Node(mesh=self.mesh, order=self.order, env=environ, **options)
        self.nodes.append(node)
        return node.begin(self.stores)

    def supervisor(self, op: int) -> int:
        """The pid of an op's supervisor: whoever holds its lock."""
        inode = (self.nodes[-1].folder / f"op-{op}").stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                return self._holder(self.nodes[-1].folder / f"op-{op}")
        raise AssertionError(f"nobody holds op {op}")

    def _holder(self, path: Path) -> int:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
            except OSError:
                continue  # it ended meanwhile
            if str(path) in names and int(pid) != self.nodes[-1].pid:
                return int(pid)
        raise AssertionError(f"nobody has {path} open")

    def sleeper(self, seconds: int = 600) -> str:
        """A command that sleeps and can be told from all others."""
        return f"exec -a {self.mark} sleep {seconds}"

    def python_code(self, code: str) -> str:
        """A command that runs Python code under a name that can be told."""
        return f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {self.mark}"

    def finish(self) -> None:
        """End what is left; raises AssertionError when a test has left something that should have gone."""
        for node in self.nodes:
            node.__exit__()
        for pid in processes_with(self.mark):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def machine_with(python: str, folder: Path) -> Iterator[Machine]:
    """A machine, and at its end no process, file or folder of it."""
    machine = Machine(python, folder)
    yield machine
    state_folder = machine.nodes[-1].folder
    if state_folder.exists() and machine.nodes[-1].process.poll() is not None:
        machine.node()
    node = machine.nodes[-1]
    if node.process.poll() is None:
        node.quit([node.host], kill=True)
    machine.finish()
    wait_for(lambda: not state_folder.exists(), f"{state_folder} is removed", 10)


def children(node: Node) -> list[tuple[int, str]]:
    """(pid, name) of every child of the node program; zombies have the name they had."""
    found = []
    for pid in Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            found.append((int(pid), Path(f"/proc/{pid}/comm").read_text().strip()))
    return found


def held(node: Node) -> set[int]:
    """The ops that were reported as taken over."""
    return {frame.fields["op"] for frame in node.of(frames.HELD)}
