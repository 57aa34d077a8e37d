"""``plush up`` and ``plush worker start`` as a person uses them."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plush_worker.errors import PlushError
from plush_worker.store.light import LightStore

LIMIT_S = 40.0


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.05)
    return found


def start(plush: Any, *options: str) -> tuple[subprocess.Popen[str], list[str]]:
    """A service that is up, and the lines that it printed about its parts."""
    process = plush.start("up", *options)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("ready"):
            return process, lines
    raise AssertionError(f"plush up ended with {process.wait()}: {process.stderr.read()}")


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, float]:
    """(exit code, stderr, seconds) after a signal."""
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, err, time.monotonic() - began


def service_file(plush: Any) -> Path:
    return Path(plush.environ["XDG_RUNTIME_DIR"]) / "plush" / "service.json"


def processes(plush: Any) -> dict[int, str]:
    """pid -> command of all parts; a Redis server overwrites its environment, but its title tells its socket."""
    found = {int(line.split()[0]): line.partition(" ")[2] for line in plush.processes()}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f":{plush.folder}/" in command and "redis.sock" in command:
            found[int(entry.name)] = command
    return found


def fetch(url: str, login: str = "", bearer: str = "") -> int:
    """The HTTP status."""
    request = urllib.request.Request(url)
    if login:
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    if bearer:
        request.add_header("Authorization", f"Bearer {bearer}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_service_tells_its_parts_is_found_and_leaves_nothing(plush: Any) -> None:
    process, lines = start(plush, "--workers", "2")
    assert re.match(r"(redis|valkey)-server +unix:///", lines[0])
    assert sum(line.startswith("worker ") for line in lines) == 2
    assert {"flower", "api"} <= {line.split()[0] for line in lines}

    path = service_file(plush)
    service = json.loads(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with LightStore.connect(service["redis_url"]) as store:
        assert len(store.live_workers()) == 2
    login = f"{service['flower_user']}:{service['flower_password']}"
    assert fetch(service["flower_url"]) == 401
    assert fetch(service["flower_url"] + "api/workers", login) == 200
    secrets = [service["flower_password"], service["redis_url"].partition("@")[0].rpartition(":")[2]]
    assert all(len(secret) >= 20 for secret in secrets)
    assert not any(secret in command for secret in secrets for command in processes(plush).values())
    assert not any(secret in line for secret in secrets for line in lines)

    second = plush("up")
    assert second.returncode == 1
    assert f"pid {process.pid}" in second.stderr and service["flower_url"] in second.stderr
    listed = plush("ps")
    assert listed.returncode == 0, listed.stderr

    code, err, took_s = end(process, signal.SIGINT)
    assert (code, err) == (0, "")
    assert took_s < 10
    assert not path.exists() and not processes(plush)
    assert not list(Path(plush.folder).rglob("*.sock"))


def test_what_was_stored_outlives_a_restart(plush: Any) -> None:
    process, _ = start(plush, "--no-flower")
    with LightStore.connect(json.loads(service_file(plush).read_text())["redis_url"]) as store:
        from plush_worker.model import RunSpec

        store.submit(RunSpec(run_id="kept", owner="me", command="true", hosts=()), queue="nobody")
    assert end(process, signal.SIGTERM)[0] == 0
    process, _ = start(plush, "--no-flower")
    with LightStore.connect(json.loads(service_file(plush).read_text())["redis_url"]) as store:
        assert [run["run_id"] for run in store.runs()] == ["kept"]
    assert end(process, signal.SIGTERM)[0] == 0


@contextmanager
def taken_port(port: int) -> Iterator[None]:
    """A port of 127.0.0.1 that nobody else gets; it may be taken already."""
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            pass
        yield


PARTS = ("plush_worker.worker_process", "plush_api.flower_part", "plush_api.api_part", "redis.sock")


def test_a_part_that_dies_is_started_again_where_it_was(plush: Any) -> None:
    with taken_port(8520), taken_port(5555):
        process, _ = start(plush)
    before, service = processes(plush), json.loads(service_file(plush).read_text())
    victims = {part: next(pid for pid, command in before.items() if part in command) for part in PARTS}
    for pid in victims.values():
        os.kill(pid, signal.SIGKILL)
    token = Path(service["token_file"]).read_text().strip()

    def well() -> bool:
        try:
            with LightStore.connect(service["redis_url"]) as store:
                worker = len(store.live_workers()) == 1
            login = f"{service['flower_user']}:{service['flower_password']}"
            return worker and fetch(service["flower_url"], login) == fetch(service["api_url"] + "/readyz") == 200
        except (PlushError, OSError):
            return False

    until(well, "all four serve again at their old places")
    assert fetch(service["api_url"] + "/v1/runs", bearer=token) == 200, "the admin token has gone with the server"
    assert not victims.keys() & processes(plush).keys()
    assert json.loads(service_file(plush).read_text()) == service
    code, err, _ = end(process, signal.SIGTERM)
    assert code == 0
    assert err.count("ended by signal 9: it is started again in 0.2 s") == len(PARTS), err
    assert not processes(plush) and not service_file(plush).exists()


def test_the_first_admin_token_is_made_once_and_for_its_owner_only(plush: Any) -> None:
    process, lines = start(plush, "--no-flower")
    service = json.loads(service_file(plush).read_text())
    path = Path(service["token_file"])
    token = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert any(line.startswith("api ") and str(path) in line for line in lines)
    assert not any(token in text for text in (*lines, *processes(plush).values()))
    assert fetch(service["api_url"] + "/v1/tokens") == 401
    assert fetch(service["api_url"] + "/v1/tokens", bearer=token) == 200
    assert end(process, signal.SIGTERM)[0] == 0
    process, _ = start(plush, "--no-flower")
    assert path.read_text().strip() == token, "a restart locks out those who hold the token"
    assert fetch(json.loads(service_file(plush).read_text())["api_url"] + "/v1/tokens", bearer=token) == 200
    assert end(process, signal.SIGTERM)[0] == 0


def test_sigkill_takes_all_parts_and_the_next_start_is_not_hindered(plush: Any) -> None:
    process, _ = start(plush)
    process.kill()
    process.communicate()
    until(lambda: not processes(plush), "all parts have ended", 10.0)
    found = plush("ps")
    assert found.returncode == 69 and "no service is running" in found.stderr, "the file that was left is believed"
    process, _ = start(plush, "--no-flower")
    assert end(process, signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(("option", "part"), [("--port", "flower"), ("--api-port", "api")])
def test_a_port_that_is_taken_is_an_error_only_when_asked_for(plush: Any, option: str, part: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = plush("up", option, port, timeout_s=LIMIT_S)
    assert refused.returncode == 69
    assert f"{part} ended with exit code 69" in refused.stderr and f"port {port}" in refused.stderr
    assert not processes(plush)


def test_a_worker_of_its_own_joins_and_refuses_without_redis(plush: Any) -> None:
    alone = plush("worker", "start")
    assert alone.returncode == 69 and "no Redis to work for" in alone.stderr
    down = plush("worker", "start", env={"PLUSH_REDIS_URL": "redis://127.0.0.1:1/0"})
    assert down.returncode == 69 and "127.0.0.1:1" in down.stderr and "Traceback" not in down.stderr
    wrong = plush("worker", "start", "--name", "no spaces")
    assert wrong.returncode == 2 and "worker_name" in wrong.stderr

    service, _ = start(plush, "--no-flower")
    url = json.loads(service_file(plush).read_text())["redis_url"]
    worker = plush.start("worker", "start", "--name", "second")
    with LightStore.connect(url) as store:
        until(lambda: "second" in [info.name for info in store.live_workers()], "the worker has joined")
    assert worker.stderr is not None
    assert worker.stderr.readline().startswith("worker second takes tasks from unix:///")
    code, err, _ = end(worker, signal.SIGTERM)
    assert (code, err) == (0, "")
    assert end(service, signal.SIGTERM)[0] == 0
