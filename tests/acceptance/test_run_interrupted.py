"""Ctrl-C, signals and sudden death of ``plush run``: nothing that it started goes on."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts
from plush_worker.model import WorkerInfo
from plush_worker.store import Store
from plush_worker.store.server import start_server

DEADLINE_S = 40.0
DEAF = "trap '' INT TERM; while :; do sleep 0.2; done"


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts]) -> LocalHosts:
    return local_hosts(4)


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A server with nobody around it."""
    folder = Path(tempfile.mkdtemp(prefix="plush-t-", dir="/tmp"))
    server = start_server(folder, unix_socket=folder / "s", port=None)
    yield f"unix://{folder}/s?db=0"
    server.terminate()
    server.wait(20)
    shutil.rmtree(folder)


def begin(plush: Any, hosts: LocalHosts, folder: Path, command: str, *options: str) -> subprocess.Popen[str]:
    """A run whose command has begun on every host."""
    words = ["run", "-w", hosts.names, "-F", str(hosts.ssh_config), *options, f"touch {folder}/$$; {command}"]
    process: subprocess.Popen[str] = plush.start(*words)
    wait(lambda: len(list(folder.iterdir())) == hosts.count, process)
    return process


def wait(condition: Callable[[], Any], process: subprocess.Popen[str], limit_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_command_everywhere(
    plush: Any, hosts: LocalHosts, tmp_path: Path, number: int, code: int
) -> None:
    process = begin(plush, hosts, tmp_path, "echo begun; exec sleep 1000")
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, err
    assert "stopping the run on all hosts" in err
    assert sorted(out.splitlines()) == [f"node{n}: begun" for n in range(1, 5)]
    left = hosts.wait_quiet(10.0)
    assert not left, left


def test_the_second_ctrl_c_does_not_wait(plush: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    process = begin(plush, hosts, tmp_path, DEAF)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    line = process.stderr.readline()
    while "stopping" not in line:
        assert line or process.poll() is None
        line = process.stderr.readline()
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert time.monotonic() - asked < 4.5, "it waited for the grace"
    left = hosts.wait_quiet(10.0)
    assert not left, left


def test_json_of_a_run_that_was_stopped(plush: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    process = begin(plush, hosts, tmp_path, "echo begun; exec sleep 1000", "--json")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE_S)
    *found, last = map(json.loads, out.splitlines())
    assert {(result["state"], result["signal"], result["stdout"]) for result in found} == {("killed", 2, "begun\n")}
    assert last["summary"]["killed"] == hosts.count
    assert process.returncode == 130


def test_plush_kill_from_elsewhere(plush: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    up = plush.start("up", "--no-flower")
    assert up.stdout is not None
    while "ready" not in up.stdout.readline():
        assert up.poll() is None
    process = begin(plush, hosts, tmp_path, "exec sleep 1000")
    (row,) = map(json.loads, plush("ps", "--json").stdout.splitlines())
    assert (row["state"], row["hosts"], row["up"], row["done"]) == ("running", 4, 4, 0)
    done = plush("kill", row["run"][:6], "--signal", "INT", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"run": row["run"], "state": "killed"})
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130  # 128 + SIGINT: what the hosts died of
    assert "node[1-4]: killed by signal 2" in err
    assert plush("mesh", "down").returncode == 0
    left = hosts.wait_quiet(10.0)
    assert not left, left


@pytest.mark.timeout(150)
def test_sudden_death_of_the_command_stops_its_hosts(plush: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    process = begin(plush, hosts, tmp_path, "exec sleep 1000")
    process.kill()
    process.communicate()
    began = time.monotonic()
    left = hosts.wait_quiet(100.0)
    assert not left, f"still there {time.monotonic() - began:.0f} s after the command was killed: {left}"


# Nobody there to run it


def test_no_worker_is_said_and_waited_for(plush: Any, hosts: LocalHosts, redis_url: str) -> None:
    env = {"PLUSH_REDIS_URL": redis_url}
    process = plush.start("run", "-w", "node1", "-F", str(hosts.ssh_config), "echo fine", env=env)
    assert process.stderr is not None
    assert "no worker is running" in process.stderr.readline()
    assert process.poll() is None
    worker = plush.start("worker", "start", env=env)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out) == (0, "node1: fine\n"), err
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=DEADLINE_S)
    left = hosts.wait_quiet(10.0)
    assert not left, left


def test_a_stop_with_no_worker_is_quick(plush: Any, hosts: LocalHosts, redis_url: str) -> None:
    env = {"PLUSH_REDIS_URL": redis_url}
    process = plush.start("run", "-w", "node[1-2]", "-F", str(hosts.ssh_config), "--json", "echo fine", env=env)
    assert process.stderr is not None
    assert "no worker is running" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "no worker had taken it" in err
    *found, last = map(json.loads, out.splitlines())
    assert [result["state"] for result in found] == ["killed", "killed"] and last["summary"]["killed"] == 2


def test_a_worker_of_another_protocol_version_is_named(plush: Any, hosts: LocalHosts, redis_url: str) -> None:
    old = WorkerInfo("veteran", "i1", "worker.veteran", protocol=0)

    async def register() -> None:
        store = await Store.connect(redis_url)
        await store.register_worker(old, 60)
        await store.close()

    asyncio.run(register())
    process = plush.start(
        "run", "-w", "node1", "-F", str(hosts.ssh_config), "echo fine", env={"PLUSH_REDIS_URL": redis_url}
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    assert "veteran speaks 0" in said and "restart" in said
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
