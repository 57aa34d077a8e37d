"""The environments that other tests run hosts in are what they say; otherwise those tests would prove nothing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plush_api.local_hosts import LocalHosts
from tests import environments
from tests.integration.test_local_hosts import ssh

SHELLS = ("bash", "zsh", "tcsh", "fish")
needs_root = pytest.mark.skipif(environments.NEEDS_ROOT, reason="mount namespaces are root's")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHosts]:
    def folder() -> Path:
        return tmp_path_factory.mktemp("environment")

    chosen = {
        "node1": environments.no_python(folder()),
        "node2": environments.old_python(folder()),
        "node3": environments.no_ssh(folder()),
        "node4": environments.long_banner(),
        "node5": environments.read_only_home(folder()),
        "node6": environments.read_only_everything(),
        "node7": environments.full_disk(),
    }
    for number, shell in enumerate(SHELLS, 8):
        found = shutil.which(shell)
        if found:
            chosen[f"node{number}"] = environments.chatty(folder(), found, "hello there")
    with LocalHosts(7 + len(SHELLS), environments=chosen) as up:
        yield up


def test_without_python_other_programs_are_there(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node1", "command -v python3 python; sed --version >/dev/null && echo sed")
    assert said.stdout == b"sed\n"


def test_the_old_python_says_so(hosts: LocalHosts) -> None:
    code = "import sys; print(sys.version.split()[0], sys.version_info < (3, 6), sys.argv[1:])"
    assert ssh(hosts, "node2", f"python3 -I -S -c '{code}' a b").stdout == b"3.5.3 True ['a', 'b']\n"


def test_without_ssh_python_is_there(hosts: LocalHosts) -> None:
    assert ssh(hosts, "node3", "command -v ssh; python3 -c 'print(1)'").stdout == b"1\n"


def test_a_megabyte_comes_first(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node4", "echo end").stdout
    assert len(said) == (1 << 20) + 4
    assert said.endswith(b"end\n")


@needs_root
def test_the_home_is_read_only_and_tmp_is_not(hosts: LocalHosts) -> None:
    said = ssh(hosts, "node5", "touch ~/x; rm -f $(mktemp) && echo tmp")
    assert b"Read-only" in said.stderr
    assert said.stdout == b"tmp\n"


@needs_root
@pytest.mark.parametrize("folder", ["$HOME", "/tmp", "/var/tmp"])
def test_nothing_can_be_written_at_all(hosts: LocalHosts, folder: str) -> None:
    assert b"Read-only" in ssh(hosts, "node6", f"mkdir {folder}/x").stderr


@needs_root
@pytest.mark.parametrize("folder", ["$HOME", "/tmp", "/var/tmp"])
def test_the_disk_is_full(hosts: LocalHosts, folder: str) -> None:
    said = ssh(hosts, "node7", f"mkdir {folder}/x && echo 1 > {folder}/x/file")
    assert b"No space left" in said.stderr


@pytest.mark.parametrize(("name", "shell"), [(f"node{number}", shell) for number, shell in enumerate(SHELLS, 8)])
def test_start_up_files_print(hosts: LocalHosts, name: str, shell: str, program: Callable[[str], str]) -> None:
    program(shell)
    said = ssh(hosts, name, "echo end")
    assert said.stdout == b"hello there\nend\n"
    assert b"hello there" in said.stderr


def test_a_deaf_address_does_not_answer() -> None:
    with environments.deaf_address() as address, pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.3)


def test_a_mute_address_accepts_and_says_nothing() -> None:
    with environments.mute_address() as address:
        client = socket.create_connection(address, timeout=0.3)
        with client, pytest.raises(TimeoutError):
            client.recv(1)


def test_a_closed_address_refuses() -> None:
    with environments.closed_address() as address, pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=0.3)
