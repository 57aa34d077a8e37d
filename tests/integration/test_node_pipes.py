"""The real node program over pipes, on every Python from 3.6 on: its start, its life, its end. No sshd."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from plush_worker.mesh import payload
from plush_worker.node import bootstrap, frames, limits, messages

from .node_driver import NodeDriver, fake_ssh

LOGIN_SHELLS = ("sh", "dash", "bash", "zsh", "csh", "tcsh", "fish")
# Stands in for ops.py: says what is loaded, and prints where a careless program would
TELLTALE = """
import sys
class Ops:
    def __init__(self, node):
        self.node = node
    def handle(self, kind, epoch, body):
        loaded = sorted(name for name in sys.modules)
        print("stray"); sys.stdout.flush()
        self.node.log("loaded: " + " ".join(loaded))
    def living(self):
        return False
"""


def sources() -> dict[str, str]:
    return {path.stem: path.read_text() for path in payload.NODE_FOLDER.glob("*.py")}


def changed(**texts: str) -> bytes:
    """The payload with some modules replaced."""
    return payload.bundle(sources() | texts)


def with_limits(**values: int) -> bytes:
    """The payload with other limits."""
    text = sources()["limits"] + "".join(f"{name} = {value}\n" for name, value in values.items())
    return changed(limits=text)


def python_only(folder: Path, **links: str) -> dict[str, str]:
    """A PATH on which stands nothing but sh and the given programs."""
    folder.mkdir()
    for name, target in {"sh": "/bin/sh", **links}.items():
        (folder / name).symlink_to(target)
    return dict(os.environ, PATH=str(folder))


# Start


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_starts_under_every_login_shell(shell: str, program: Callable[[str], str]) -> None:
    with NodeDriver(command=[program(shell), "-c", bootstrap.command_line()]) as node:
        node.start().wait(lambda node: node.ready() == {0})


def test_starts_on_every_python(node_python: str, tmp_path: Path) -> None:
    with NodeDriver(env=fake_ssh(tmp_path / "bin", python=node_python)) as node:
        node.start().wait(lambda node: node.ready() == {0})
        version = subprocess.run(
            [node_python, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"], capture_output=True, text=True
        ).stdout.strip()
        assert node.of(frames.READY)[0].fields == {"order": 1, "version": limits.PROTOCOL_VERSION, "python": version}
        node.quit([0])
        assert node.wait_end() == 0
        assert node.state_dirs() == []


def test_core_is_all_that_is_loaded_and_a_stray_print_does_no_harm(node_python: str, tmp_path: Path) -> None:
    with NodeDriver(env=fake_ssh(tmp_path / "bin", python=node_python), payload=changed(ops=TELLTALE)) as node:
        node.start()
        node.send(frames.OP, [0], op=9, command=b"", env={}, ttl_s=1, timeout_s=0)
        node.wait(lambda node: "loaded: " in node.logs())
        loaded = set(node.logs().split())
        unpacked = {name for name in loaded if name.startswith("plush_node.")}
        late = {"parts", "exits", "ops"}  # for the op
        assert unpacked == {f"plush_node.{name}" for name in {*payload.CORE} | late}
        assert not loaded & {"socket", "signal", "json", "hashlib", "enum", "subprocess", "collections", "re", "typing"}
        node.send(frames.PING, [], n=7)
        node.wait(lambda node: [frame.fields for frame in node.of(frames.PONG)] == [{"n": 7}])


def test_banners_and_start_up_files_are_skipped() -> None:
    noise = f"printf 'Last login: %s' {'x' * 100}; head -c 1000000 /dev/zero | tr '\\0' 'y'; "
    with NodeDriver(command=["sh", "-c", noise + bootstrap.command_line()]) as node:
        node.start().wait(lambda node: node.ready() == {0})
        assert node.prelude.quote().endswith("yyy")


def test_a_start_up_file_that_eats_stdin_is_told() -> None:
    with NodeDriver(command=["sh", "-c", "head -c 100 >/dev/null; " + bootstrap.command_line()]) as node:
        node.start()
        node.wait_end()
        assert node.prelude.code == "payload"
        assert "start-up file" in node.prelude.text


@pytest.mark.parametrize("keep", [0, 3, 39, 40, 5000])
def test_a_payload_that_is_cut_is_told(keep: int) -> None:
    with NodeDriver() as node:
        node.write(bootstrap.header(payload.build_payload())[:keep])
        node.close_stdin()
        node.wait_end()
        assert node.prelude.code == "payload"
        assert node.process.returncode == 3


def test_a_payload_with_a_wrong_digest_is_not_run() -> None:
    data = bytearray(bootstrap.header(payload.build_payload()))
    data[1000] ^= 1
    with NodeDriver() as node:
        node.write(bytes(data))
        node.wait_end()
        assert (node.prelude.code, "digest" in node.prelude.text) == ("payload", True)


def test_no_python_is_told(tmp_path: Path) -> None:
    with NodeDriver(command=["/bin/sh", "-c", bootstrap.command_line()], env=python_only(tmp_path / "bin")) as node:
        node.start().wait_end()
        assert node.prelude.code == "no_python"
        assert str(tmp_path) in node.prelude.text


# Asked by the search (-E) it says its version, given the loader (-I) it runs it
FAKE_35 = """#!/bin/sh
if [ "$1" = -E ]; then echo 3.5.2; exit 1; fi
shift 3
exec {python} -c 'import sys; sys.version_info = (3, 5, 2); exec(sys.argv.pop(1))' "$@"
"""


def old_python(folder: Path) -> dict[str, str]:
    env = python_only(folder)
    (folder / "python3").write_text(FAKE_35.format(python=sys.executable))
    (folder / "python3").chmod(0o755)
    return env


def test_an_old_python_is_told(tmp_path: Path) -> None:
    env = old_python(tmp_path / "bin")
    with NodeDriver(command=["/bin/sh", "-c", bootstrap.command_line()], env=env) as node:
        node.start().wait_end()
        assert (node.prelude.code, "python3 is 3.5.2" in node.prelude.text) == ("old_python", True)


def test_a_newer_python_beside_an_old_one_is_found(tmp_path: Path) -> None:
    env = old_python(tmp_path / "bin")
    (tmp_path / "bin" / "python3.8").symlink_to(sys.executable)
    with NodeDriver(command=["/bin/sh", "-c", bootstrap.command_line()], env=env) as node:
        node.start().wait(lambda node: node.ready() == {0})


def test_python_2_as_python_is_an_old_python(tmp_path: Path) -> None:
    found = [*Path.home().glob(".pyenv/versions/2.7*/bin/python2.7"), Path("/usr/bin/python2")]
    python2 = next((path for path in found if path.exists()), None)
    if python2 is None:
        pytest.skip("no Python 2 on this machine")
    env = python_only(tmp_path / "bin", python=str(python2))
    with NodeDriver(command=["/bin/sh", "-c", bootstrap.command_line()], env=env) as node:
        node.start().wait_end()
        assert (node.prelude.code, "python is 2.7" in node.prelude.text) == ("old_python", True)


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        ({"version": 99}, "version 99"), ({"mesh": "../../etc"}, "first frame"), ({"mesh": "x" * 33}, "first frame"),
        ({"mesh": ""}, "first frame"), ({"host": -1}, "first frame"), ({"host": 1 << 40}, "first frame"),
        ({"window": 0}, "first frame"), ({"beat_s": 0}, "first frame"), ({"name": None}, "name"),
    ],
)  # fmt: skip
def test_a_bad_hello_is_refused(hello: dict[str, object], said: str) -> None:
    with NodeDriver() as node:
        node.start(**hello)
        node.wait_end()
        assert node.prelude.code == "protocol"
        assert said in node.prelude.text


# The state folder


def test_a_second_node_program_finds_the_first_and_a_later_one_succeeds_it() -> None:
    fast = changed(state_dir=sources()["state_dir"].replace("WAIT_S = 3", "WAIT_S = 0.2"))
    with NodeDriver() as first:
        first.start().wait(lambda node: node.ready() == {0})
        with NodeDriver(mesh=first.mesh, order=2, payload=fast) as second:
            second.start().wait_end()
            assert second.prelude.code == "locked"
        with NodeDriver(mesh=first.mesh, order=3) as third:
            third.start()
            first.close_stdin()
            third.wait(lambda node: node.ready() == {0})
            assert first.wait_end() == 0
        assert third.state_dirs() == []


def test_a_killed_one_leaves_its_order_which_the_next_must_exceed() -> None:
    with NodeDriver(order=5) as first:
        first.start().wait(lambda node: node.ready() == {0})
        first.process.kill()
        first.wait_end()
    for order in (4, 5):
        with NodeDriver(mesh=first.mesh, order=order) as late:
            late.start().wait_end()
            assert (late.prelude.code, "is not above 5" in late.prelude.text) == ("order", True)
    with NodeDriver(mesh=first.mesh, order=6) as heir:
        heir.start().wait(lambda node: node.ready() == {0})
        heir.quit([0])
        heir.wait_end()
        assert heir.state_dirs() == []


def test_a_base_that_is_not_ours_is_passed_over_and_none_is_told(tmp_path: Path) -> None:
    text = sources()["state_dir"]
    start = text.index('    return ["/tmp/"')
    end = text.index("\n", start)
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "file").write_text("")

    def with_bases(*names: str) -> bytes:
        return changed(state_dir=text[:start] + f"    return {[str(tmp_path / name) for name in names]!r}" + text[end:])

    with NodeDriver(payload=with_bases("open", "link", "file", "missing/deep", "good")) as node:
        node.start().wait(lambda node: node.ready() == {0})
        assert [path.name for path in (tmp_path / "good").iterdir()] == [f"{node.mesh}-0"]
        node.quit([0])
        node.wait_end()
        assert not (tmp_path / "good").exists()
    with NodeDriver(payload=with_bases("open", "link", "file", "missing/deep")) as node:
        node.start().wait_end()
        assert node.prelude.code == "state_dir"
        assert all(str(tmp_path / name) in node.prelude.text for name in ("open", "link", "file", "missing/deep"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Life and end


def test_it_keeps_its_own_heartbeat_and_ends_without_one(node_python: str, tmp_path: Path) -> None:
    with NodeDriver(beat_s=1, env=fake_ssh(tmp_path / "bin", python=node_python), answers_pings=False) as node:
        node.start()
        assert node.wait_end(12) == 0
        assert len(node.of(frames.PING)) >= limits.HEARTBEATS_MISSED
        assert node.state_dirs() == []


@pytest.mark.parametrize(
    "bad",
    [
        b"\0\0\0\x0c\x7f" + bytes(11),  # unknown kind
        b"\xff" * 100,
        b"\0\0\0\x01" * 20,
        frames.encode(frames.READY, b"", b""),
        frames.encode(frames.HELLO, b"", b""),
        frames.encode(frames.OP, b"\7", b""),  # a host set that is none
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_frame_ends_the_link(bad: bytes) -> None:
    with NodeDriver() as node:
        node.start().wait(lambda node: node.ready() == {0})
        node.write(bad)
        assert node.wait_end() == 0
        assert node.state_dirs() == []


def test_a_bad_message_is_dropped_and_told_and_the_link_goes_on() -> None:
    with NodeDriver() as node:
        node.start()
        node.write(frames.encode(frames.LINK, b"\0\0\0", b"junk"))
        node.write(frames.encode(frames.QUIT, b"\0\0\0", messages.pack({"kill": 5})))
        node.write(frames.encode(frames.PING, b"", b""))
        node.send(frames.PING, [], n=1)
        node.wait(lambda node: bool(node.of(frames.PONG)))
        assert node.logs().count("dropped: ") == 3


def test_every_cut_of_a_stream_ends_it_cleanly(node_python: str, tmp_path: Path) -> None:
    env = fake_ssh(tmp_path / "bin", python=node_python)
    op = frames.encode(frames.SIGNAL, b"\0\0\0", messages.encode(frames.SIGNAL, op=5, ref=4, signal=15, grace_ms=0))
    for keep in (1, 4, 15, len(op) - 1):
        with NodeDriver(env=env) as node:
            node.start()
            node.write(op[:keep])
            node.close_stdin()
            assert node.wait_end() == 0
            assert node.ready() == {0}
            assert node.state_dirs() == []


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE])
def test_signals_of_a_lost_terminal_are_survived(number: int) -> None:
    with NodeDriver() as node:
        node.start().wait(lambda node: node.ready() == {0})
        os.kill(node.process.pid, number)
        node.send(frames.PING, [], n=1)
        node.wait(lambda node: bool(node.of(frames.PONG)))


def test_an_exception_in_a_part_is_told_and_survived() -> None:
    broken = "class Ops:\n    def __init__(self, node):\n        raise ZeroDivisionError('here')\n"
    with NodeDriver(payload=changed(ops=broken)) as node:
        node.start()
        node.send(frames.CLOSE, [0], ops=[1])
        node.send(frames.PING, [], n=1)
        node.wait(lambda node: bool(node.of(frames.PONG)))
        assert "defect: ZeroDivisionError: here at " in node.logs()
        assert re.search(r"plush/ops\.py:(3|__init__)$", node.logs()), (
            "no line where the code was sent, else the function"
        )


def test_a_worker_that_reads_nothing_ends_the_link_not_the_memory() -> None:
    """PONGs pile up: the control queue has a limit."""
    with NodeDriver(payload=with_limits(MAX_CONTROL_QUEUE_BYTES=1 << 17)) as node:
        node.start()
        ping = frames.encode(frames.PING, b"", messages.encode(frames.PING, n=1)) * 1000
        for _ in range(100):
            node.write(ping)
            if node.process.poll() is not None:
                break
        node.process.wait(15)
