"""Ops, supervisors and the processes they stand over, on every Python, through the real node program over pipes.

A test plays the worker: it sends ops, acknowledges what it stored, breaks links, kills programs, and looks at what is
left on the machine.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
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

import pytest

from plush_worker.node import frames, hostset, messages, process
from plush_worker.node.ops import Ops

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
    asked = subprocess.run([python, "-c", "import sys; print(sys.executable)"], check=True, capture_output=True, text=True)
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


@pytest.fixture
def machine(node_python: str, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(node_python, tmp_path)
    yield machine
    folder = machine.nodes[-1].folder
    if folder.exists() and machine.nodes[-1].process.poll() is not None:
        machine.node()
    node = machine.nodes[-1]
    if node.process.poll() is None:
        node.quit([node.host], kill=True)
    machine.finish()
    wait_for(lambda: not folder.exists(), f"{folder} is removed", 10)


# What a command is and says


def test_output_states_and_ends(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, "echo hello; echo oops >&2; exit 3")
    assert (store.data[OUT], store.data[ERR]) == (b"hello\n", b"oops\n")
    assert [(state["state"], state["code"], state["signal"]) for state in store.states] == [
        ("started", None, None), ("exited", 3, None)]  # fmt: skip
    assert [piece[:3] for piece in store.pieces] == [(OUT, messages.END, 0), (ERR, messages.END, 0)]
    assert len(node.of(frames.STATE)) == 2


def test_a_process_that_dies_of_a_signal(machine: Machine) -> None:
    store = machine.node().run(1001, "kill -USR1 $$; sleep 600")
    assert store.final is not None
    assert (store.final["state"], store.final["code"], store.final["signal"]) == ("exited", None, signal.SIGUSR1)


def test_a_command_that_is_not_found_is_the_shells_matter(machine: Machine) -> None:
    store = machine.node().run(1001, "no-such-command-at-all")
    assert store.final is not None
    assert (store.final["state"], store.final["code"]) == ("exited", 127)
    assert b"not found" in store.data[ERR]


def test_the_environment_is_that_of_a_login_by_ssh(machine: Machine) -> None:
    # A shell that isn't bash adds nothing to what it was given
    code = "import os; print(sorted(os.environb)); print(os.getcwd()); print(os.getsid(0) == os.getpgid(0))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    environ = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "MY_WORD": "1"}
    path = f"{machine.home / 'bin'}:{os.environ['PATH']}"
    mark = {name: value for name, value in os.environ.items() if name.startswith("PLUSH_TEST_")}
    node = Node(mesh=machine.mesh, order=1000, env={**environ, **mark, "PATH": path}).begin(machine.stores)
    machine.nodes.append(node)
    store = node.run(1001, command, env={"GIVEN": "völlig"})
    names, folder, leads = store.data[OUT].decode().splitlines()
    added_by_bash = {b"_", b"SHLVL", b"PWD", b"OLDPWD", b"LC_CTYPE"}
    assert set(eval(names)) - added_by_bash == {b"PATH", b"HOME", b"MY_WORD", b"GIVEN", *map(str.encode, mark)}
    assert (folder, leads) == (str(Path.home()), "True")


def test_signals_are_as_a_login_finds_them_and_no_descriptor_is_passed_on(machine: Machine) -> None:
    store = machine.node().run(1001, "grep -E 'SigIgn|SigBlk' /proc/self/status; ls -l /proc/self/fd; readlink /proc/$$/fd/0")
    text = store.data[OUT].decode()
    internal = 0b11 << 31  # signals of glibc's own, which its posix_spawn() ignores
    assert [int(line.split()[1], 16) & ~internal for line in text.splitlines()[:2]] == [0, 0]
    assert text.splitlines()[-1] == "/dev/null"
    assert len([line for line in text.splitlines() if " -> " in line]) == 4, text  # 0, 1, 2 and the one that lists


def test_bytes_of_any_kind_pass(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, rb"printf '\000\377\376 no newline'")
    assert store.data[OUT] == b"\x00\xff\xfe no newline"
    store = node.run(1002, b"printf %s '\xff\xc3'")
    assert store.data[OUT] == b"\xff\xc3"


def test_a_command_that_cannot_be_passed_on_fails(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, b"echo a\0b")
    assert store.final is not None
    assert store.final["state"] == "failed"
    store = node.run(1002, "true", env={"A=B": "1"})
    assert store.final is not None
    assert store.final["state"] == "failed"
    store = node.run(1003, "true #" + "x" * 200_000)
    assert store.final is not None
    assert (store.final["state"], "too long" in store.final["detail"]) == ("failed", True)
    assert [state["state"] for state in store.states] == ["failed"]
    assert node.run(1004, "echo fine").data[OUT] == b"fine\n"


def test_output_that_pauses_comes_at_once(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"printf one; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"one")
    assert store.final is None
    node.signal(1002, 1001, signal.SIGKILL)
    node.complete(1001)


def test_output_without_a_pause_comes_too(machine: Machine) -> None:
    node = machine.node()
    code = "import os,time\nfor n in range(100000): os.write(1, b'.'); time.sleep(0.005)"
    store = node.op(1001, machine.python_code(code))
    node.wait(lambda _: len(store.data[OUT]) > 10, 5)
    node.signal(1002, 1001, signal.SIGKILL)
    node.complete(1001)


def test_the_end_of_output_waits_for_everyone_who_holds_the_pipe(machine: Machine) -> None:
    node = machine.node()
    gate = machine.home / "gate"
    os.mkfifo(gate)
    store = node.op(1001, f"(read -r line < {gate}; echo later) & echo now")
    node.wait(lambda _: store.final is not None)
    assert not store.ended[OUT]
    gate.write_text("go\n")
    node.complete(1001)
    assert store.data[OUT] == b"now\nlater\n"


# Much output


def test_100_mb_of_binary_output_and_a_bounded_supervisor(machine: Machine) -> None:
    node = machine.node()
    code = (
        "import hashlib,os\nblock = b''.join(hashlib.sha256(b'%d' % n).digest() for n in range(4096))\n"
        "h = hashlib.sha256()\nfor n in range(800):\n"
        "  p = block[n * 7:] + block[:n * 7]\n  h.update(p)\n  v = memoryview(p)\n"
        "  while v: v = v[os.write(1, v):]\n"
        "os.write(2, h.hexdigest().encode())\n"
    )
    store = node.op(1001, machine.python_code(code))
    store.keeps = False
    wait_for(lambda: (node.folder / "op-1001.sock").exists(), "the supervisor")
    supervisor = machine.supervisor(1001)
    node.complete(1001, 60)
    assert store.offset[OUT] == 800 * 131072
    assert store.digest[OUT].hexdigest() == store.data[ERR].decode()
    status = Path(f"/proc/{supervisor}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kb < 40_000, f"the supervisor grew to {peak_kb} kB"


def test_nobody_acknowledges_then_the_process_waits_and_nothing_is_lost(machine: Machine) -> None:
    node = machine.node()
    node.acknowledges = False
    store = node.op(1001, "head -c 30000000 /dev/zero | tr '\\0' x; echo done >&2")
    store.keeps = False
    node.wait(lambda _: store.offset[OUT] > 7_000_000)
    while node.read(0.5):
        pass
    assert store.offset[OUT] < 10_000_000
    assert not store.data[ERR]
    node.acknowledges = True
    node.acknowledge(1001)
    node.complete(1001)
    assert store.offset[OUT] == 30_000_000


def test_nobody_reads_then_a_kill_still_comes_through(machine: Machine) -> None:
    node = machine.node(credits=False, window=1 << 17)
    store = node.op(1001, f"exec -a {machine.mark} yes")
    store.keeps = False
    wait_for(lambda: processes_with(machine.mark), "yes runs")
    while node.read(0.3):
        pass
    node.signal(1002, 1001, signal.SIGKILL)
    wait_for(lambda: not processes_with(machine.mark), "yes is killed")
    while not store.complete:
        node.write(frames.encode(frames.CREDIT, b"", messages.encode_credit(node.bulk_bytes)))
        assert node.read()
    assert store.final is not None
    assert store.final["state"] == "killed"


# Stops


def test_a_kill_with_grace_lets_the_process_end_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001)
    node.complete(1001)
    assert store.data[OUT] == b"up\nbye\n"
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 15, "signal")


RUNAWAYS = """
import os, signal, sys, time
def spawn(action):
    if not os.fork():
        action()
        time.sleep(600)
        os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
spawn(lambda: None)
spawn(os.setsid)
def double():
    os.setsid()
    if os.fork(): os._exit(0)
spawn(double)
spawn(lambda: os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]], {}))
def respawn():
    os.setsid()
    while True:
        pid = os.fork()
        if not pid: time.sleep(600)
        os.waitpid(pid, 0)
spawn(respawn)
print('up', flush=True)
time.sleep(600)
"""


def test_a_kill_ends_every_descendant_however_it_detached_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, machine.python_code(RUNAWAYS))
    node.wait(lambda _: store.data[OUT] == b"up\n")
    wait_for(lambda: len(processes_with(machine.mark)) >= 7, "all runaways are there")
    node.signal(1002, 1001, grace_ms=100)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"]) == ("killed", signal.SIGKILL)
    wait_for(lambda: not processes_with(machine.mark), "all runaways are gone", 2)


def test_a_kill_also_ends_what_a_finished_command_has_left(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"(setsid bash -c {shlex.quote(machine.sleeper())} &) ; echo left")
    node.wait(lambda _: store.final is not None)
    assert not store.ended[OUT]
    node.signal(1002, 1001, grace_ms=50)
    node.complete(1001)
    assert store.final["state"] == "exited" if store.final else False
    wait_for(lambda: not processes_with(machine.mark), "the daemon is gone", 2)


def test_a_plain_signal_ends_nothing_by_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "trap 'echo got it' USR1; echo up; for i in $(seq 20); do sleep 0.05; done; exit 7")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001, signal.SIGUSR1, grace_ms=-1)
    node.signal(1002, 1001, signal.SIGUSR1, grace_ms=-1)
    node.complete(1001)
    assert store.data[OUT] == b"up\ngot it\n", "a repeated signal op is performed once"
    assert store.final is not None
    assert (store.final["state"], store.final["code"]) == ("exited", 7)


def test_a_plain_signal_that_is_deadly(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001, signal.SIGHUP, grace_ms=-1)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 1, "signal")


def test_an_escaped_holder_of_the_pipe_does_not_hold_the_end(machine: Machine) -> None:
    node = machine.node()
    socket_path = machine.home / "s"
    keeper = subprocess.Popen(
        [sys.executable, "-c", "import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n"
         "c=s.accept()[0]\nr=c.recvmsg(1,100)\nc.send(b'x')\ntime.sleep(600)", str(socket_path)]
    )  # fmt: skip
    try:
        wait_for(socket_path.exists, "the keeper listens")
        code = (
            "import array,socket,sys,time\ns=socket.socket(socket.AF_UNIX)\n"
            f"s.connect({str(socket_path)!r})\n"
            "s.sendmsg([b'x'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[1]))])\ns.recv(1)\n"
            "print('passed on',flush=True)\ntime.sleep(600)"
        )
        store = node.op(1001, machine.python_code(code))
        node.wait(lambda _: store.data[OUT] == b"passed on\n")
        node.signal(1002, 1001, signal.SIGKILL)
        node.complete(1001, 10)
    finally:
        keeper.kill()
        keeper.wait()


def test_a_timeout(machine: Machine) -> None:
    store = machine.node().run(1001, f"echo up; {machine.sleeper()}", timeout_s=1)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 15, "timeout")


def test_the_time_to_live_ends_an_op_without_an_owner(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}", ttl_s=1)
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.kill()
    wait_for(lambda: not processes_with(machine.mark), "the op is ended")
    wait_for(lambda: not node.folder.exists(), "the last supervisor has removed the state folder")


def test_the_owners_beat_keeps_an_op_alive(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "sleep 3; echo lived", ttl_s=2)
    deadline = time.monotonic() + 15
    while not store.complete and time.monotonic() < deadline:
        node.send(frames.BEAT, [node.host])
        node.read(0.3)
    assert store.data[OUT] == b"lived\n"
    assert store.final is not None
    assert store.final["state"] == "exited"
    node.wait(lambda _: not processes_with(machine.mark))


# At most once


def test_a_repeated_op_starts_once(machine: Machine) -> None:
    node = machine.node()
    for _ in range(3):
        node.op(1001, "echo once")
    node.complete(1001)
    node.op(1001, "echo once")
    node.close_ops(1001)
    node.op(1001, "echo once")
    node.run(1002, "echo next")
    assert node.stores[1001].data[OUT] == b"once\n"
    assert len(node.stores[1001].states) == 2


def test_an_op_from_before_the_admission_is_unknown(machine: Machine) -> None:
    node = machine.node()
    store = node.op(999, "touch " + str(machine.home / "never"))
    node.wait(lambda _: store.final is not None)
    assert store.final is not None
    assert store.final["state"] == "unknown"
    node.run(1001, "true")
    assert not (machine.home / "never").exists()


def test_a_kill_that_comes_before_its_op_prevents_it(machine: Machine) -> None:
    node = machine.node()
    node.signal(1003, 1002)
    store = node.run(1002, "touch " + str(machine.home / "never"))
    assert store.final is not None
    assert (store.final["state"], store.final["signal"]) == ("killed", 15)
    node.run(1001, "true")
    assert not (machine.home / "never").exists()


def test_bodies_that_are_no_messages_are_dropped(machine: Machine) -> None:
    node = machine.node()
    for body in (b"", b"\xff" * 50, messages.pack({"op": "x"}), messages.pack({"op": -5, "command": b"", "env": {}, "ttl_s": 1, "timeout_s": 0}),
                 messages.pack({"op": 1005, "command": b"", "env": {"a": 1}, "ttl_s": 1, "timeout_s": 0})):  # fmt: skip
        for kind in (frames.OP, frames.SIGNAL, frames.ACK, frames.CLOSE):
            node.write(frames.encode(kind, hostset.encode(hostset.of([node.host])), body))
    node.send(frames.SIGNAL, [node.host], op=1003, ref=1002, signal=9999, grace_ms=0)
    node.send(frames.CLOSE, [node.host], ops=["x", None])
    assert node.run(1010, "echo fine").data[OUT] == b"fine\n"
    assert "dropped" in node.logs()


# Take-over


def held(node: Node) -> set[int]:
    """The ops that were reported as taken over."""
    return {frame.fields["op"] for frame in node.of(frames.HELD)}


def test_no_byte_is_lost_when_the_node_program_is_killed_while_the_command_prints(machine: Machine) -> None:
    copy = machine.home / "copy"
    node = machine.node()
    code = (
        f"import os,time\nfile=open({str(copy)!r},'wb',0)\nfor n in range(3000):\n"
        "  p=b'%d ' % n * 50\n  file.write(p)\n  v=memoryview(p)\n  while v: v=v[os.write(1,v):]\n  time.sleep(0.0005)\n"
        "os.write(2,b'end')"
    )
    store = node.op(1001, machine.python_code(code))
    node.acknowledges = False
    for at in (50_000, 200_000):
        node.wait(lambda _, at=at: store.offset[OUT] > at)  # type: ignore[misc]
        node.acknowledge(1001)
        node.kill()
        node = machine.node()
        node.acknowledges = False
        node.wait(lambda _: held(node) == {1001})
        node.acknowledge(1001, resume=True)
        node.op(1001, "echo started twice")
    node.complete(1001)
    assert store.data[OUT] == copy.read_bytes()
    assert store.data[ERR] == b"end"
    assert [state["state"] for state in store.states] == ["started", "exited"]
    assert store.gaps == 0
    node.close_ops(1001)


def test_an_op_that_ended_without_a_node_program_tells_the_next(machine: Machine) -> None:
    node = machine.node()
    gate = machine.home / "gate"
    os.mkfifo(gate)
    store = node.op(1001, f"echo up; read -r line < {gate}; echo down; exit 5")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.kill()
    gate.write_text("go\n")
    wait_for(lambda: b"final" in (node.folder / "op-1001").read_bytes(), "the end is recorded")
    node = machine.node()
    node.wait(lambda _: held(node) == {1001})
    assert store.final is None, "it waits to be told where to go on"
    node.acknowledge(1001, resume=True)
    node.complete(1001)
    assert store.data[OUT] == b"up\ndown\n"
    assert store.final is not None
    assert store.final["code"] == 5


def test_a_kill_reaches_an_op_that_was_taken_over(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.kill()
    node = machine.node()
    node.signal(1002, 1001)
    node.acknowledge(1001, resume=True)
    node.complete(1001)
    assert store.final is not None
    assert store.final["state"] == "killed"


def test_a_supervisor_and_its_node_program_lost_together(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    supervisor = machine.supervisor(1001)
    os.kill(node.pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    node.kill()
    node = machine.node()
    node.wait(lambda _: store.final is not None)
    node.acknowledge(1001, resume=True)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["detail"]) == ("killed", "supervisor lost")
    wait_for(lambda: not processes_with(machine.mark), "what it left is swept")


def test_an_op_that_was_journaled_but_never_begun_has_failed(machine: Machine) -> None:
    node = machine.node()
    node.run(1001, "true")
    node.kill()
    with (node.folder / "journal").open("ab") as file:
        file.write(b"op 1005\n")
    (node.folder / "op-1005").touch()
    node = machine.node()
    node.wait(lambda _: 1005 in machine.stores and machine.stores[1005].complete)
    final = machine.stores[1005].final
    assert final is not None
    assert (final["state"], final["detail"]) == ("failed", "not started")
    assert held(node) == {1001, 1005}
    node.close_ops(1001, 1005)
    wait_for(lambda: not list(node.folder.glob("op-*")), "nothing of them is left")


# What fails on the host


def test_a_supervisor_that_is_killed_is_swept_and_reported(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"(setsid bash -c {shlex.quote(machine.sleeper())} &); echo up; {machine.sleeper(601)}")
    other = node.op(1002, f"echo up; {machine.sleeper(602)}")
    node.wait(lambda _: store.data[OUT] == other.data[OUT] == b"up\n")
    wait_for(lambda: len(processes_with(machine.mark)) == 3, "all three run")
    os.kill(machine.supervisor(1001), signal.SIGKILL)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["detail"]) == ("killed", "supervisor lost")
    assert store.gaps == 2
    assert len(processes_with(machine.mark)) == 1, "the other op lives"
    node.signal(1003, 1002, signal.SIGKILL)
    node.complete(1002)


def test_closing_an_op_leaves_no_file_and_no_process(machine: Machine) -> None:
    node = machine.node()
    before = set(os.listdir(node.folder)) | {"journal"}
    supervisors = []
    for op in range(1001, 1005):
        node.run(op, "head -c 3000000 /dev/zero")
        supervisors.append(machine.supervisor(op))
    node.close_ops(*range(1001, 1005))
    wait_for(lambda: set(os.listdir(node.folder)) == before, "no file of them is left")
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in supervisors), "no supervisor is left")
    wait_for(lambda: not Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text(), "no zombie is left")


def test_what_a_closed_op_left_running_goes_on_as_after_ssh(machine: Machine) -> None:
    node = machine.node()
    node.run(1001, f"setsid bash -c {shlex.quote(machine.sleeper())} > /dev/null 2>&1 < /dev/null & echo left")
    wait_for(lambda: processes_with(machine.mark), "the daemon runs")
    node.close_ops(1001)
    wait_for(lambda: not list(node.folder.glob("op-*")), "the op is closed")
    store = node.op(1002, "echo up; sleep 600")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    os.kill(machine.supervisor(1002), signal.SIGKILL)
    node.complete(1002)
    assert processes_with(machine.mark), "a lost supervisor of another op is no reason to end it"


def test_no_more_descriptors(machine: Machine) -> None:
    node = machine.node()
    node.run(1001, "true")
    soft, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    count = len(os.listdir(f"/proc/{node.pid}/fd"))
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (count + 1, hard))
    store = node.run(1002, "true")
    assert store.final is not None
    assert (store.final["state"], "Too many open files" in store.final["detail"]) == ("failed", True)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert node.run(1003, "echo fine").data[OUT] == b"fine\n"


class BareNode:
    """What Ops sees of a node program, and no more: for what can't be brought about from outside."""

    def __init__(self, folder: Path) -> None:
        self.state_dir, self.order, self.host = str(folder), 1000, 0
        self.loop = None
        self.states: list[dict[str, Any]] = []

    def emit(self, kind: int, body: bytes) -> None:
        if kind == frames.STATE:
            self.states.append(messages.decode(kind, body))

    def uplink_full(self) -> bool:
        return False

    def log(self, text: str) -> None:
        """Nobody reads it."""


def test_no_more_processes_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(process, "become_subreaper", lambda: True)
    node = BareNode(tmp_path)
    ops = Ops(node)
    body = messages.encode(frames.OP, op=1001, command=b"true", env={}, ttl_s=1, timeout_s=0)
    for _ in range(2):
        ops.handle(frames.OP, 0, body)
    assert [(state["state"], "temporarily unavailable" in state["detail"]) for state in node.states] == [("failed", True)] * 2
    assert not ops.living()
    assert os.listdir(tmp_path) == ["journal"]


def test_the_disk_is_full_for_the_journal(machine: Machine) -> None:
    node = machine.node()
    node.run(1001, "true")
    size = (node.folder / "journal").stat().st_size
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    store = node.run(1002, "touch " + str(machine.home / "never"))
    assert store.final is not None
    assert store.final["state"] == "failed"
    assert "journal" in store.final["detail"] or "File too large" in store.final["detail"]
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = node.op(1002, "touch " + str(machine.home / "never"))
    assert node.run(1003, "echo fine").data[OUT] == b"fine\n"
    assert not (machine.home / "never").exists()
    assert again.final is not None
    assert again.final["state"] == "failed"


def test_the_disk_is_full_for_the_spool(machine: Machine) -> None:
    node = machine.node()
    node.acknowledges = False
    gate = machine.home / "gate"
    os.mkfifo(gate)
    store = node.op(1001, f"read -r line < {gate}; head -c 20000000 /dev/zero; echo done >&2")
    store.keeps = False
    wait_for(lambda: (node.folder / "op-1001.sock").exists(), "the supervisor")
    resource.prlimit(machine.supervisor(1001), resource.RLIMIT_FSIZE, (4096, 4096))
    with gate.open("w") as file:
        file.write("go\n")
    while node.read(0.7):
        pass
    assert 900_000 < store.offset[OUT] < 1_500_000, "what memory holds"
    node.acknowledges = True
    node.acknowledge(1001)
    node.complete(1001)
    assert store.offset[OUT] == 20_000_000


def test_the_home_is_that_of_the_password_file(machine: Machine) -> None:
    node = machine.node(env={"HOME": "/nonexistent"})
    store = node.run(1001, "pwd")
    assert store.data[OUT].decode().strip() == os.path.realpath(Path.home())


# The end of the node program


def test_quit_leaves_living_ops_alone_and_kill_ends_them(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.quit([node.host])
    node.wait_end()
    assert processes_with(machine.mark)
    assert node.folder.exists()
    node = machine.node()
    node.wait(lambda _: held(node) == {1001})
    node.quit([node.host], kill=True)
    node.wait_end()
    assert not processes_with(machine.mark)
    assert not node.folder.exists()


def test_closing_and_quitting_in_one_breath_leaves_nothing(machine: Machine) -> None:
    node = machine.node()
    for op in range(1001, 1006):
        node.run(op, "echo x")
    node.close_ops(*range(1001, 1006))
    node.quit([node.host])
    node.wait_end()
    assert not node.folder.exists()


def test_closing_and_losing_the_link_in_one_breath_leaves_nothing(machine: Machine) -> None:
    node = machine.node()
    for op in range(1001, 1004):
        node.run(op, "echo x")
    node.close_ops(*range(1001, 1004))
    node.close_stdin()
    node.process.wait(DEADLINE_S)
    wait_for(lambda: not node.folder.exists(), "the state folder is gone")
