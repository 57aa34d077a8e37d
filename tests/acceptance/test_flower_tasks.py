"""What Flower shows of a run: one task for it, and one below it for each thing that is done under each owner."""

from __future__ import annotations

import ast
import base64
import json
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts

HOSTS_COUNT = 6
LIMIT_S = 40.0


@dataclass
class Service:
    """A ``plush up`` with two workers, hosts, and what Flower shows."""

    plush: Any
    hosts: LocalHosts
    settings: dict[str, Any]

    def run(self, hosts: str, command: str) -> Any:
        return self.plush("run", "-w", hosts, "--directory", str(self.hosts.directory), "--", command)

    def flower(self, path: str) -> Any:
        login = f"{self.settings['flower_user']}:{self.settings['flower_password']}"
        request = urllib.request.Request(self.settings["flower_url"] + path)
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def newest_run(self) -> str:
        runs = [json.loads(line) for line in self.plush("ps", "--json").stdout.splitlines()]
        return str(runs[0]["run"])

    def tasks_of(self, run_id: str) -> list[dict[str, Any]]:
        """The run's children, as Flower has them."""
        tasks = self.flower("api/tasks?limit=200").values()
        return [task for task in tasks if task["root_id"] == run_id and task["uuid"] != run_id]


@pytest.fixture(scope="module")
def service(local_hosts: Callable[..., LocalHosts], module_plush: Any) -> Iterator[Service]:
    hosts = local_hosts(HOSTS_COUNT)
    process = module_plush.start("up", "--workers", "2", "--no-api")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    path = Path(module_plush.environ["XDG_RUNTIME_DIR"]) / "plush" / "service.json"
    yield Service(module_plush, hosts, json.loads(path.read_text()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.1)
    return found


def ended(service: Service, run_id: str) -> list[dict[str, Any]]:
    """The run's children, once all of them have ended."""

    def look() -> list[dict[str, Any]]:
        tasks = service.tasks_of(run_id)
        return tasks if tasks and all(task["state"] in ("SUCCESS", "FAILURE") for task in tasks) else []

    return list(until(look, "every task of the run has ended"))


def test_opening_and_running_under_each_owner_are_linked_tasks(service: Service) -> None:
    assert service.run(f"node[1-{HOSTS_COUNT}]", "sleep 1").returncode == 0
    run_id = service.newest_run()
    tasks = ended(service, run_id)
    assert sorted(task["name"] for task in tasks) == ["plush.open"] * 2 + ["plush.run"] * 2, tasks
    assert {task["parent_id"] for task in tasks} == {run_id}
    for name in ("plush.open", "plush.run"):
        mine = [task for task in tasks if task["name"] == name]
        assert len({task["worker"] for task in mine}) == 2, "not one for each owner"
        shown = [ast.literal_eval(task["kwargs"]) for task in mine]
        assert sum(arguments["hosts"] for arguments in shown) == HOSTS_COUNT
        assert all(arguments["uuid"] == run_id and "slice" in arguments for arguments in shown), shown
        assert sum(ast.literal_eval(task["result"])["ok"] for task in mine) == HOSTS_COUNT
    assert all(task["runtime"] >= 0.9 for task in tasks if task["name"] == "plush.run"), "ended before its hosts did"


def test_a_failure_says_how_many_hosts_and_why(service: Service) -> None:
    assert service.run("node[1-4]", "exit 7").returncode == 7
    tasks = [task for task in ended(service, service.newest_run()) if task["name"] == "plush.run"]
    assert {task["state"] for task in tasks} == {"FAILURE"}
    for task in tasks:
        count = ast.literal_eval(task["kwargs"])["hosts"]
        plural = "" if count == 1 else "s"
        assert f"of {count} host{plural} {count} exited with 7" in task["exception"], task["exception"]


def test_a_kill_is_a_task_that_ends_with_what_it_killed(service: Service) -> None:
    process = service.plush.start(
        "run", "-w", "node[1-2]", "--directory", str(service.hosts.directory), "--", "echo on; sleep 600"
    )
    assert process.stdout is not None
    for _ in range(2):
        assert "on" in process.stdout.readline()
    run_id = service.newest_run()
    running = until(lambda: [t for t in service.tasks_of(run_id) if t["name"] == "plush.run"], "plush.run in Flower")
    assert {task["state"] for task in running} <= {"STARTED", "PROGRESS", "RECEIVED", "PENDING"}
    assert service.plush("kill", run_id).returncode == 0
    process.communicate(timeout=LIMIT_S)
    tasks = ended(service, run_id)
    kills = [task for task in tasks if task["name"] == "plush.kill"]
    assert sum(ast.literal_eval(task["result"])["ended"] for task in kills) == 2
    reasons = [task["exception"] for task in tasks if task["name"] == "plush.run"]
    assert reasons and all("killed by signal 15" in reason for reason in reasons), reasons
