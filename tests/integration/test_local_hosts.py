"""The local hosts of the demo, the tests and the benchmarks: real sshd, environments, an end that leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plush_api.local_hosts import HostEnvironment, LocalHosts
from plush_api.local_hosts_guard import descendants

LIMIT_S = 10


def ssh(hosts: LocalHosts, name: str, command: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command on one host."""
    words = ["ssh", "-F", str(hosts.ssh_config), *options, "-o", "ConnectTimeout=5", name, command]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHosts]:
    folder = tmp_path_factory.mktemp("environments")
    home = folder / "chatty"
    home.mkdir()
    (home / ".bashrc").write_text("echo from-bashrc\n")
    bare = HostEnvironment(shell="/bin/sh", path="/nonexistent", prints=b"noise\xff\n", environ={"COLOUR": "a b"})
    chatty = HostEnvironment(shell="/bin/bash", home=home, setup="ulimit -n 17")
    environments = {"node2": bare, "node3": chatty}
    with LocalHosts(3, environments=environments) as up:
        yield up


def test_every_host_has_its_own_key_address_and_home(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node1", "echo $SSH_CONNECTION $HOME")
    assert said.returncode == 0, said.stderr
    words = said.stdout.decode().split()
    assert words[2:] == [hosts.hosts["node1"].address, str(hosts.hosts["node1"].port), str(hosts.hosts["node1"].home)]
    assert len({host.host_key for host in hosts.hosts.values()}) == 3


def test_a_login_from_host_to_host_needs_only_the_demo_key(hosts: LocalHosts) -> None:
    inner = f"ssh -F {hosts.ssh_config} -i {hosts.identity} node3 echo inner"
    assert b"inner" in ssh(hosts, "node1", inner).stdout


def test_environment_prints_first_and_sets_path_and_shell(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node2", "echo $PATH $COLOUR; ls")
    assert said.stdout == b"noise\xff\n/nonexistent a b\n"
    assert said.returncode == 127


def test_environment_reads_start_up_files_of_its_home(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node3", "ulimit -n; pwd")
    home = hosts.hosts["node3"].home
    assert said.stdout.decode().split() == ["from-bashrc", "17", str(home)]


@pytest.mark.skipif(os.getuid() != 0, reason="mount namespaces are root's")
def test_environment_mounts_are_seen_by_that_host_only(tmp_path: Path) -> None:
    environment = HostEnvironment(mounts=f"mount -t tmpfs -o size=4096 none {tmp_path}")
    with LocalHosts(2, environments={"node1": environment}) as up:
        full = ssh(up, "node1", f"head -c 100000 /dev/zero > {tmp_path}/big")
        assert b"No space left" in full.stderr
        assert ssh(up, "node2", f"head -c 100000 /dev/zero > {tmp_path}/big").returncode == 0


def test_unknown_key_is_refused_by_the_client_configuration(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node1", "true", "-o", "UserKnownHostsFile=/dev/null")
    assert said.returncode == 255
    assert b"Host key verification failed" in said.stderr


def test_what_a_login_leaves_is_seen_and_named(hosts: LocalHosts) -> None:
    ssh(hosts, "node1", "setsid sleep 1234 >/dev/null 2>&1 &")
    left = hosts.processes("node1")
    assert [process.command for process in left] == ["sleep 1234"]
    assert hosts.processes("node2") == []
    os.kill(left[0].pid, signal.SIGKILL)
    assert hosts.wait_quiet(LIMIT_S) == []


def test_a_stopped_host_takes_its_processes_along_and_starts_again(hosts: LocalHosts) -> None:
    ssh(hosts, "node1", "setsid sleep 1235 >/dev/null 2>&1 &")
    hosts.stop("node1")
    assert hosts.wait_quiet(LIMIT_S) == []
    assert b"refused" in ssh(hosts, "node1", "true").stderr
    hosts.start("node1")
    assert ssh(hosts, "node1", "echo again").stdout == b"again\n"


def test_a_paused_host_accepts_and_says_nothing(hosts: LocalHosts) -> None:
    hosts.pause("node1")
    try:
        said = ssh(hosts, "node1", "true", "-o", "ConnectTimeout=1")
        assert b"timed out" in said.stderr
    finally:
        hosts.resume("node1")
    assert ssh(hosts, "node1", "true").returncode == 0


def test_closing_ends_daemons_and_removes_the_folder() -> None:
    with LocalHosts(1) as up:
        ssh(up, "node1", "setsid sleep 1236 >/dev/null 2>&1 & (setsid sleep 1236 >/dev/null 2>&1 &) &")
        assert eventually(lambda: [process.command for process in up.processes()] == ["sleep 1236"] * 2)
        pids = [process.pid for process in up.processes()]
        folder = up.folder
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not folder.exists()


def test_hosts_die_with_an_owner_that_is_killed() -> None:
    script = """
import sys
from plush_api.local_hosts import LocalHosts
with LocalHosts(2) as up:
    print(up._guard.pid, up.folder, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        words = owner.stdout.readline().split()
        guard, folder = int(words[0]), Path(words[1])
        below = descendants(guard)
        assert len(below) == 2
        owner.kill()
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (guard, *below)))
    assert not folder.exists()


def test_an_sshd_that_does_not_start_is_named_with_what_it_said() -> None:
    with pytest.raises(Exception, match=r"node1 \(127\..* sshd ended at once; it said: .*NoSuchOption"):
        LocalHosts(1, sshd_options=["NoSuchOption yes"]).__enter__()
