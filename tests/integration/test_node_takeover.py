"""Ops whose node program or supervisor is killed, whose host is full, whose node program is told to end.

Through the real node program over pipes, on every Python.
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_worker.node import frames, messages, process
from plush_worker.node.ops import Ops

from .ops_machine import (
    DEADLINE_S,
    ERR,
    OUT,
    Machine,
    Node,
    Store,
    children,
    held,
    machine_with,
    processes_with,
    wait_for,
)


@pytest.fixture
def machine(node_python: str, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(node_python, tmp_path) as machine:
        yield machine


# Take-over


def read_until(node: Node, store: Store, least_bytes: int) -> None:
    """Until so much of stdout is stored."""
    node.wait(lambda _: store.offset[OUT] > least_bytes)


def test_no_byte_is_lost_when_the_node_program_is_killed_while_the_command_prints(machine: Machine) -> None:
    copy = machine.home / "copy"
    node = machine.node()
    code = (
        f"import os,time\nfile=open({str(copy)!r},'wb',0)\nfor n in range(3000):\n"
        "  p=b'%d ' % n * 50\n  file.write(p)\n  v=memoryview(p)\n"
        "  while v: v=v[os.write(1,v):]\n  time.sleep(0.0005)\nos.write(2,b'end')"
    )
    store = node.op(1001, machine.python_code(code))
    node.acknowledges = False
    for least_bytes in (50_000, 200_000):
        read_until(node, store, least_bytes)
        node.acknowledge(1001)
        node.kill()
        node = machine.node()
        node.acknowledges = False
        node.wait(lambda it: held(it) == {1001})
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


def test_a_supervisor_that_is_killed_after_it_was_taken_over(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.kill()
    node = machine.node()
    node.wait(lambda _: held(node) == {1001})
    os.kill(machine.supervisor(1001), signal.SIGKILL)
    node.wait(lambda _: store.final is not None)
    assert store.final is not None
    assert (store.final["state"], store.final["detail"]) == ("killed", "supervisor lost")
    assert not store.ended[OUT], "nobody said yet where its output would go on"
    node.acknowledge(1001, resume=True)
    node.complete(1001)
    assert [piece[2] for piece in store.pieces[-2:]] == [3, 0], "the ends stand where the store is"
    assert not processes_with(machine.mark)


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
    wait_for(lambda: [name for _, name in children(node)] == ["plush-spare"], "nothing but one spare is left")


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
        self.hello = {"host": 0, "name": "host0"}
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
    assert [state["state"] for state in node.states] == ["failed", "failed"]
    assert all("temporarily unavailable" in state["detail"] for state in node.states)
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
    wait_for((node.folder / "op-1001.sock").exists, "the supervisor")
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
