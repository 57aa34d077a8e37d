"""Trees of real node programs, linked by a stand-in for ssh that runs the remote command on this machine."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_worker.mesh import payload
from plush_worker.node import frames, hostset, limits, messages
from plush_worker.node.frames import MARKER

from .node_driver import NodeDriver, fake_ssh
from .test_node_pipes import changed, with_limits

TREE = [(1, 0), (2, 0), (3, 1), (4, 3), (5, 2)]
OP = {"command": b"echo hi; exit 3", "env": {}, "ttl_s": 60, "timeout_s": 0}
FINAL = 2


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Callable[..., NodeDriver]]:
    """``tree(scripts, **options)``: a started driver whose node program finds the stand-in for ssh."""
    started: list[NodeDriver] = []

    def start(scripts: dict[str, str] | None = None, python: str = sys.executable, **options: Any) -> NodeDriver:
        env = fake_ssh(tmp_path / "bin", scripts, python)
        started.append(NodeDriver(env=env, **options))
        return started[-1].start()

    yield start
    for node in started:
        with node:
            pass


def final(node: NodeDriver, op: int) -> set[int]:
    """The hosts whose op has ended."""
    return {
        h for f in node.of(frames.STATE) if (f.fields["op"], f.fields["ordinal"]) == (op, FINAL) for h in f.hosts
    }  # fmt: skip


def ended(node: NodeDriver, op: int, stream: int) -> set[int]:
    """The hosts that have ended a stream of the op."""
    found = set()
    for output in node.of(frames.OUTPUT):
        got_op, got_stream, flags, _ = messages.decode_output(output.body)
        if (got_op, got_stream) == (op, stream) and flags & messages.END:
            found.update(output.hosts)
    return found


def calls(folder: Path) -> list[list[str]]:
    """What the stand-in for ssh was called with."""
    return [ast.literal_eval(line) for line in (folder / "bin" / "calls").read_text().splitlines()]


UNTIL_EOF = "while os.read(0, 65536): pass"


def speaker(*sent: bytes, then: str = "0") -> str:
    """A script in place of a host: says the marker and some bytes, does ``then`` and waits for the end of its stdin."""
    said = (MARKER + b"".join(sent)).hex()
    program = f'import os; os.write(1, bytes.fromhex("{said}")); {then}\n{UNTIL_EOF}'
    return f"exec {sys.executable} -I -S -c '{program}'\n"


def frame(kind: int, hosts: list[int], **fields: Any) -> bytes:
    return bytes(frames.encode(kind, hostset.encode(hostset.of(hosts)), messages.encode(kind, **fields)))


READY = {"order": 2, "version": 1, "python": "3.9.0"}


def test_a_tree_comes_up_answers_once_and_leaves_nothing(tree: Callable[..., NodeDriver], node_python: str) -> None:
    node = tree(python=node_python)
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    node.send(frames.OP, range(6), op=10, **OP)
    node.wait(lambda node: final(node, 10) == set(range(6)) and len(node.of(frames.OUTPUT)) >= 2)
    states = [f for f in node.of(frames.STATE) if f.fields["ordinal"] == FINAL]
    assert {f.fields["code"] for f in states} == {3}
    node.send(frames.CLOSE, range(6), ops=[10])
    node.quit(range(6))
    assert node.wait_end() == 0
    assert node.lost() == {}
    assert node.state_dirs() == []


def test_first_ops_travel_with_the_order(tree: Callable[..., NodeDriver]) -> None:
    node = tree()
    node.link(2, TREE)
    node.send(frames.OP, [3, 5], op=10, **OP)
    node.wait(lambda node: final(node, 10) == {3, 5})
    node.send(frames.CLOSE, [3, 5], ops=[10])


def test_ssh_is_called_with_pinned_keys_that_are_there_only_while_needed(
    tree: Callable[..., NodeDriver], tmp_path: Path
) -> None:
    keep = f"cp $2 {tmp_path}/seen-$1"
    script = f"""
for word in "$@"; do :; done
{keep.replace("$1", "keys").replace("$2", "/tmp/.plush-$(id -u)/*/kh-1")}
exec sh -c "$1"
"""
    node = tree({"10.1.2.3": script})
    node.link(2, [(1, 0)], ["-A", "-o", "KexAlgorithms=curve25519-sha256"], address="10.1.2.3", port=2022, user="me",
              known_hosts=b"ssh-ed25519 AAAA\n")  # fmt: skip
    node.wait(lambda node: node.ready() == {0, 1})
    (words,) = calls(tmp_path)
    assert words[:3] == ["-T", "-p", "2022"]
    assert words[-2] == "me@10.1.2.3"
    assert words.index("-A") < words.index("ConnectTimeout=10")
    assert (tmp_path / "seen-keys").read_text() == "plush-1 ssh-ed25519 AAAA\n"
    assert not list(node.state_dirs()[0].glob("kh-*"))


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("echo 'ssh: connect to host h port 22: Connection refused' >&2; exit 255", "refused", "port 22"),
        ("echo 'me@h: Permission denied (publickey).' >&2; exit 255", "auth", "publickey"),
        ("echo 'Host key verification failed.' >&2; exit 255", "host_key", "failed"),
        ("echo welcome; echo PLUSH-FAIL no_python nowhere; exit 3", "no_python", "nowhere"),
        ("echo this account is disabled; exit 1", "bootstrap", "disabled"),
        ("echo Permission denied; exit 126", "bootstrap", "Permission denied"),
        ("exit 0", "bootstrap", "exit code 0"),
        ("kill -9 $$", "bootstrap", "signal 9"),
    ],
)
def test_a_link_that_fails_says_why_and_the_others_come_up(
    tree: Callable[..., NodeDriver], script: str, code: str, said: str
) -> None:
    node = tree({"host2": script})
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 3, 4} and 2 in node.lost())
    assert node.lost()[2] == (code, [2, 5])
    fields = node.of(frames.LOST)[0].fields
    assert said in fields["detail"]
    assert fields["reached"] is False
    assert not list(node.state_dirs()[0].glob("kh-*"))


def test_a_host_without_ssh_says_so(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, target in {"python3": sys.executable, "sh": "/bin/sh"}.items():
        (tmp_path / "bin" / name).symlink_to(target)
    with NodeDriver(
        command=["/bin/sh", "-c", NodeDriver.line()], env=dict(os.environ, PATH=str(tmp_path / "bin"))
    ) as node:
        node.start().link(2, [(1, 0)])
        node.wait(lambda node: 1 in node.lost())
        assert node.lost()[1] == ("no_ssh", [1])


def test_an_address_that_is_an_option_is_refused(tree: Callable[..., NodeDriver], tmp_path: Path) -> None:
    node = tree()
    node.link(2, [(1, 0)], address="-oProxyCommand=touch /tmp/owned")
    node.wait(lambda node: 1 in node.lost())
    assert node.lost()[1] == ("name", [1])
    assert not (tmp_path / "bin" / "calls").exists()


def test_a_half_open_connection_ends_at_its_deadline(tree: Callable[..., NodeDriver]) -> None:
    node = tree({"host1": "echo hello; cat >/dev/null"}, payload=with_limits(BOOTSTRAP_S=0), connect_s=1)
    node.link(2, [(1, 0)])
    node.wait(lambda node: 1 in node.lost())
    assert node.lost()[1] == ("timeout", [1])
    assert "hello" in node.of(frames.LOST)[0].fields["detail"]


def test_logins_are_limited_and_the_rest_waits(tree: Callable[..., NodeDriver], tmp_path: Path) -> None:
    hosts = range(1, limits.LOGINS_AT_ONCE + 4)
    held = f'echo >> {tmp_path}/began; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exec sh -c "$1"'
    node = tree({f"host{n}": held for n in hosts})
    node.link(2, [(n, 0) for n in hosts])

    def began() -> int:
        return len((tmp_path / "began").read_text().split("\n")) - 1 if (tmp_path / "began").exists() else 0

    while began() < limits.LOGINS_AT_ONCE:
        node.read(0.02)
    node.read(0.3)
    assert began() == limits.LOGINS_AT_ONCE
    (tmp_path / "go").touch()
    node.wait(lambda node: node.ready() == {0, *hosts})


def test_an_inner_host_that_dies_takes_its_subtree_off_and_can_be_linked_anew(tree: Callable[..., NodeDriver]) -> None:
    node = tree({"host1": 'echo $$ > pid1; exec sh -c "$1"'.replace("pid1", "${0%.sh}.pid")})
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    folder = Path(str((node.env or {})["PATH"]).split(":")[0])
    os.kill(int((folder / "host1.pid").read_text()), signal.SIGKILL)
    node.wait(lambda node: 1 in node.lost())
    assert node.lost()[1] == ("eof", [1, 3, 4])
    assert node.of(frames.LOST)[0].fields["reached"] is True
    node.seen.clear()
    node.link(3, [(1, 0), (3, 1), (4, 3)])
    node.wait(lambda node: node.ready() == {1, 3, 4})
    node.send(frames.OP, range(6), op=10, **OP)
    node.wait(lambda node: final(node, 10) == set(range(6)))
    node.send(frames.CLOSE, range(6), ops=[10])
    node.quit(range(6))
    assert node.wait_end() == 0
    assert node.state_dirs() == []


def test_the_loss_of_the_top_ends_the_whole_tree(tree: Callable[..., NodeDriver]) -> None:
    node = tree()
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    assert len(node.state_dirs()) == 6
    node.close_stdin()
    assert node.wait_end() == 0
    wait_for(lambda: node.state_dirs() == [])


def test_unlink_takes_a_subtree_away(tree: Callable[..., NodeDriver]) -> None:
    node = tree()
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    node.send(frames.UNLINK, [3])
    node.wait(lambda node: 3 in node.lost())
    assert node.lost() == {3: ("eof", [3, 4])}
    wait_for(lambda: len(node.state_dirs()) == 4)


def test_quit_of_a_subtree_is_no_loss(tree: Callable[..., NodeDriver]) -> None:
    node = tree()
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    node.quit([1, 3, 4])
    wait_for(lambda: len(node.state_dirs()) == 3)
    node.send(frames.OP, range(6), op=10, **OP)
    node.wait(lambda node: final(node, 10) == {0, 2, 5})
    assert node.lost() == {}
    node.send(frames.CLOSE, [0, 2, 5], ops=[10])


def test_a_second_result_merges_into_one_frame_at_the_top(tree: Callable[..., NodeDriver]) -> None:
    node = tree(hold_ms=5000)
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})
    node.seen.clear()
    node.send(frames.OP, range(6), op=10, **OP)
    node.wait(lambda node: final(node, 10) == set(range(6)) and len(node.of(frames.OUTPUT)) >= 2, timeout_s=4)
    assert [(f.fields["state"], f.hosts) for f in node.of(frames.STATE)] == [
        ("started", [0, 1, 2, 3, 4, 5]), ("exited", [0, 1, 2, 3, 4, 5])]  # fmt: skip
    assert {tuple(f.hosts) for f in node.of(frames.OUTPUT)} == {(0, 1, 2, 3, 4, 5)}
    node.send(frames.CLOSE, range(6), ops=[10])


LIES = [
    frame(frames.STATE, [3], op=10, ordinal=2, state="exited", code=0, signal=None, detail=""),
    frame(frames.READY, [2], **READY),
    frame(frames.LOST, [3], order=2, child=3, code="eof", detail="", reached=True),
    frame(frames.LOG, [0], text="I am the root"),
    bytes(frames.encode(frames.OUTPUT, hostset.encode(hostset.of([1, 2])), messages.encode_output(10, 1, 0, b"lie"))),
]


def test_a_hostile_child_speaks_only_for_itself(tree: Callable[..., NodeDriver]) -> None:
    node = tree({"host2": speaker(*LIES, frame(frames.READY, [2], **READY))})
    node.link(2, [(1, 0), (2, 0), (3, 1)])
    node.wait(lambda node: node.ready() == {0, 1, 2, 3} and node.logs().count("which it may not") == len(LIES) - 1)
    assert node.of(frames.OUTPUT) == node.of(frames.STATE) == node.of(frames.LOST) == []
    assert "I am the root" not in node.logs()


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff" * 64,
        b"\0\0\0\x0c\x7f" + bytes(11),
        frame(frames.QUIT, [0], kill=True),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
def test_a_child_that_sends_what_is_no_frame_loses_its_link_only(tree: Callable[..., NodeDriver], bad: bytes) -> None:
    node = tree({"host2": speaker(bad)})
    node.link(2, [(1, 0), (2, 0)])
    node.wait(lambda node: node.ready() == {0, 1} and 2 in node.lost())
    assert node.lost() == {2: ("protocol", [2])}


def test_a_silent_child_is_lost(tree: Callable[..., NodeDriver]) -> None:
    node = tree({"host2": speaker()}, beat_s=1)
    node.link(2, [(1, 0), (2, 0)])
    node.wait(lambda node: 2 in node.lost())
    assert node.lost() == {2: ("silent", [2])}
    assert node.ready() == {0, 1}


SPAM = frame(frames.LOG, [2], text="spam").hex()
FLOOD = speaker(then=f'[os.write(1, bytes.fromhex("{SPAM}") * 4000) for _ in range(2000)]')


def test_a_flood_of_control_from_a_child_harms_nobody(tree: Callable[..., NodeDriver]) -> None:
    node = tree({"host2": FLOOD})
    node.link(2, [(2, 0)])
    node.wait(lambda node: len(node.of(frames.LOG)) > 1000)
    node.link(3, [(1, 0)])
    node.wait(lambda node: 1 in node.ready(), timeout_s=40)
    assert resident_mb(node.process.pid) < 60


def test_output_without_credit_stops_and_control_still_passes(tree: Callable[..., NodeDriver], tmp_path: Path) -> None:
    """Nobody takes the output: memory stays bounded, a kill arrives, and is answered behind the output."""
    node = tree(credits=False, acks=True, window=1 << 18)
    node.link(2, [(1, 0), (2, 1)])
    node.wait(lambda node: node.ready() == {0, 1, 2})
    node.send(
        frames.OP, range(3), op=10, **(OP | {"command": f"echo $$ >> {tmp_path}/pids; exec cat /dev/zero".encode()})
    )
    node.wait(lambda node: sum(len(f.body) for f in node.of(frames.OUTPUT)) > (1 << 18) - (1 << 16))
    while node.read(0.5):
        pass
    assert node.bulk_bytes <= 1 << 18
    assert resident_mb(node.process.pid) < 40
    node.send(frames.SIGNAL, range(3), op=11, ref=10, signal=9, grace_ms=0)
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 3
    wait_for(lambda: not any(Path("/proc", pid).exists() for pid in pids))
    node.credits = True
    node.write(frames.encode(frames.CREDIT, b"", messages.encode_credit(node.bulk_bytes)))
    node.wait(lambda node: final(node, 10) == ended(node, 10, 1) == ended(node, 10, 2) == {0, 1, 2})
    node.send(frames.CLOSE, range(3), ops=[10, 11])


def test_windows_of_credit_pass_any_amount(tree: Callable[..., NodeDriver]) -> None:
    node = tree(window=1 << 18, acks=True)
    node.link(2, [(1, 0), (2, 1)])
    node.wait(lambda node: node.ready() == {0, 1, 2})
    node.send(frames.OP, [1, 2], op=10, **(OP | {"command": b"head -c 3000000 /dev/zero"}))
    node.wait(lambda node: final(node, 10) == ended(node, 10, 1) == ended(node, 10, 2) == {1, 2}, timeout_s=30)
    assert node.stored == {(1, 10): [3_000_000, 0], (2, 10): [3_000_000, 0]}
    node.send(frames.CLOSE, [1, 2], ops=[10])


def test_the_payload_of_children_is_the_one_that_came(tree: Callable[..., NodeDriver]) -> None:
    marked = changed(parts=(payload.NODE_FOLDER / "parts.py").read_text() + "\nMARK = 1\n")
    node = tree(payload=marked)
    node.link(2, TREE)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 4, 5})


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
