"""Runs on a service: a plain OpenSSH configuration, a mesh that stands, Ctrl-C, what Flower shows, lost clients."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts
from plush_worker import xdg
from plush_worker.experiment.directory import HostOptions, resolve
from plush_worker.model import RunSpec
from plush_worker.store.light import LightStore

HOSTS_COUNT = 64
LIMIT_S = 60.0


@dataclass
class Service:
    """A ``plush up`` with two workers and the hosts that the tests use."""

    plush: Any
    hosts: LocalHosts
    process: subprocess.Popen[str]
    settings: dict[str, Any]

    def run(self, *args: str, timeout_s: float = LIMIT_S) -> Any:
        return self.plush("run", *args, timeout_s=timeout_s)

    def flower(self, path: str) -> Any:
        login = f"{self.settings['flower_user']}:{self.settings['flower_password']}"
        request = urllib.request.Request(self.settings["flower_url"] + path)
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)


@pytest.fixture(scope="module")
def service(local_hosts: Callable[..., LocalHosts], module_plush: Any) -> Iterator[Service]:
    hosts = local_hosts(HOSTS_COUNT)
    process = module_plush.start("up", "--workers", "2")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    path = Path(module_plush.environ["XDG_RUNTIME_DIR"]) / "plush" / "service.json"
    yield Service(module_plush, hosts, process, json.loads(path.read_text()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.05)
    return found


def test_a_plain_openssh_configuration_is_enough_and_the_mesh_stands(service: Service) -> None:
    args = ("-w", service.hosts.names, "-F", str(service.hosts.ssh_config), "--gather", "--", "echo", "$((6*7))")
    for _ in range(2):
        ran = service.run(*args)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        assert f"node[1-{HOSTS_COUNT}] ({HOSTS_COUNT})" in ran.stdout
        assert ran.stdout.count("42") == 1
    (mesh,) = (json.loads(line) for line in service.plush("mesh", "ls", "--json").stdout.splitlines())
    assert mesh["up"] == HOSTS_COUNT, mesh
    names = [Path(f"/proc/{process.pid}/comm").read_text().strip() for process in service.hosts.processes()]
    others = [name for name in names if name not in ("plush-op", "plush-spare")]  # supervisors, past and to come
    assert len(others) == HOSTS_COUNT, "one node program a host, reused"


def test_every_run_of_four_hosts_is_shared_by_two_workers(service: Service) -> None:
    ran = service.run("-w", "node[1-4]", "--directory", str(service.hosts.directory), "--", "true")
    assert ran.returncode == 0, ran.stderr
    with LightStore.connect(service.settings["redis_url"]) as store:
        newest = store.runs()[0]["run_id"]
        assigned = [e for _, e in store.events(newest, "0", 0) if e["type"] == "subtrees_assigned"]
    assert len({e["worker"] for e in assigned}) == 2, assigned


def test_flower_shows_progress_with_its_count_and_then_success(service: Service) -> None:
    process = service.plush.start(
        "run", "-w", "node[1-8]", "--directory", str(service.hosts.directory), "--", "test $SSH_CONNECTION; sleep 2"
    )

    def task() -> dict[str, Any]:
        tasks = service.flower("api/tasks?taskname=plush.coordinate&limit=5&sort_by=-received")
        return next((t for t in tasks.values() if t["state"] in ("PROGRESS", "STARTED")), {})

    seen = until(lambda: (t := task()) and t["state"] == "PROGRESS" and t, "PROGRESS in Flower")
    assert "8/8 up" in seen["result"] or "/8 " in seen["result"], seen["result"]
    process.communicate(timeout=LIMIT_S)
    ended = until(lambda: (t := service.flower(f"api/task/info/{seen['uuid']}"))["state"] == "SUCCESS" and t, "SUCCESS")
    assert "'ok': 8" in ended["result"] or '"ok": 8' in ended["result"], ended["result"]


def test_ctrl_c_stops_what_runs_on_the_hosts(service: Service) -> None:
    marker = f"sleep 6{secrets.randbelow(9000) + 1000}"
    process = service.plush.start(
        "run", "-w", service.hosts.names, "-F", str(service.hosts.ssh_config), "--", f"echo begun; {marker}"
    )
    assert process.stdout is not None
    for _ in range(HOSTS_COUNT):
        assert process.stdout.readline().endswith("begun\n")
    assert _running(service.hosts, marker)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "stopping" in stderr
    assert not _running(service.hosts, marker)
    ran = service.run("-w", service.hosts.names, "-F", str(service.hosts.ssh_config), "--", "true")
    assert ran.returncode == 0, "the mesh doesn't stand after Ctrl-C"


def test_kill_by_another_command(service: Service) -> None:
    marker = f"sleep 7{secrets.randbelow(9000) + 1000}"
    process = service.plush.start("run", "-w", "node[1-3]", "-F", str(service.hosts.ssh_config), "--", marker)
    until(lambda: len(_running(service.hosts, marker)) >= 3, "the command on every host")
    runs = [json.loads(line) for line in service.plush("ps", "--json").stdout.splitlines()]
    (run,) = [r["run"] for r in runs if r["command"] == marker]
    assert service.plush("kill", run).returncode == 0
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 128 + signal.SIGTERM
    assert not _running(service.hosts, marker)


def test_a_run_whose_client_is_gone_is_stopped(service: Service) -> None:
    """The lease is a minute in ``plush run``; here two seconds, of a client that never renews it."""
    marker = f"sleep 8{secrets.randbelow(9000) + 1000}"
    resolved = resolve(["node[1-3]"], HostOptions(config_file=str(service.hosts.ssh_config)))
    spec = RunSpec(
        run_id=secrets.token_hex(8), owner="root", command=marker, hosts=tuple(asdict(e) for e in resolved.entries),
        slice=asdict(resolved.settings), client_lease_s=2, submitter_host=xdg.machine_id(), submitter_uid=os.getuid(),
    )  # fmt: skip
    with LightStore.connect(service.settings["redis_url"]) as store:
        store.submit(spec)
        until(lambda: len(_running(service.hosts, marker)) >= 3, "the command on every host")
        until(lambda: not _running(service.hosts, marker), "its end")
        until(lambda: store.run_fields(spec.run_id).get("finished"), "the run's end")
        assert store.run_fields(spec.run_id)["state"] == "killed"


def test_a_mesh_is_made_and_closed_on_request(service: Service) -> None:
    assert service.plush("mesh", "down").returncode == 0
    until(lambda: not service.hosts.processes(), "the end of all node programs")
    ran = service.plush("mesh", "up", "-w", "node[1-8]", "-F", str(service.hosts.ssh_config))
    assert ran.returncode == 0, ran.stderr
    assert len(service.hosts.processes()) == 8


def _running(hosts: LocalHosts, marker: str) -> list[int]:
    return [p.pid for p in hosts.processes() if p.command == marker]
