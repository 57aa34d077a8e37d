"""Experiments on real hosts: several processes, quorums, what the store is asked for, and workers that join later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from plush_api.client import DirectClient
from plush_api.embedded import EmbeddedStack
from plush_api.local_hosts import LocalHosts
from plush_worker.blobs import BlobStore
from plush_worker.experiment.spec import compile_experiment, load_experiment
from plush_worker.model import RunSpec
from plush_worker.node import hostset
from plush_worker.run_state import RunState
from plush_worker.store.light import LightStore

HOSTS_COUNT = 16
LIMIT_S = 60.0
CHECKOUT = Path(__file__).parents[2]


class Service:
    """An embedded stack and a client of it."""

    def __init__(self, stack: EmbeddedStack, hosts: LocalHosts) -> None:
        self.stack, self.hosts = stack, hosts
        self.store = LightStore.connect(stack.redis_url)
        self.client = DirectClient(self.store, stack.state_dir)

    def submit(self, text: str, **more: Any) -> RunSpec:
        experiment = load_experiment(text, "e.yaml")
        spec = compile_experiment(experiment, owner="me", directory=str(self.hosts.directory), **more)
        self.client.submit(spec)
        return spec

    def follow(self, spec: RunSpec, until: Callable[[RunState], bool] = lambda state: state.finished) -> RunState:
        """The state once ``until`` holds of it."""
        state, after, deadline = RunState(spec), "0", time.monotonic() + LIMIT_S
        while not until(state):
            assert time.monotonic() < deadline, f"not within {LIMIT_S} s; so far {state.outcomes}"
            assert not (why := self.stack.failure()), why
            for event_id, event in self.store.events(spec.run_id, after, block_ms=500):
                after = event_id
                state.fold(event)
                state.check_invariants()
        return state

    def printed(self, spec: RunSpec) -> dict[str, str]:
        """host name -> its standard output, sorted by line."""
        names = dict(json.loads(self.store.run_fields(spec.run_id)["hosts"]))
        lines: dict[str, list[str]] = {}
        for segment, length in self.store.committed(spec.run_id).items():
            for piece in self.client.output(spec.run_id, segment, 0, length):
                for number in hostset.members(piece.hosts):
                    lines.setdefault(names[number], []).extend(piece.data.decode().splitlines())
        return {name: "\n".join(sorted(found)) for name, found in lines.items() if found}


@pytest.fixture(scope="module")
def service(local_hosts: Callable[..., LocalHosts]) -> Iterator[Service]:
    hosts = local_hosts(HOSTS_COUNT, slice_settings={"planner": "kary", "degree": 4})
    with tempfile.TemporaryDirectory(prefix="plush-x-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_STATE_HOME", folder)
        patched.setenv("XDG_CONFIG_HOME", folder)
        patched.setenv("PYTHONPATH", str(CHECKOUT))
        patched.delenv("XDG_RUNTIME_DIR", raising=False)
        with EmbeddedStack(1) as stack:
            stack.wait_ready()
            found = Service(stack, hosts)
            yield found
            found.client.close()


def test_processes_run_side_by_side_each_on_its_hosts_with_its_own_settings(service: Service) -> None:
    spec = service.submit(
        """
        slice: local
        hosts: node[1-4]
        env: {WHO: nobody, SIZE: 3}
        processes:
          - {name: server, index: 0, command: 'echo "server $WHO $SIZE $PLUSH_HOSTS_COUNT"', env: {WHO: me}}
          - {name: client, index: 1-, command: 'echo "client $WHO $SIZE"; sh -c "exit 3"'}
          - {name: both, hosts: "node[1-2]", command: 'echo "run $PLUSH_RUN"'}
        """
    )
    state = service.follow(spec)
    assert state.summary() | {"hosts": 4} == state.summary()
    assert (state.summary()["ok"], state.summary()["nonzero"]) == (1, 3)
    assert state.final_state() == "failed"
    assert service.printed(spec) == {
        "node1": f"run {spec.run_id}\nserver me 3 4",
        "node2": f"client nobody 3\nrun {spec.run_id}",
        "node3": "client nobody 3",
        "node4": "client nobody 3",
    }


def test_files_are_there_before_the_processes_with_their_standard_input_and_place(
    service: Service, tmp_path: Path
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "say").write_text('#!/bin/sh\necho "$PLUSH_INDEX $PLUSH_HOST: $(cat only 2>&-) $(wc -l)"\n')
    (tmp_path / "tools" / "say").chmod(0o755)
    (tmp_path / "one").write_text("one")
    (tmp_path / "words").write_text("a\nb\n" * 30_000)
    base = tmp_path / "there"
    spec = service.submit(
        f"""
        slice: local
        hosts: node3,node[1-2]
        files:
          - {{src: tools, dest: "{base}/{{host}}-{{index}}"}}
          - {{src: one, dest: "{base}/{{host}}-{{index}}/only", index: 0}}
        processes:
          - {{name: a, index: 0, command: ./say, cwd: "{base}/node3-0", stdin: words}}
          - {{name: b, index: 1, command: ./say, cwd: "{base}/node1-1"}}
        """,
        base_dir=str(tmp_path),
        blobs=BlobStore(service.stack.state_dir),
    )
    state = service.follow(spec)
    assert state.final_state() == "succeeded", state.outcomes
    assert service.printed(spec) == {"node3": "0 node3: one 60000", "node1": "1 node1:  0"}
    assert sorted(path.name for path in base.iterdir()) == ["node1-1", "node2-2", "node3-0"]


def test_a_host_whose_files_can_not_be_put_fails_and_starts_nothing(service: Service, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    (tmp_path / "node2").write_text("in the way")
    spec = service.submit(
        f"""
        slice: local
        hosts: node[1-3]
        files: [{{src: one, dest: "{tmp_path}/{{host}}/x"}}]
        command: echo started
        success: 2
        """,
        base_dir=str(tmp_path),
        blobs=BlobStore(service.stack.state_dir),
    )
    state = service.follow(spec)
    assert (state.summary()["ok"], state.summary()["failed"], state.final_state()) == (2, 1, "succeeded")
    assert {name for name, text in service.printed(spec).items() if "started" in text} == {"node1", "node3"}


def test_each_process_has_its_own_time_limit(service: Service) -> None:
    processes = "[{name: long, command: sleep 60, timeout: 1s}, {name: short, command: 'true', timeout: 60}]"
    state = service.follow(service.submit(f"slice: local\nhosts: node[1-2]\nprocesses: {processes}"))
    assert [(key[0], key[3], hostset.size(hosts)) for key, hosts in state.outcomes.items()] == [
        ("killed", "timeout", 2)
    ]


def test_a_quorum_of_hosts_makes_a_run_succeed(service: Service) -> None:
    processes = "[{name: bad, index: 0, command: exit 1}, {name: good, index: 1-, command: 'true'}]"
    text = f"slice: local\nhosts: node[1-4]\nprocesses: {processes}\nsuccess: "
    spec = service.submit(text + "75%")
    state = service.follow(spec)
    assert (state.summary()["ok"], state.final_state()) == (3, "succeeded")
    assert service.store.run_fields(spec.run_id)["state"] == "succeeded"
    assert service.follow(service.submit(text + "all")).final_state() == "failed"


def test_a_kill_ends_every_process_of_every_host(service: Service) -> None:
    processes = "[{name: a, command: sleep 61}, {name: b, command: 'echo $$; exec sleep 62'}]"
    spec = service.submit(f"slice: local\nhosts: node[1-4]\nprocesses: {processes}")
    service.follow(
        spec, lambda state: all(hostset.size(part.started) == 4 for part in state.parts) and bool(state.parts)
    )
    service.client.kill(spec.run_id, 15, 1000, "me")
    state = service.follow(spec)
    assert (state.summary()["killed"], state.final_state()) == (4, "killed")
    assert not [p for p in service.hosts.processes() if p.command.startswith("sleep 6")], "still there"


def commands_of(service: Service, spec_text: str) -> tuple[int, int]:
    """How often the store was asked for anything of a run, by all, and how many events the run has."""
    with redis.Redis.from_url(service.stack.redis_url) as client, client.monitor() as monitor:
        spec = service.submit(spec_text)
        service.follow(spec)
        client.echo("the end")
        seen = 0
        for command in monitor.listen():
            if command["command"] == "ECHO the end":
                break
            asked = command["client_type"] != "lua" and spec.run_id in command["command"]
            seen += asked and not command["command"].startswith("XREAD")  # one for each wake-up of a reader
        events = len(service.store.events(spec.run_id, "0"))
    return seen, events


def test_the_store_is_asked_by_events_and_subtrees_not_by_hosts_and_commands(service: Service) -> None:
    """16 hosts with 8 processes each are 128 commands; asked for each of them, the store would bound the mesh."""
    processes = ", ".join(f"{{name: p{n}, command: 'true'}}" for n in range(8))
    text = f"slice: local\nhosts: node[1-{HOSTS_COUNT}]\nprocesses: [{processes}]"
    service.follow(service.submit(text))  # the mesh stands now
    seen, events = commands_of(service, text)
    plain, plain_events = commands_of(service, f"slice: local\nhosts: node[1-{HOSTS_COUNT}]\ncommand: 'true'")
    assert seen <= 2 * events + 30, f"{seen} requests for {events} events"
    assert plain <= 2 * plain_events + 30, f"{plain} requests for {plain_events} events"
    assert seen < 16 * 8, f"{seen} requests"
    few, few_events = commands_of(service, text.replace(f"node[1-{HOSTS_COUNT}]", "node[1-2]"))
    assert seen - few <= 2 * max(0, events - few_events) + 10, "grows with hosts"


def test_a_host_behind_a_gateway_that_stands_is_reached_through_it(service: Service, tmp_path: Path) -> None:
    directory = json.loads(service.hosts.directory.read_text())
    directory["hosts"]["node8"]["reachable_from"] = ["node7"]
    path = tmp_path / "hosts.yaml"
    path.write_text(json.dumps(directory))

    def run(names: str) -> RunState:
        experiment = load_experiment(f"slice: local\nhosts: {names}\ncommand: echo here", "e.yaml")
        spec = compile_experiment(experiment, owner="another", directory=str(path))
        service.client.submit(spec)
        return service.follow(spec)

    assert run("node7").final_state() == "succeeded"
    for names in ("node[7-8]", "node8"):
        assert run(names).final_state() == "succeeded", f"{names}: {run(names).outcomes}"
    meshes = [mesh for mesh in service.client.meshes() if mesh["owner"] == "another"]
    assert [(mesh["total"], mesh["up"]) for mesh in meshes] == [(2, 2)]


def test_many_runs_at_once_over_the_same_new_hosts_all_end_well(service: Service) -> None:
    """Each of them wants to place the same hosts: one does, the others have to see that."""
    specs = []
    for _ in range(24):
        experiment = load_experiment("slice: local\nhosts: node[9-12]\ncommand: 'true'", "e.yaml")
        specs.append(compile_experiment(experiment, owner="third", directory=str(service.hosts.directory)))
    for spec in specs:
        service.client.submit(spec)
    assert {service.follow(spec).final_state() for spec in specs} == {"succeeded"}


def test_a_worker_that_joins_while_a_run_goes_on_takes_its_share_of_the_next(
    service: Service, local_hosts: Callable[..., LocalHosts]
) -> None:
    going = service.submit("slice: local\nhosts: node[1-2]\ncommand: sleep 60")
    service.follow(going, lambda state: hostset.size(state.started) == 2)
    more = local_hosts(8)
    command = [sys.executable, "-m", "plush_api.cli.app", "worker", "start", "--name", "later"]
    changed = {"PLUSH_STATE_DIR": service.stack.state_dir, "PLUSH_REDIS_URL": service.stack.redis_url}
    worker = subprocess.Popen(command, env={**os.environ, **changed})
    try:
        deadline = time.monotonic() + LIMIT_S
        while "later" not in [w.name for w in service.client.workers()]:
            assert time.monotonic() < deadline and worker.poll() is None
            time.sleep(0.05)
        text = "slice: local\nhosts: '@all'\ncommand: 'true'"
        spec = compile_experiment(load_experiment(text, "e"), owner="me", directory=str(more.directory))
        service.client.submit(spec)
        assert service.follow(spec).final_state() == "succeeded"
        owned: dict[str, int] = {}
        for _, event in service.store.events(spec.run_id, "0"):
            if event["type"] == "subtrees_assigned":
                owned[event["worker"]] = hostset.size(hostset.from_text(event["hosts"]))
        assert sum(owned.values()) == 8
        assert 2 <= owned.get("later", 0) <= 6, owned
        service.client.kill(going.run_id, 9, 0, "me")
        service.follow(going)
    finally:
        worker.terminate()
        assert worker.wait(LIMIT_S) == 0
