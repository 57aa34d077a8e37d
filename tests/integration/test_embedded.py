"""The stack of one command: up quickly, gone whenever and however its command ends."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.embedded import EmbeddedStack
from plush_worker.errors import PartFailed
from plush_worker.store.address import parse_url
from plush_worker.store.light import LightStore

GONE_WITHIN_S = 5.0
CHECKOUT = Path(__file__).parents[2]
FAKE_WORKER = ("-P", str(Path(__file__).with_name("fake_parts.py")))
OWNER = """
import json, sys, time
from plush_api.embedded import EmbeddedStack
with EmbeddedStack(2, tuple(sys.argv[1:])) as stack:
    stack.wait_ready()
    print(json.dumps([stack.redis_url, stack.state_dir]), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state home of the test's own; every process of its stacks has its name in the environment."""
    with tempfile.TemporaryDirectory(prefix="plush-e-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
        monkeypatch.setenv("FAKE_PARTS_FILE", f"{folder}/notes")
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        yield Path(folder)
        left = parts(Path(folder))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


def parts(state: Path) -> dict[int, str]:
    """pid -> command line of every other process with this state home; a Redis server overwrites its environment."""
    wanted = f"XDG_STATE_HOME={state}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if wanted in (entry / "environ").read_bytes().split(b"\0") or f":{state}/" in command:
                found[int(entry.name)] = command
        except OSError:
            continue
    return found


def until(condition: Callable[[], Any], what: str, deadline_s: float = 15.0) -> Any:
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture
def owner(state: Path) -> Iterator[subprocess.Popen[str]]:
    """A command with an embedded stack of two workers, all ready."""
    process = subprocess.Popen(
        (sys.executable, "-c", OWNER, *FAKE_WORKER), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def line_of(process: subprocess.Popen[str]) -> tuple[str, Path]:
    assert process.stdout is not None
    url, folder = json.loads(process.stdout.readline())
    return url, Path(folder)


def test_all_parts_come_up_and_go(state: Path, record_property: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    with EmbeddedStack(2, FAKE_WORKER) as stack:
        server_s = time.monotonic() - began
        stack.wait_ready()
        record_property("server_s", server_s)
        record_property("ready_s", time.monotonic() - began)
        print(f"server after {server_s:.2f} s, two workers after {time.monotonic() - began:.2f} s")
        with LightStore.connect(stack.redis_url) as store:
            assert [info.name for info in store.live_workers()] == ["embedded-1", "embedded-2"]
        folder = Path(stack.state_dir)
        assert folder.is_relative_to(state) and stat.S_IMODE(folder.stat().st_mode) == 0o700
        password = parse_url(stack.redis_url).password
        commands = parts(state)
        assert len(password) >= 20 and len(commands) == 4  # guard, server, two workers
        assert not any(password in command for command in commands.values())
        assert all(os.getsid(pid) == pid for pid in commands), "a Ctrl-C at the terminal would reach a part"
        assert stack.failure() is None
    assert not parts(state) and not folder.exists()


def test_two_stacks_live_side_by_side(state: Path) -> None:
    with EmbeddedStack(1, FAKE_WORKER) as one, EmbeddedStack(1, FAKE_WORKER) as other:
        one.wait_ready()
        other.wait_ready()
        assert one.redis_url != other.redis_url and one.state_dir != other.state_dir
        one.close()
        with LightStore.connect(other.redis_url) as store:
            assert [info.name for info in store.live_workers()] == ["embedded-1"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_takes_its_stack_with_it(
    state: Path, owner: subprocess.Popen[str], number: signal.Signals
) -> None:
    _, folder = line_of(owner)
    assert len(parts(state)) == 5 and folder.exists()
    owner.send_signal(number)
    owner.wait()
    until(lambda: not parts(state), "all parts are gone", GONE_WITHIN_S)
    until(lambda: not folder.exists(), "their folder is gone", GONE_WITHIN_S)


def test_the_workers_stop_their_meshes_when_the_command_is_killed(state: Path, owner: subprocess.Popen[str]) -> None:
    notes = state / "notes"
    line_of(owner)
    owner.kill()
    until(lambda: notes.read_text().count("meshes stopped") == 2, "both meshes are stopped", GONE_WITHIN_S)


def test_a_killed_guard_takes_the_parts_with_it(state: Path, owner: subprocess.Popen[str]) -> None:
    line_of(owner)
    guard = next(pid for pid, command in parts(state).items() if "plush_api.guard" in command)
    os.kill(guard, signal.SIGKILL)
    until(lambda: set(parts(state)) <= {owner.pid}, "all parts are gone", GONE_WITHIN_S)


@pytest.mark.parametrize("part", ["fake_parts.py", "redis.sock"])
def test_the_death_of_a_part_is_told_and_ends_the_rest(state: Path, part: str) -> None:
    with EmbeddedStack(2, FAKE_WORKER) as stack:
        stack.wait_ready()
        os.kill(next(pid for pid, command in parts(state).items() if part in command), signal.SIGKILL)
        why = until(stack.failure, "the death is told")
        assert "ended by signal 9" in why and ("worker embedded-" in why or "-server" in why)
        until(lambda: not parts(state), "the rest has ended", GONE_WITHIN_S)


def test_a_worker_that_cannot_start_says_why(state: Path) -> None:
    with (
        pytest.raises(PartFailed, match=r"(?s)worker embedded-1 ended with exit code 3.*no such luck"),
        EmbeddedStack(1, ("-c", "import sys; print('no such luck'); sys.exit(3)")) as stack,
    ):
        stack.wait_ready()


def test_what_a_killed_guard_left_is_removed_by_the_next(state: Path) -> None:
    left = state / "plush" / "embedded" / "deadbeef"
    left.mkdir(parents=True, mode=0o700)
    (left / "redis-server.log").write_text("old")
    os.utime(left, (time.time() - 3600,) * 2)
    with EmbeddedStack(1, FAKE_WORKER):
        assert not left.exists()


def test_a_long_state_path_gets_a_short_socket(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = state / ("deep" * 25)
    deep.mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(state))
    with EmbeddedStack(1, FAKE_WORKER) as stack:
        stack.wait_ready()
        socket = Path(parse_url(stack.redis_url).path)
        assert socket.parent == state / "plush"
    assert not socket.exists() and not parts(deep)
