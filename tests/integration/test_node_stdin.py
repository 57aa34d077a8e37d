"""Standard input and files through real node programs: down a tree, past slow and dead hosts, across take-overs."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_worker.node import files, frames, messages

from .node_driver import NodeDriver, fake_ssh
from .ops_machine import ERR, OUT, Machine, Node, machine_with, wait_for
from .stdin_driver import Feeder
from .test_node_tree import TREE, final

DATA = random.Random(1).randbytes(7_000_003)
DIGEST = hashlib.sha256(DATA).hexdigest().encode()
OP = {"env": {}, "ttl_s": 60, "timeout_s": 0, "stdin": True}
READS = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with machine_with(sys.executable, tmp_path) as machine:
        yield machine


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[NodeDriver]:
    """Six hosts that are up: 0 above 1 and 2, 1 above 3, 3 above 4, 2 above 5."""
    with NodeDriver(env=fake_ssh(tmp_path / "bin", {}, sys.executable), acks=True) as node:
        node.start()
        node.link(2, TREE)
        node.wait(lambda node: node.ready() == set(range(6)))
        yield node
        node.quit(range(6), kill=True)
        node.wait_end()


def printed(node: NodeDriver, op: int) -> dict[int, bytes]:
    """Host -> its standard output."""
    found: dict[int, bytes] = {}
    for output in node.of(frames.OUTPUT):
        got_op, stream, _, _ = messages.decode_output(output.body)
        for host in output.hosts if (got_op, stream) == (op, OUT) else ():
            found[host] = found.get(host, b"") + output.body[messages.OUTPUT_HEADER_BYTES :]
    return {host: data for host, data in found.items() if data}


def codes(node: NodeDriver, op: int) -> dict[int, int | None]:
    """Host -> exit code."""
    return {
        host: frame.fields["code"]
        for frame in node.of(frames.STATE)
        if (frame.fields["op"], frame.fields["ordinal"]) == (op, 2)
        for host in frame.hosts
    }


def test_every_host_of_a_tree_gets_it_and_the_link_carries_it_once(tree: NodeDriver) -> None:
    tree.send(frames.OP, range(6), op=10, command=b"sha256sum", **OP)
    feeder = Feeder(tree, 10, DATA, range(6))
    feeder.until(lambda: final(tree, 10) == set(range(6)))
    tree.wait(lambda node: set(printed(node, 10)) == set(range(6)))
    assert set(printed(tree, 10).values()) == {DIGEST + b"  -\n"}
    assert feeder.sent_bytes < 1.3 * len(DATA)


@pytest.mark.parametrize("size", [0, 1, 32768, 32769])
def test_short_inputs_end_too(tree: NodeDriver, size: int) -> None:
    tree.send(frames.OP, range(6), op=10, command=b"wc -c; cat", **OP)
    Feeder(tree, 10, DATA[:size], range(6)).until(lambda: final(tree, 10) == set(range(6)))
    tree.wait(lambda node: set(printed(node, 10).values()) == {b"%d\n" % size})


def test_one_that_reads_slowly_and_one_that_never_reads_hold_nobody_up(tree: NodeDriver) -> None:
    slow = f"sleep 1.5; {sys.executable} -c '{READS}'"
    command = f"case $PLUSH_HOST in host3) exec sleep 600;; host4) {slow};; *) sha256sum;; esac"
    tree.send(frames.OP, range(6), op=10, command=command.encode(), **OP)
    feeder = Feeder(tree, 10, DATA, range(6))
    feeder.until(lambda: {0, 1, 2, 5} <= final(tree, 10))
    assert 3 not in final(tree, 10)
    feeder.until(lambda: 4 in final(tree, 10))
    tree.send(frames.SIGNAL, [3], op=11, ref=10, signal=15, grace_ms=1000)
    tree.wait(lambda node: 3 in final(node, 10))
    tree.wait(lambda node: set(printed(node, 10)) == {0, 1, 2, 4, 5})
    assert {said.split()[0] for said in printed(tree, 10).values()} == {DIGEST}


def test_a_signal_overtakes_it(tree: NodeDriver) -> None:
    tree.send(frames.OP, [4], op=10, command=b"exec sleep 600", **OP)
    feeder = Feeder(tree, 10, DATA, [4])
    feeder.until(lambda: feeder.furthest > 1_000_000)
    tree.send(frames.SIGNAL, [4], op=11, ref=10, signal=9, grace_ms=0)
    tree.wait(lambda node: 4 in final(node, 10))


def test_pieces_that_are_lost_come_again(tree: NodeDriver) -> None:
    tree.send(frames.OP, range(6), op=10, command=b"sha256sum", **OP)
    feeder = Feeder(tree, 10, DATA, range(6), loses=lambda number: number % 50 == 49)
    feeder.until(lambda: final(tree, 10) == set(range(6)))
    tree.wait(lambda node: set(printed(node, 10).values()) == {DIGEST + b"  -\n"})


def test_a_lost_end_comes_again_after_a_while(tree: NodeDriver) -> None:
    tree.send(frames.OP, [0], op=10, command=b"wc -c", **OP)
    feeder = Feeder(tree, 10, DATA[:70_000], [0], loses=lambda number: number == 3)
    feeder.until(lambda: final(tree, 10) == {0})
    tree.wait(lambda node: printed(node, 10) == {0: b"70000\n"})


def test_a_process_that_reads_only_its_beginning_ends_the_feeding(tree: NodeDriver) -> None:
    tree.send(frames.OP, range(6), op=10, command=b"head -c 5 >/dev/null; exec <&-; sleep 600", **OP)
    feeder = Feeder(tree, 10, DATA, range(6))

    def closed() -> set[int]:
        return {host for frame in tree.of(frames.NEED) if frame.fields["offset"] < 0 for host in frame.hosts}

    feeder.until(lambda: closed() == set(range(6)))
    assert feeder.furthest < len(DATA)
    tree.send(frames.SIGNAL, range(6), op=11, ref=10, signal=9, grace_ms=0)
    tree.wait(lambda node: final(node, 10) == set(range(6)))


def test_without_it_a_process_has_dev_null(machine: Machine) -> None:
    assert machine.node().run(1001, "readlink /proc/self/fd/0").data[OUT] == b"/dev/null\n"


def test_a_process_runs_in_the_folder_that_was_said(machine: Machine, tmp_path: Path) -> None:
    node = machine.node(env={"HOME": str(tmp_path)})
    (tmp_path / "host0").mkdir()
    assert node.run(1001, "pwd", cwd="~/{host}").data[OUT].decode() == f"{tmp_path}/host0\n"
    node.op(1002, "pwd", cwd="~/nosuch")
    final_state = node.complete(1002).final
    assert final_state is not None
    assert final_state["state"] == "failed"
    assert "nosuch: No such file" in final_state["detail"]


def test_a_new_incarnation_takes_the_feeding_over(machine: Machine) -> None:
    node = machine.node()
    go_on = machine.home / "go-on"
    waits = f"while not os.path.exists({str(go_on)!r}): time.sleep(0.02)"
    reads = READS.replace("hashlib.sha256(", "hashlib.sha256(head + ")
    program = f"import os, time\nhead = os.read(0, 100000)\n{waits}\n{reads}"
    node.op(1001, machine.python_code(program), stdin=True)
    feeder = Feeder(node, 1001, DATA, [node.host])
    feeder.until(lambda: feeder.furthest > 1_000_000)
    node.kill()
    node = machine.node()
    node.wait(lambda node: bool(node.of(frames.HELD)))
    node.acknowledge(1001, resume=True)
    go_on.touch()
    feeder = Feeder(node, 1001, DATA, [node.host])
    feeder.until(lambda: machine.stores[1001].complete)
    assert machine.stores[1001].data[OUT] == DIGEST + b"\n"
    first = next(frame.fields for frame in node.of(frames.NEED))
    assert first["again"] and first["offset"] > 0, "what it had is not sent again"


# Files


def record(path: str, kind: str, mode: int, data: bytes = b"", target: str = "", **more: Any) -> bytes:
    digest = hashlib.sha256(data).digest() if kind == "file" else b""
    return files.encode_record(path.encode(), kind, mode, len(data), digest, target.encode(), **more) + data


def deploy(node: Node, op: int, stream: bytes, **fields: Any) -> tuple[int, str]:
    """(exit code, standard error) of a deploy."""
    store = node.op(op, "exit 99", built_in="deploy", stdin=True, **fields)
    Feeder(node, op, stream, [node.host]).until(lambda: store.complete)
    assert store.final is not None
    return store.final["code"], store.data[ERR].decode()


def content(top: Path) -> dict[str, Any]:
    """Path below -> (permissions, content), or a link's target."""
    return {
        str(path.relative_to(top)): os.readlink(path)
        if path.is_symlink()
        else (path.stat().st_mode & 0o7777, None if path.is_dir() else path.read_bytes())
        for path in top.rglob("*")
    }


def test_files_come_to_their_place_on_every_python(node_python: str, tmp_path: Path) -> None:
    top = tmp_path / "top"
    with machine_with(node_python, tmp_path) as machine:
        node = machine.node()
        stream = b"".join(
            (
                record(f"{top}", "dir", 0o755),
                record(f"{top}/closed", "dir", 0o500),
                record(f"{top}/closed/big", "file", 0o755, DATA[:200_000]),
                record(f"{top}/empty", "file", 0o600),
                record(f"{top}/{{host}}-{{index}}", "file", 0o644, b"mine"),
                record(f"{top}/others", "file", 0o644, b"not for me", hosts=[0, 1]),
                record(f"{top}/some", "file", 0o644, b"for me too", hosts=[3, 5]),
                record(f"{top}/link", "link", 0o777, target="closed/big"),
            )
        )
        assert deploy(node, 1001, stream, ranks={"0": 3}) == (0, "")
        assert content(top) == {
            "closed": (0o500, None),
            "closed/big": (0o755, DATA[:200_000]),
            "empty": (0o600, b""),
            "host0-3": (0o644, b"mine"),
            "some": (0o644, b"for me too"),
            "link": "closed/big",
        }
        fetched = node.run(1002, "exit 99", built_in="fetch", paths=[str(top), f"{top}/nosuch"])
        assert (fetched.final or {})["code"] == 1
        assert fetched.data[ERR].decode() == f"{top}/nosuch: No such file or directory\n"
        whole = bytes(fetched.data[OUT])
        assert record("top/closed/big", "file", 0o755, DATA[:200_000]) in whole
        assert record("top/link", "link", 0o777, target="closed/big") in whole
        (top / "closed").chmod(0o700)


def test_a_file_that_can_not_be_put_is_named_and_the_rest_goes_on(machine: Machine, tmp_path: Path) -> None:
    node = machine.node()
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("old")
    wrong = files.encode_record(f"{tmp_path}/wrong".encode(), "file", 0o644, 4, bytes(32)) + b"data"
    stream = (
        record(f"{tmp_path}/dir", "file", 0o644, b"data")
        + record(f"{tmp_path}/file/below", "file", 0o644, DATA[:100_000])
        + wrong
        + record(f"{tmp_path}/good", "file", 0o644, b"data")
    )
    code, said = deploy(node, 1001, stream)
    assert code == 1
    lines = said.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [f"{tmp_path}/{n}" for n in ("dir", "file/below", "wrong")]
    assert (tmp_path / "good").read_text() == "data"
    assert not (tmp_path / "wrong").exists()
    assert not list(tmp_path.glob(".plush-*"))


@pytest.mark.parametrize("whom", ["op", "receiver", "supervisor", "node program"])
def test_nothing_half_written_is_left_whoever_is_killed(machine: Machine, tmp_path: Path, whom: str) -> None:
    node, top = machine.node(), tmp_path / "top"
    store = node.op(1001, "exit 99", built_in="deploy", stdin=True)
    stream = record(f"{top}/whole", "file", 0o644, b"whole") + record(f"{top}/half", "file", 0o644, DATA)
    feeder = Feeder(node, 1001, stream[:-100], [node.host])
    feeder.feed.size_bytes += 100  # the end never comes
    feeder.data = stream[:-100] + bytes(100)
    feeder.until(lambda: (top / "whole").exists() and list(top.glob(".plush-*")))
    part = next(top.glob(".plush-*"))
    supervisor = machine.supervisor(1001)
    [receiver] = _children(supervisor)
    assert os.getsid(receiver) == receiver, "it is found by its session when nobody stands over it"
    if whom == "op":
        node.signal(1002, 1001)
    elif whom == "receiver":
        os.kill(receiver, signal.SIGKILL)
    elif whom == "supervisor":
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(receiver, signal.SIGKILL)
        os.kill(supervisor, signal.SIGKILL)
    else:
        node.kill()
        node = machine.node()
        node.wait(lambda node: bool(node.of(frames.HELD)))
        node.acknowledge(1001, resume=True)
        node.signal(1002, 1001)
    node.wait(lambda _: store.final is not None)
    assert (store.final or {})["state"] in ("killed", "exited")
    if whom != "supervisor":
        assert not part.exists(), "the end is told when it is removed"
    node.close_ops(1001)
    wait_for(lambda: not part.exists(), "the half-written file is removed")
    assert content(top) == {"whole": (0o644, b"whole")}


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_input_that_ends_in_the_middle_of_a_file_is_told(machine: Machine, tmp_path: Path) -> None:
    stream = record(f"{tmp_path}/a", "file", 0o644, DATA)
    code, said = deploy(machine.node(), 1001, stream[:-1])
    assert code == 1
    assert "ended in the middle of a file" in said
    assert not list(tmp_path.glob("a")) and not list(tmp_path.glob(".plush-*"))


def test_an_old_node_program_does_not_take_a_deploy_for_done(tree: NodeDriver) -> None:
    from plush_worker.mesh import orders
    from plush_worker.model import OpRecord

    body = messages.unpack(orders.op_body(OpRecord(10, "r", "m", "deploy", "0")))
    del body["built_in"], body["stdin"]
    tree.send(frames.OP, [0], **body)
    tree.wait(lambda node: codes(node, 10) == {0: 70})
