"""The supervisor that waits for the next op: it is used, replaced, done without, and never stays behind.

Through the real node program over pipes, on every Python.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from plush_worker.node import spares

from .ops_machine import OUT, Machine, Node, children, held, machine_with, processes_with, wait_for

SPARE = "plush-spare"


@pytest.fixture
def machine(node_python: str, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(node_python, tmp_path) as machine:
        yield machine


def warm(machine: Machine) -> tuple[Node, int]:
    """A node program that has a spare, and the spare's pid."""
    node = machine.node()
    node.run(1001, "true")
    node.close_ops(1001)
    wait_for(lambda: [name for _, name in children(node)] == [SPARE], "a spare waits")
    return node, children(node)[0][0]


def test_the_spare_is_the_next_ops_supervisor(machine: Machine) -> None:
    node, spare = warm(machine)
    store = node.op(1002, f"echo $A; {machine.sleeper()}", env={"A": "given"})
    node.wait(lambda _: store.data[OUT] == b"given\n")
    assert machine.supervisor(1002) == spare
    node.signal(1003, 1002, signal.SIGKILL)
    node.complete(1002)
    assert store.final is not None
    assert store.final["state"] == "killed"


def test_an_op_starts_although_the_spare_was_killed(machine: Machine) -> None:
    node, spare = warm(machine)
    os.kill(spare, signal.SIGKILL)
    wait_for(lambda: spare not in [pid for pid, _ in children(node)], "it is reaped")
    assert node.run(1002, "echo up").data[OUT] == b"up\n"
    node.close_ops(1002)
    wait_for(lambda: [name for _, name in children(node)] == [SPARE], "another spare waits, and no zombie")


def test_a_long_order_is_given_to_a_fork(machine: Machine) -> None:
    node, spare = warm(machine)
    text = "x" * spares.ORDER_BYTES
    assert node.run(1002, f"echo {text}").data[OUT] == text.encode() + b"\n"
    wait_for(lambda: spare not in [pid for pid, _ in children(node)], "the spare that was passed over has ended")


def test_two_ops_at_once_share_no_supervisor(machine: Machine) -> None:
    node, spare = warm(machine)
    first = node.op(1002, f"echo up; {machine.sleeper()}")
    second = node.op(1003, f"echo up; {machine.sleeper(601)}")
    node.wait(lambda _: first.data[OUT] == second.data[OUT] == b"up\n")
    assert machine.supervisor(1002) == spare != machine.supervisor(1003)
    node.signal(1004, 1002, signal.SIGKILL)
    node.complete(1002)
    assert len(processes_with(machine.mark)) == 1, "the other op lives"
    node.signal(1005, 1003, signal.SIGKILL)
    node.complete(1003)


def test_a_spare_ends_with_its_node_program(machine: Machine) -> None:
    node, spare = warm(machine)
    node.kill()
    wait_for(lambda: not Path(f"/proc/{spare}").exists(), "nobody would ever give it an order")


def test_a_spare_holds_none_of_the_node_programs_descriptors(machine: Machine) -> None:
    """The lock of the mesh's host number above all: the next node program couldn't start."""
    _, spare = warm(machine)
    targets = sorted(os.readlink(f"/proc/{spare}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{spare}/fd"))
    assert targets == ["/dev/null", "/dev/null", "/dev/null", "socket"]


def test_an_incarnation_that_took_an_op_over_has_spares_that_work(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, machine.sleeper(1))
    node.wait(lambda _: bool(store.states))
    node.kill()
    node = machine.node()
    node.wait(lambda node: held(node) == {1001})
    node.acknowledge(1001, resume=True)
    node.complete(1001)
    node.close_ops(1001)
    wait_for(lambda: not (node.folder / "op-1001").exists(), "the op is closed")
    for op in (2001, 2002):
        assert node.run(op, "echo $PLUSH_HOST").data[OUT] == b"host0\n"
