"""Experiments by HTTP on real hosts: submitted, followed, read, killed and removed by two owners side by side."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from plush_api.embedded import EmbeddedStack
from plush_api.local_hosts import LocalHosts
from tests.api_service import LIMIT_S, ApiService, sse_events, until

HOSTS_COUNT = 16
RUNS_AT_ONCE = 30


@dataclass
class Place:
    """Sixteen hosts, two workers, the API, and a client of each of two owners."""

    hosts: LocalHosts
    api: ApiService
    state_dir: Path
    ada: httpx.Client
    bob: httpx.Client


@pytest.fixture(scope="module")
def place(local_hosts: Callable[..., LocalHosts]) -> Iterator[Place]:
    hosts = local_hosts(HOSTS_COUNT)
    with tempfile.TemporaryDirectory(prefix="plush-api-", dir="/tmp") as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", name)
        with EmbeddedStack(2) as stack:
            state_dir = Path(stack.state_dir)
            environ = {"PLUSH_API_DIRECTORY": str(hosts.directory)}
            with ApiService(Path(name), stack.redis_url, state_dir, environ) as api:
                ada, bob = api.token("ada"), api.token("bob", slices=["local"])
                with api.client(ada) as first, api.client(bob) as second:
                    yield Place(hosts, api, state_dir, first, second)


def submit(client: httpx.Client, **changes: Any) -> str:
    answer = client.post("/runs", json={"slice": "local", **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def wait_for_end(client: httpx.Client, run_id: str) -> dict[str, Any]:
    """The run when it has ended, followed by its events."""
    with client.stream("GET", f"/runs/{run_id}/events", timeout=60) as answer:
        *_, (_, last) = sse_events(answer.iter_lines())
    assert last["type"] == "run_finished"
    run: dict[str, Any] = client.get(f"/runs/{run_id}").json()
    assert run["state"] == last["state"]
    return run


def running(place: Place, marker: str) -> list[int]:
    return [p.pid for p in place.hosts.processes() if p.command == marker]


def test_an_experiment_runs_on_all_hosts_and_its_output_is_there(place: Place) -> None:
    text = "name: hello\nslice: local\ncommand: echo $PLUSH_INDEX of $PLUSH_HOSTS_COUNT on $PLUSH_HOST\n"
    answer = place.ada.post("/runs", content=text, headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 201, answer.text
    run = wait_for_end(place.ada, answer.json()["id"])
    assert (run["state"], run["counts"]["ok"], run["counts"]["hosts"]) == ("succeeded", HOSTS_COUNT, HOSTS_COUNT)
    lines = place.ada.get(f"/runs/{run['id']}/output").text.splitlines()
    assert sorted(lines) == sorted(f"node{n + 1}: {n} of {HOSTS_COUNT} on node{n + 1}" for n in range(HOSTS_COUNT))
    assert place.ada.get(f"/runs/{run['id']}/output", params={"host": "node7"}).text == f"6 of {HOSTS_COUNT} on node7\n"
    hosts = place.ada.get(f"/runs/{run['id']}/hosts").json()["hosts"]
    assert [(h["name"], h["state"], h["code"]) for h in hosts] == [
        (f"node{n + 1}", "exited", 0) for n in range(HOSTS_COUNT)
    ]


def test_what_went_wrong_is_told_by_host_and_by_process(place: Place) -> None:
    processes = [{"name": "even", "command": "true"}, {"name": "odd", "command": "exit $((PLUSH_INDEX % 2))"}]
    run = wait_for_end(place.ada, submit(place.ada, hosts="node[1-4]", processes=processes))
    assert (run["state"], run["counts"]["ok"], run["counts"]["nonzero"]) == ("failed", 2, 2)
    hosts = place.ada.get(f"/runs/{run['id']}/hosts").json()["hosts"]
    assert [h["code"] for h in hosts] == [0, 1, 0, 1]
    assert [[(p["name"], p["code"]) for p in h["parts"]] for h in hosts[:2]] == [
        [("even", 0), ("odd", 0)], [("even", 0), ("odd", 1)],
    ]  # fmt: skip
    quorum = wait_for_end(place.ada, submit(place.ada, hosts="node[1-4]", processes=processes, success="50%"))
    assert quorum["state"] == "succeeded"


def test_output_is_followed_while_it_is_made_and_a_kill_ends_it(place: Place) -> None:
    marker = f"sleep 6{secrets.randbelow(9000) + 1000}"
    run_id = submit(place.ada, hosts="node[1-4]", command=f"echo begun; {marker}; echo never")
    with place.ada.stream("GET", f"/runs/{run_id}/output", params={"follow": 1}, timeout=60) as answer:
        lines = answer.iter_lines()
        assert {next(lines) for _ in range(4)} == {f"node{n}: begun" for n in range(1, 5)}
        assert place.ada.get(f"/runs/{run_id}").json()["state"] == "running"
        assert place.bob.post(f"/runs/{run_id}/kill").status_code == 404
        assert len(running(place, marker)) == 4
        assert place.ada.post(f"/runs/{run_id}/kill").status_code == 202
        assert list(lines) == []
    run = wait_for_end(place.ada, run_id)
    assert (run["state"], run["counts"]["killed"]) == ("killed", 4)
    assert not running(place, marker)


def test_two_owners_have_meshes_and_runs_of_their_own(place: Place) -> None:
    mine = wait_for_end(place.bob, submit(place.bob, hosts="node[1-2]", command="id -un"))
    assert mine["state"] == "succeeded"
    theirs = wait_for_end(place.ada, submit(place.ada, hosts="node[1-2]", command="id -un"))
    assert mine["mesh"] != theirs["mesh"]
    for client, other in ((place.ada, mine), (place.bob, theirs)):
        assert other["id"] not in client.get("/runs").text
        for path in ("", "/hosts", "/events", "/output", "/segments"):
            assert client.get(f"/runs/{other['id']}{path}").status_code == 404
        assert client.delete(f"/runs/{other['id']}", params={"force": 1}).status_code == 404
        assert client.delete(f"/meshes/{other['mesh']}").status_code == 404
        assert {mesh["id"] for mesh in client.get("/meshes").json()["meshes"]} != {other["mesh"]}
    assert place.bob.get("/slices").json()["slices"] == [{"name": "local", "hosts": HOSTS_COUNT}]


def test_a_run_is_removed_with_force_while_it_goes_on(place: Place) -> None:
    marker = f"sleep 7{secrets.randbelow(9000) + 1000}"
    run_id = submit(place.ada, hosts="node[1-2]", command=marker)
    until(lambda: len(running(place, marker)) == 2, "the command on both hosts")
    assert place.ada.delete(f"/runs/{run_id}", timeout=60).status_code == 409
    assert place.ada.delete(f"/runs/{run_id}", params={"force": 1}, timeout=60).status_code == 204
    assert not running(place, marker)
    assert place.ada.get(f"/runs/{run_id}").status_code == 404


def test_many_runs_submitted_at_once_all_end_right(place: Place) -> None:
    def one(number: int) -> str:
        first = number % (HOSTS_COUNT - 3) + 1
        return submit(place.ada, hosts=f"node[{first}-{first + 3}]", command=f"echo run {number}")

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(one, range(RUNS_AT_ONCE)))
        runs = list(pool.map(lambda run_id: wait_for_end(place.ada, run_id), ids))
    assert [run["state"] for run in runs] == ["succeeded"] * RUNS_AT_ONCE
    for number, run_id in enumerate(ids):
        lines = place.ada.get(f"/runs/{run_id}/output").text.splitlines()
        assert [line.partition(": ")[2] for line in lines] == [f"run {number}"] * 4


def test_a_mesh_is_closed_by_its_owner(place: Place) -> None:
    wait_for_end(place.ada, submit(place.ada, hosts="node1", command="true"))
    (mesh,) = place.ada.get("/meshes").json()["meshes"]
    answer = place.ada.delete(f"/meshes/{mesh['id']}")
    assert answer.status_code == 202 and answer.json()["asked"] >= 1
    until(
        lambda: not any(m["total"] for m in place.ada.get("/meshes").json()["meshes"]), "the end of its links", LIMIT_S
    )
