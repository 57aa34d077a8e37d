"""``plush hosts`` and ``plush tree`` against real sshd."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plush_api.local_hosts import LocalHosts
from plush_worker.experiment.known_hosts import KnownHosts

COUNT = 4


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts]) -> LocalHosts:
    return local_hosts(COUNT, site_count=2)


@pytest.fixture
def empty_known(hosts: LocalHosts, tmp_path: Path) -> Path:
    """An OpenSSH configuration of the hosts whose known_hosts is empty; returns its path."""
    text = hosts.ssh_config.read_text().replace(str(hosts.known_hosts), str(tmp_path / "known_hosts"))
    path = tmp_path / "config"
    path.write_text(text)
    return path


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_list(plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts) -> None:
    done = plush("hosts", "list", "--directory", str(hosts.directory), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [o["name"] for o in objects(done.stdout)] == [f"node{n}" for n in range(1, COUNT + 1)]
    assert objects(done.stdout)[0]["known_hosts"] == [hosts.hosts["node1"].host_key]
    table = plush("hosts", "list", "-F", str(hosts.ssh_config), "-w", "node[2-3]").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["HOST", "node2", "node3"]


def test_list_of_what_is_not_there(plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts) -> None:
    done = plush("hosts", "list", "--directory", str(hosts.directory), "-w", "node1,nod2", "--json")
    assert done.returncode == 255
    assert objects(done.stdout)[1]["name"] == "nod2"
    assert "did you mean 'node2'" in str(objects(done.stdout)[1]["error"])
    assert plush("hosts", "list", "-w", "-oProxyCommand=x").returncode == 2


def test_check_works(plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts) -> None:
    done = plush("hosts", "check", "--directory", str(hosts.directory))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"ok ({COUNT}): node[1-{COUNT}]; slowest node")


def test_check_says_which_fail_and_why(
    plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts, tmp_path: Path
) -> None:
    wrong = hosts.hosts["node2"].host_key
    data = json.loads(hosts.directory.read_text())
    data["hosts"]["node3"]["host_key"] = wrong
    data["hosts"]["node4"]["port"] = 1
    directory = tmp_path / "hosts.yaml"
    directory.write_text(json.dumps(data))
    done = plush("hosts", "check", "--directory", str(directory), "-w", "node[1-4],nope", "--json", "-t", "5")
    assert done.returncode == 255
    found = {o["host"]: o for o in objects(done.stdout)}
    assert {name: o["ok"] for name, o in found.items()} == {
        "node1": True, "node2": True, "node3": False, "node4": False, "nope": False,
    }  # fmt: skip
    assert found["node3"]["code"] == "host_key"
    assert found["node4"]["code"] == "refused"
    text = plush("hosts", "check", "--directory", str(directory), "-w", "node[1-4],nope", "-t", "5").stdout
    assert "ok (2): node[1-2]" in text
    assert "failed (1): node4: refused: " in text
    assert "failed (1): nope: not in the host directory" in text


def test_trust_records_after_showing(
    plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts, empty_known: Path
) -> None:
    assert plush("hosts", "check", "-F", str(empty_known), "-w", "node1").returncode == 255
    asked = plush("hosts", "trust", "-F", str(empty_known), "-w", "node[1-2]")
    assert asked.returncode == 2
    assert "add --yes" in asked.stderr
    known = empty_known.parent / "known_hosts"
    assert not known.exists(), "nothing is recorded without confirmation"

    done = plush("hosts", "trust", "-F", str(empty_known), "-w", "node[1-2]", "--yes")
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(hosts.folder / "hosts" / "node1.key")], capture_output=True, text=True
    )
    assert f"ssh-ed25519 {shown.stdout.split()[1]}" in done.stdout, "the fingerprint as ssh-keygen shows it"
    first = hosts.hosts["node1"]
    assert KnownHosts.read([str(known)]).lines_for(first.address, first.port) == (first.host_key,)
    assert plush("hosts", "check", "-F", str(empty_known), "-w", "node[1-2]").returncode == 0
    again = plush("hosts", "trust", "-F", str(empty_known), "-w", "node[1-2]", "--json", "--yes")
    assert {(o["status"], o["recorded_in"]) for o in objects(again.stdout)} == {("known", "")}
    assert again.returncode == 0


def test_a_changed_key_is_shown_and_replaced_only_when_told_to(
    plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts, empty_known: Path
) -> None:
    known = empty_known.parent / "known_hosts"
    first, second = hosts.hosts["node1"], hosts.hosts["node2"]
    known.write_text(
        f"[{first.address}]:{first.port} {second.host_key}\n[{second.address}]:{second.port} {second.host_key}\n"
    )
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    before = known.read_text()
    done = plush("hosts", "trust", "-F", str(empty_known), "-w", "node[1-2]", "--yes")
    assert done.returncode == 1
    assert "node1" in done.stdout and "changed" in done.stdout and "on record" in done.stdout
    assert "--replace-changed" in done.stdout
    assert known.read_text() == before
    replaced = plush("hosts", "trust", "-F", str(empty_known), "-w", "node[1-2]", "--yes", "--replace-changed")
    assert replaced.returncode == 0, replaced.stderr
    read = KnownHosts.read([str(known)])
    assert read.lines_for(first.address, first.port) == (first.host_key,)
    assert read.lines_for(second.address, second.port) == (second.host_key,)


def test_a_key_pinned_in_the_directory_is_changed_there(
    plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts, tmp_path: Path
) -> None:
    data = json.loads(hosts.directory.read_text())
    data["hosts"]["node1"]["host_key"] = hosts.hosts["node2"].host_key
    directory = tmp_path / "hosts.yaml"
    directory.write_text(json.dumps(data))
    done = plush("hosts", "trust", "--directory", str(directory), "-w", "node1", "--yes", "--replace-changed")
    assert done.returncode == 1
    assert "node1" in done.stderr and "change it there" in done.stderr


def test_who_can_not_be_scanned(
    plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_text(
        "Host dead\n HostName 127.0.0.1\n Port 1\nHost behind\n ProxyJump dead\n"
        f"Host *\n UserKnownHostsFile {tmp_path}/kh\n" + hosts.ssh_config.read_text()
    )
    done = plush("hosts", "trust", "-F", str(path), "-w", "dead,behind,node1", "--yes", "-t", "2", "--json")
    assert done.returncode == 255
    found = {o["host"]: o for o in objects(done.stdout)}
    assert [found[name]["status"] for name in ("dead", "behind", "node1")] == ["unreachable", "unreachable", "new"]
    assert "ssh-keyscan -p 1 127.0.0.1 got no key within 2 s" in str(found["dead"]["error"])
    assert f"connect once with ssh -F {path} behind" in str(found["behind"]["error"])
    assert found["node1"]["recorded_in"] == f"{tmp_path}/kh"


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_confirmation_on_a_terminal(plush: object, empty_known: Path, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    try:
        process = plush.start("hosts", "trust", "-F", str(empty_known), "-w", "node1", stdin=theirs)  # type: ignore[attr-defined]
        os.write(ours, answer)
        out, err = process.communicate(timeout=30)
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == code, out + err
    assert (empty_known.parent / "known_hosts").exists() is (code == 0)


def test_tree_plan(plush: Callable[..., subprocess.CompletedProcess[str]], hosts: LocalHosts) -> None:
    where = ("--directory", str(hosts.directory), "--slice", "local")
    done = plush("tree", "plan", *where, "--planner", "site")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "worker1 (4)", "├─ node1 (2)", "│  └─ node2", "└─ node3 (2)", "   └─ node4",
    ]  # fmt: skip
    data = json.loads(plush("tree", "plan", *where, "--planner", "site", "--workers", "2", "--json").stdout)
    assert data["hosts"] == [
        {"host": "node1", "parent": None, "worker": "worker1", "depth": 1},
        {"host": "node2", "parent": "node1", "worker": "worker1", "depth": 2},
        {"host": "node3", "parent": None, "worker": "worker2", "depth": 1},
        {"host": "node4", "parent": "node3", "worker": "worker2", "depth": 2},
    ]
    assert (data["planner"], data["depth"], data["roots"], data["unreachable"]) == ("site", 2, 2, {})


def test_tree_plan_of_names_alone(plush: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Without a directory a run is flat; who asks for a planner by name sees its tree, and is told what was assumed."""
    assert json.loads(plush("tree", "plan", "-w", "n[1-20]", "--json").stdout)["planner"] == "flat"
    done = plush("tree", "plan", "-w", "n[1-20]", "--planner", "kary")
    assert done.returncode == 0
    assert "n1 (3)" in done.stdout or "n1 (9)" in done.stdout
    assert "inner_login" in done.stderr and "keys of 20 hosts" in done.stderr
    bad = plush("tree", "plan", "-w", "n[1-20]", "--planner", "best")
    assert (bad.returncode, "no planner 'best'" in bad.stderr) == (2, True)
