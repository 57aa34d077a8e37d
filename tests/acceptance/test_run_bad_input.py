"""Hosts that can't be used, beside one that can: who and why is said, the good one's result stands, nothing is left."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import HostEnvironment, LocalHosts
from tests import environments

needs_root = pytest.mark.skipif(environments.NEEDS_ROOT, reason="mount namespaces are root's")
Run = Callable[..., tuple[dict[str, Any], subprocess.CompletedProcess[str]]]

SHELLS = ("bash", "zsh", "tcsh", "fish")


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts], tmp_path_factory: pytest.TempPathFactory) -> LocalHosts:
    def folder() -> Path:
        return tmp_path_factory.mktemp("environment")

    chosen: dict[str, HostEnvironment] = {
        "node2": environments.no_python(folder()),
        "node3": environments.old_python(folder()),
        "node4": environments.long_banner(),
        "node5": environments.reads_stdin(),
    }
    if not environments.NEEDS_ROOT:
        chosen |= {
            "node6": environments.read_only_home(folder()),
            "node7": environments.read_only_everything(),
            "node8": environments.full_disk(),
        }
    for number, shell in enumerate(SHELLS, 9):
        if found := shutil.which(shell):
            chosen[f"node{number}"] = environments.chatty(folder(), found, "hello there")
    return local_hosts(8 + len(SHELLS), environments=chosen)


@pytest.fixture
def beside(plush: Any, hosts: LocalHosts, tmp_path: Path) -> Iterator[Run]:
    """``beside(NAME, ssh_config lines)``: a run on node1, which must succeed, and on NAME, whose object is returned."""

    def run(name: str, *config: str, command: str = "echo fine", options: tuple[str, ...] = ()) -> Any:
        file = tmp_path / "ssh_config"
        more = "".join(f"    {line}\n" for line in config)
        file.write_text((f"Host {name}\n{more}\n" if config else "") + hosts.ssh_config.read_text())
        done = plush("run", "-w", f"node1,{name}", "-F", str(file), "--json", *options, command)
        *found, last = map(json.loads, done.stdout.splitlines())
        by_name = {result["host"]: result for result in found}
        assert sorted(by_name) == sorted(["node1", name]), done.stderr
        good = by_name["node1"]
        assert (good["state"], good["code"], good["stdout"]) == ("exited", 0, "fine\n"), done.stderr
        assert last["summary"]["hosts"] == 2 and last["summary"]["ok"] >= 1
        return by_name[name], done

    yield run
    left = hosts.wait_quiet(10.0)
    assert not left, left


def assert_unreachable(result: dict[str, Any], done: subprocess.CompletedProcess[str], *says: str) -> None:
    assert (result["state"], result["code"], done.returncode) == ("unreachable", None, 255)
    for text in says:
        assert text in result["error"], result["error"]
    assert f"plush: {result['host']}: unreachable: " in done.stderr
    assert "Traceback" not in done.stderr


# Reaching it


def test_a_name_that_does_not_resolve(beside: Run) -> None:
    result, done = beside("no-such-host.invalid")
    assert_unreachable(result, done, "no-such-host.invalid", "name")


def test_a_host_that_the_directory_does_not_have(plush: Any, hosts: LocalHosts) -> None:
    done = plush("run", "-w", "node1,nod2", "--directory", str(hosts.directory), "echo fine")
    assert (done.returncode, done.stdout) == (255, "node1: fine\n")
    assert "plush: nod2: unreachable: not in the host directory" in done.stderr
    assert "did you mean 'node2'" in done.stderr


def test_refused(beside: Run) -> None:
    with environments.closed_address() as (address, port):
        result, done = beside("bad", f"HostName {address}", f"Port {port}")
    assert_unreachable(result, done, "refused: ", f"{address} port {port}")


@pytest.mark.parametrize("kind", [environments.deaf_address, environments.mute_address])
def test_timed_out_and_half_open(beside: Run, kind: Any) -> None:
    with kind() as (address, port):
        result, done = beside("bad", f"HostName {address}", f"Port {port}", options=("-t", "2"))
    assert_unreachable(result, done, "timeout: ", f"{address} port {port}")


def test_an_unknown_host_key(beside: Run, hosts: LocalHosts, tmp_path: Path) -> None:
    empty = tmp_path / "known"
    empty.touch()
    config = (f"HostName {hosts.hosts['node2'].address}", f"UserKnownHostsFile {empty}", *_login(hosts))
    result, done = beside("bad", *config)
    assert_unreachable(result, done, "host_key", "plush hosts trust")
    assert empty.read_text() == ""


@pytest.mark.parametrize("strict", ["yes", "accept-new", "no"])
def test_a_changed_host_key_is_never_accepted(beside: Run, hosts: LocalHosts, tmp_path: Path, strict: str) -> None:
    one, other = hosts.hosts["node1"], hosts.hosts["node2"]
    changed = tmp_path / "known"
    changed.write_text(f"[{other.address}]:{other.port} {one.host_key}\n")
    before = changed.read_text()
    config = (f"HostName {other.address}", f"UserKnownHostsFile {changed}", f"StrictHostKeyChecking {strict}")
    result, done = beside("bad", *config, *_login(hosts))
    assert_unreachable(result, done, "host_key: ", "is not the one on record")
    assert changed.read_text() == before


def test_a_key_that_the_host_does_not_take(beside: Run, hosts: LocalHosts, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    host = hosts.hosts["node2"]
    known = f"UserKnownHostsFile {hosts.known_hosts}"
    result, done = beside(
        "bad", f"HostName {host.address}", f"Port {host.port}", f"IdentityFile {key}", "IdentitiesOnly yes", known,
        "IdentityAgent none", f"User {host.user}",
    )  # fmt: skip
    assert_unreachable(result, done, "auth: ", str(key))


def _login(hosts: LocalHosts) -> tuple[str, ...]:
    host = hosts.hosts["node1"]
    return f"Port {host.port}", f"User {host.user}", f"IdentityFile {hosts.identity}", "IdentitiesOnly yes"


# Starting there


@pytest.mark.parametrize(("name", "says"), [("node2", "no_python"), ("node3", "old_python"), ("node5", "payload")])
def test_a_host_where_the_node_program_cannot_start(beside: Run, name: str, says: str) -> None:
    result, done = beside(name)
    assert_unreachable(result, done, says)


@needs_root
@pytest.mark.parametrize("name", ["node7", "node8"])
def test_a_host_without_a_place_to_write(beside: Run, name: str) -> None:
    result, done = beside(name)
    assert result["state"] in ("unreachable", "failed")
    assert done.returncode in (126, 255)
    assert "/tmp" in result["error"], result["error"]


@needs_root
def test_a_read_only_home_is_no_obstacle(beside: Run) -> None:
    result, done = beside("node6")
    assert (result["state"], result["stdout"], done.returncode) == ("exited", "fine\n", 0), done.stderr


def test_a_megabyte_of_banner(beside: Run) -> None:
    result, done = beside("node4")
    assert (result["state"], result["stdout"], done.returncode) == ("exited", "fine\n", 0), done.stderr


@pytest.mark.parametrize(("number", "shell"), list(enumerate(SHELLS, 9)))
def test_start_up_files_that_print(beside: Run, program: Callable[[str], str], number: int, shell: str) -> None:
    program(shell)
    result, done = beside(f"node{number}")
    assert (result["state"], done.returncode) == ("exited", 0), done.stderr
    assert result["stdout"].endswith("fine\n")


def test_a_command_that_is_not_there(beside: Run, hosts: LocalHosts) -> None:
    address = hosts.hosts["node6"].address
    command = f'case $SSH_CONNECTION in *" {address} "*) no-such-command;; *) echo fine;; esac'
    result, done = beside("node6", command=command)
    assert (result["state"], result["code"], done.returncode) == ("exited", 127, 127)
    assert "no-such-command" in result["stderr"]


# Naming them


def test_hosts_named_twice_run_once(plush: Any, hosts: LocalHosts) -> None:
    done = plush("run", "-w", "node1,node[1-1]", "-w", "node1", "-F", str(hosts.ssh_config), "echo fine")
    assert (done.returncode, done.stdout) == (0, "node1: fine\n")
    assert "named more than once, used once: node1" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "no hosts"),
        (["-w", "node1", "-x", "node1"], "no hosts are left"),
        (["-w", "node[1-"], "node[1-"),
        (["-w", "-oProxyCommand=x"], "begins with '-'"),
        (["-w", "node1", "--hostfile", "/nonexistent"], "/nonexistent"),
        (["-w", "node1", "--outdir", "/proc/nothing"], "--outdir /proc/nothing"),
    ],
)
def test_lists_that_cannot_be_used(plush: Any, hosts: LocalHosts, words: list[str], says: str) -> None:
    done = plush("run", *words, "-F", str(hosts.ssh_config), "echo fine")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr and "Traceback" not in done.stderr


def test_only_bad_names_are_results_too(plush: Any, hosts: LocalHosts) -> None:
    done = plush("run", "-w", "nod1", "--directory", str(hosts.directory), "--json", "date")
    host, last = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, host["host"], host["state"]) == (255, "nod1", "unreachable")
    assert last["summary"]["unreachable"] == 1


# The service


def test_redis_down_at_submission(plush: Any, hosts: LocalHosts) -> None:
    with environments.closed_address() as (address, port):
        env = {"PLUSH_REDIS_URL": f"redis://:secret-word@{address}:{port}/0"}
        done = plush("run", "-w", "node1", "-F", str(hosts.ssh_config), "echo fine", env=env)
    assert (done.returncode, done.stdout) == (69, "")
    assert f"{address}:{port}" in done.stderr
    assert "secret-word" not in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["ps"], ["kill", "x"], ["mesh", "ls"], ["mesh", "down"]])
def test_commands_that_need_a_service(plush: Any, command: list[str]) -> None:
    done = plush(*command)
    assert (done.returncode, done.stdout) == (69, "")
    assert "plush up" in done.stderr
