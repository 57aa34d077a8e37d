"""The service as people use it from another shell: by Redis on this machine and by HTTP, by two owners, by programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from plush_api.api_errors import Unauthorized
from plush_api.client import Plush
from plush_api.local_hosts import LocalHosts
from plush_worker.errors import RunNotFound
from tests.conftest import marked

HOSTS_COUNT = 16
LIMIT_S = 50.0
EXPERIMENT = """\
name: two-parts
slice: local
hosts: node[1-16]
processes:
  - {name: server, hosts: node1, command: echo serving; sleep 1}
  - {name: client, command: "echo asking; test $PLUSH_HOST != node2"}
success: 15
"""
SLEEPER = "name: sleeper\nhosts: node[1-4]\ncommand: echo begun; sleep 6%d\n"


@dataclass
class Service:
    """A ``plush up`` with two workers, and one token each for two people."""

    plush: Any
    hosts: LocalHosts
    url: str
    ada: str
    bob: str

    def __call__(self, *args: str, as_: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
        """Run ``plush ARGS``: with a token over HTTP, without one by Redis."""
        found: subprocess.CompletedProcess[str] = self.plush(*args, env=self.environ(as_), **more)
        return found

    def start(self, *args: str, as_: str = "") -> subprocess.Popen[str]:
        process: subprocess.Popen[str] = self.plush.start(*args, env=self.environ(as_))
        return process

    def environ(self, token: str) -> Mapping[str, str]:
        return {"PLUSH_URL": self.url, "PLUSH_TOKEN": token} if token else {}

    def file(self, text: str, name: str = "exp.yaml") -> str:
        path = Path(self.plush.folder) / name
        path.write_text(text)
        return str(path)

    def running(self, marker: str) -> list[str]:
        """The processes of the hosts with this in their command."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue
            if command == marker:
                found.append(command)
        return found


@pytest.fixture(scope="module")
def service(local_hosts: Callable[..., LocalHosts], module_plush: Any) -> Iterator[Service]:
    hosts = local_hosts(HOSTS_COUNT)
    module_plush.environ["PLUSH_DIRECTORY"] = str(hosts.directory)
    process = module_plush.start("up", "--workers", "2", "--no-flower")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    path = Path(module_plush.environ["XDG_RUNTIME_DIR"]) / "plush" / "service.json"
    url = json.loads(path.read_text())["api_url"]
    tokens = []
    for owner in ("ada", "bob"):
        made = module_plush("token", "create", "--owner", owner, "--expires", "1d")
        assert made.returncode == 0, made.stderr
        tokens.append(made.stdout.strip())
    yield Service(module_plush, hosts, url, *tokens)
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {what}"
        time.sleep(0.05)
    return found


def lines_of(ran: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


WAYS = pytest.mark.parametrize("way", ["redis", "http"])


def token_of(service: Service, way: str) -> str:
    return service.ada if way == "http" else ""


# From submit to rm


@WAYS
def test_an_experiment_from_submit_to_rm(service: Service, way: str) -> None:
    """Both ways must show the same."""
    token = token_of(service, way)
    ran = service("submit", "--watch", service.file(EXPERIMENT), as_=token)
    assert ran.returncode == 0, f"15 of 16 hosts were enough\n{ran.stderr}"
    assert sorted(ran.stdout.splitlines()) == sorted(
        [f"node{at}/client: asking" for at in range(1, HOSTS_COUNT + 1)] + ["node1/server: serving"]
    )
    assert "node2: exit code 1" in ran.stderr
    (newest, *_) = lines_of(service("ps", "--json", as_=token))
    run = newest["run"]
    assert (newest["state"], newest["hosts"], newest["up"], newest["name"]) == ("succeeded", 16, 16, "two-parts")
    (status,) = lines_of(service("status", "last", "--json", as_=token))
    assert (status["run"], status["ok"], status["nonzero"]) == (run, 15, 1)
    assert {host["host"]: host["code"] for host in status["hosts"]}["node2"] == 1
    shown = service("status", run[:8], as_=token)
    assert "16: 16 up, 16 done: 15 ok, 1 nonzero" in shown.stdout and "node2: exit code 1" in shown.stdout
    logs = service("logs", run, "-w", "node[1-2]", "--process", "client", as_=token)
    assert sorted(logs.stdout.splitlines()) == ["node1: asking", "node2: asking"]
    *results, summary = lines_of(service("results", run, "--json", as_=token))
    assert len(results) == 17 and summary["summary"]["ok"] == 15
    folder = Path(service.plush.folder) / f"results-{way}"
    assert service("results", run, "--outdir", str(folder), as_=token).returncode == 0
    assert (folder / "server" / "node1").read_text() == "serving\n"
    again = service("watch", run, "--json", as_=token)
    assert again.returncode == 0 and len(again.stdout.splitlines()) == 18
    assert service("rm", run, as_=token).returncode == 0
    gone = service("status", run, as_=token)
    assert gone.returncode == 1 and "there is no run" in gone.stderr


@WAYS
def test_a_run_that_goes_on_is_followed_and_killed(service: Service, way: str) -> None:
    token, text = token_of(service, way), SLEEPER % (1 if way == "http" else 2)
    (made,) = lines_of(service("submit", "--json", service.file(text), as_=token))
    run = made["run"]
    follower = service.start("logs", "-f", run, as_=token)
    assert follower.stdout is not None
    assert {follower.stdout.readline() for _ in range(4)} == {f"node{at}: begun\n" for at in range(1, 5)}
    (row,) = [row for row in lines_of(service("ps", "--json", "--state", "running", as_=token)) if row["run"] == run]
    assert (row["up"], row["done"]) == (4, 0)
    refused = service("rm", run, as_=token)
    assert refused.returncode == 1 and "has not ended" in refused.stderr
    killed = service("kill", run, as_=token)
    assert (killed.returncode, killed.stdout) == (0, f"{run}: killed\n")
    assert follower.wait(LIMIT_S) == 0, "the follower ends with its run"
    assert not service.running(f"sleep 6{1 if way == 'http' else 2}")
    watched = service("watch", run, as_=token)
    assert watched.returncode == 128 + signal.SIGTERM and "node[1-4]: killed" in watched.stderr
    assert service("rm", run, as_=token).returncode == 0


@WAYS
def test_ctrl_c_leaves_a_watched_run_alone(service: Service, way: str) -> None:
    token = token_of(service, way)
    watching = service.start("submit", "--watch", service.file(SLEEPER % (3 if way == "http" else 4)), as_=token)
    assert watching.stdout is not None
    watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=LIMIT_S)
    assert watching.returncode == 130
    assert "returns to it" in err
    (run,) = [row["run"] for row in lines_of(service("ps", "--json", "--state", "running", as_=token))]
    assert f"plush watch {run} returns to it" in err
    assert service("rm", "--force", run, as_=token).returncode == 0
    assert not service.running(f"sleep 6{3 if way == 'http' else 4}")


def test_files_of_an_experiment_travel_with_it(service: Service) -> None:
    """The service has no look at the folder of whoever submits over HTTP."""
    folder = Path(service.plush.folder) / "with-files"
    folder.mkdir()
    (folder / "tool.sh").write_text("#!/bin/sh\necho $1 of $PLUSH_HOSTS_COUNT; cat\n")
    (folder / "tool.sh").chmod(0o755)
    (folder / "input").write_text("what is read\n")
    there = folder / "on-hosts"  # the local hosts share our files
    (folder / "exp.yaml").write_text(
        f"hosts: node[1-2]\nfiles: [{{src: tool.sh, dest: '{there}/{{host}}/'}}]\n"
        f"processes: [{{command: './$PLUSH_HOST/tool.sh $PLUSH_INDEX', cwd: '{there}', stdin: input}}]\n"
    )
    ran = service("submit", "--watch", str(folder / "exp.yaml"), as_=service.ada)
    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stdout.splitlines()) == [
        "node1: 0 of 2", "node1: what is read", "node2: 1 of 2", "node2: what is read",
    ]  # fmt: skip


# Two owners


def test_two_owners_cant_touch_each_others_runs(service: Service) -> None:
    (made,) = lines_of(service("submit", "--json", service.file(SLEEPER % 5), as_=service.ada))
    run = made["run"]
    for words in (
        ["status", run],
        ["logs", run],
        ["watch", run],
        ["results", run],
        ["kill", run],
        ["rm", "--force", run],
    ):
        ran = service(*words, as_=service.bob)
        assert ran.returncode == 1 and "there is no run" in ran.stderr, f"bob could {words[0]} ada's run: {ran}"
    assert run not in service("ps", as_=service.bob).stdout
    assert service("token", "ls", as_=service.bob).returncode == 1
    with Plush(service.url, service.bob) as bob:
        for ask in (bob.run, bob.hosts, bob.kill, lambda run: list(bob.events(run)), lambda run: list(bob.output(run))):
            with pytest.raises(RunNotFound):
                ask(run)
        assert not bob.remove(run, force=True)
        with pytest.raises(Unauthorized):
            bob.tokens()
    (row,) = [row for row in lines_of(service("ps", "--json", as_=service.ada)) if row["run"] == run]
    assert row["state"] in ("waiting", "running"), "and it goes on"
    assert service("kill", run, as_=service.ada).returncode == 0
    assert service("rm", run, as_=service.ada).returncode == 0


def test_a_token_that_was_revoked_is_refused(service: Service) -> None:
    made = json.loads(service("token", "create", "--owner", "eve", "--scope", "read", "--json").stdout)
    assert service("ps", as_=made["token"]).returncode == 0
    refused = service("submit", service.file(EXPERIMENT), as_=made["token"])
    assert refused.returncode == 1 and "scope run" in refused.stderr
    assert made["id"] in service("token", "ls").stdout
    assert made["token"] not in service("token", "ls").stdout
    assert service("token", "revoke", made["id"]).returncode == 0
    ran = service("ps", as_=made["token"])
    assert ran.returncode == 1 and "token" in ran.stderr


# plush run, meshes and workers over HTTP


def test_plush_run_over_http(service: Service) -> None:
    ran = service("run", "--json", "-w", "-", "--", "echo $((6*7)); exit 3", as_=service.ada, stdin="node3 node4\n")
    assert ran.returncode == 3, ran.stderr
    *hosts, last = map(json.loads, ran.stdout.splitlines())
    assert {host["host"]: (host["code"], host["stdout"]) for host in hosts} == {
        "node3": (3, "42\n"),
        "node4": (3, "42\n"),
    }
    assert last["summary"]["nonzero"] == 2
    wrong = service("run", "-w", "node3,nod4", "date", as_=service.ada)
    assert wrong.returncode == 2 and "nod4" in wrong.stderr and "node4" in wrong.stderr


def test_ctrl_c_of_plush_run_over_http_ends_it_on_the_hosts(service: Service) -> None:
    process = service.start("run", "-w", "node[1-2]", "--", "echo begun; sleep 67", as_=service.ada)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert not service.running("sleep 67")


def test_meshes_workers_and_slices_over_http(service: Service) -> None:
    assert service("mesh", "up", "-w", "node[1-2]", as_=service.bob).stdout == "2/2 up\n"
    (mesh,) = lines_of(service("mesh", "ls", "--json", as_=service.bob))
    assert (mesh["owner"], mesh["up"]) == ("bob", 2)
    assert service("mesh", "down", as_=service.bob).returncode == 0
    assert len(lines_of(service("worker", "ls", "--json", as_=service.bob))) == 2
    (known,) = lines_of(service("slice", "show", "local", "--json", as_=service.bob))
    assert len(known["hosts"]) == known["hosts_count"] == HOSTS_COUNT


# Programs


def test_a_program_submits_follows_and_removes(service: Service) -> None:
    with Plush(service.url, service.ada) as plush:
        run = plush.submit({"hosts": "node[1-4]", "command": "echo from $PLUSH_HOST; echo oh >&2"})
        events = list(plush.events(run.id))
        assert (events[0].type, events[-1].type) == ("run_submitted", "run_finished")
        assert [event.id for event in events] == sorted({e.id for e in events}, key=lambda i: [*map(int, i.split("-"))])
        assert list(plush.events(run.id, events[-1].id)) == []
        assert plush.wait(run.id, 1).succeeded
        assert {host.name: (host.state, host.code) for host in plush.hosts(run.id)} == {
            f"node{at}": ("exited", 0) for at in range(1, 5)
        }
        assert b"".join(plush.output(run.id, "node3")) == b"from node3\n"
        assert b"".join(plush.output(run.id, "node3", start_bytes=5, end_bytes=9)) == b"node"
        assert b"node1: oh" in b"".join(plush.output(run.id, stream="stderr")).splitlines()
        assert [found.id for found in plush.runs(state="ended", limit=1)] == [run.id]
        assert plush.keep(run.id, 60).keep_s == 60
        assert plush.remove(run.id) and not plush.remove(run.id)


def test_a_follower_lives_through_the_death_of_the_api(service: Service) -> None:
    """Events and output go on where they were, without a hole."""
    text = "hosts: node[1-2]\ncommand: for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done\n"
    with Plush(service.url, service.ada, patience_s=40) as plush:
        run = plush.submit(text)
        follower = service.start("logs", "-f", run.id, as_=service.ada)
        assert follower.stdout is not None
        first, seen = "", []
        for event in plush.events(run.id):
            if not first and event.type == "output":
                first = follower.stdout.readline()
                kill_api(service)
            seen.append(event)
        assert len({event.id for event in seen}) == len(seen)
        assert seen[-1].type == "run_finished" and plush.run(run.id).succeeded
        assert [e.id for e in plush.events(run.id)] == [e.id for e in seen], "a hole, or a double"
    assert follower.stderr is not None
    out, err = follower.stdout.read(), follower.stderr.read()  # not communicate, which loses what readline read ahead
    assert first and follower.wait(LIMIT_S) == 0, err
    assert sorted((first + out).splitlines()) == sorted(f"node{host}: {at}" for host in (1, 2) for at in range(1, 9))
    assert "waiting for the service to come back" in err and "the service is back" in err


def kill_api(service: Service) -> None:
    processes = marked(service.plush.environ["PLUSH_TEST_MARK"])
    (pid,) = (pid for pid, command in processes.items() if "plush_api.api_part" in command)
    os.kill(pid, signal.SIGKILL)


# Shells


@pytest.fixture
def with_plush(service: Service, tmp_path: Path) -> dict[str, str]:
    """An environment in which ``plush`` is a command."""
    script = tmp_path / "plush"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m plush_api.cli.app "$@"\n')
    script.chmod(0o755)
    environ: dict[str, str] = service.plush.environ
    return {**environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "xterm"}


def shell(words: list[str], environ: Mapping[str, str]) -> list[str]:
    ran = subprocess.run(words, env=dict(environ), capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_bash_completes(program: Callable[[str], str], with_plush: dict[str, str]) -> None:
    for line, expected in (("plush sta", ["status"]), ("plush run -w @al", ["all"]), ("plush slice show ", ["local"])):
        script = (
            'eval "$(plush completion bash)"; complete -p plush >/dev/null || exit 9\n'
            f'COMP_LINE="{line}"; COMP_POINT=${{#COMP_LINE}}; _plush 2>/dev/null; echo "${{COMPREPLY[@]}}"'
        )
        assert shell([program("bash"), "--norc", "-c", script], with_plush) == expected


def test_fish_completes(program: Callable[[str], str], with_plush: dict[str, str]) -> None:
    script = "plush completion fish | source; complete -C 'plush sta'"
    assert shell([program("fish"), "--no-config", "-c", script], with_plush)[0] == "status"


def test_zsh_completes(program: Callable[[str], str], with_plush: dict[str, str], tmp_path: Path) -> None:
    """Its completion works within a line editor only, so one is driven through a terminal of its own."""
    (tmp_path / "_plush").write_text("")
    script = f"""
zmodload zsh/zpty
zpty shell "{program("zsh")} -f -i"
zpty -w shell 'PS1=; autoload -Uz compinit; compinit -u -d {tmp_path}/dump'
zpty -w shell 'source <(plush completion zsh); echo set-up-done'
zpty -r -m shell out '*set-up-done*set-up-done*' || exit 8
zpty -w -n shell 'plush sta'$'\\t'
zpty -r -m shell out '*status*' || exit 9
print -r -- completed
zpty -d shell
"""
    assert shell([program("zsh"), "-f", "-c", script], with_plush) == ["completed"]
