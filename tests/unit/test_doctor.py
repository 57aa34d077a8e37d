"""What doctor makes of what it finds: without a server or another process."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from plush_api import doctor
from plush_worker.model import WorkerInfo
from plush_worker.node import limits

KEPT = {"maxmemory_policy": "noeviction", "aof_enabled": "1", "aof_last_write_status": "ok", "maxmemory": "0"}
WORKER = WorkerInfo(
    name="w", incarnation="i", queue="worker.w", protocol=limits.PROTOCOL_VERSION, capacity=10, load=3, pid=1,
    host="h", uid=0, state_dir="/s", started_at=100.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("version", "state"),
    [("6.0.16", "problem"), ("6.2.0", "ok"), ("7.2.4", "ok"), ("10.0", "ok"), ("", "problem"), ("what", "problem")],
)
def test_an_old_server_is_a_problem(version: str, state: str) -> None:
    assert doctor.judge_version({"redis_version": version}).state == state


@pytest.mark.parametrize(
    ("fields", "state", "told"),
    [
        ({}, "ok", "noeviction"),
        ({"maxmemory_policy": "allkeys-lru"}, "problem", "allkeys-lru"),
        ({"aof_enabled": "0"}, "warning", "appendonly is off"),
        ({"aof_last_write_status": "err"}, "problem", "append-only file failed"),
        ({"maxmemory": "100", "used_memory": "81"}, "warning", "81 of 100"),
        ({"maxmemory": "100", "used_memory": "79"}, "ok", "noeviction"),
    ],
)
def test_a_server_that_may_forget_is_told(fields: dict[str, str], state: str, told: str) -> None:
    (finding,) = doctor.judge_keeping(KEPT | fields)
    assert finding.state == state and told in finding.detail
    assert bool(finding.advice) == (state != "ok")


@pytest.mark.parametrize(("offset_s", "state"), [(0.1, "ok"), (-0.6, "warning"), (7.0, "problem"), (-7.0, "problem")])
def test_clocks_that_differ_are_told(offset_s: float, state: str) -> None:
    assert doctor.judge_clock(offset_s).state == state


def test_workers_that_are_missing_foreign_or_full_are_told() -> None:
    assert doctor.judge_workers([], 200.0)[0].state == "problem"
    assert doctor.judge_workers([WORKER], 200.0)[0] == doctor.Finding(
        "workers", "ok", "1 with 3 hosts, the oldest up for 100 s"
    )
    full, foreign = replace(WORKER, load=10), replace(WORKER, protocol=limits.PROTOCOL_VERSION + 1)
    assert [f.state for f in doctor.judge_workers([full, foreign, WORKER], 200.0)] == ["warning", "problem"]


def test_few_open_files_are_told_with_what_helps() -> None:
    assert doctor.judge_open_files(65536, 65536).state == "ok"
    assert "ulimit -n 4096" in doctor.judge_open_files(256, 4096).advice
    assert "limits.conf" in doctor.judge_open_files(256, 256).advice


def test_a_key_that_others_can_read_is_a_problem(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for path, mode in ((good, 0o600), (bad, 0o640)):
        path.touch()
        path.chmod(mode)
    (finding,) = doctor.check_private_files([good, tmp_path / "missing"])
    assert finding.state == "ok" and finding.detail.startswith("1 keys")
    (finding,) = doctor.check_private_files([good, bad])
    assert finding.state == "problem" and finding.advice == f"chmod 600 {bad}" and "0640" in finding.detail


def test_secrets_in_files_of_the_environment_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("PLUSH_LOG_FILE", str(tmp_path / "x.log"))
    found = doctor.private_files(tmp_path)
    assert tmp_path / "password" in found and tmp_path / "x.log" not in found
    assert tmp_path / "service" / "admin.token" in found


def test_a_state_folder_for_everybody_or_nobody_is_a_problem(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert doctor.check_state_folder(tmp_path)[0].advice.startswith("chmod 700")
    tmp_path.chmod(0o700)
    assert doctor.check_state_folder(tmp_path)[0].state == "ok"
    assert doctor.check_state_folder(tmp_path / "not" / "yet")[0].state == "ok"
    if os.getuid() != 0:
        tmp_path.chmod(0o500)
        assert doctor.check_state_folder(tmp_path / "x")[0].state == "problem"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(doctor, "STATE_FREE_BYTES", 1 << 62)
    (finding,) = doctor.check_state_folder(tmp_path)
    assert finding.state == "warning" and "MiB are free" in finding.detail


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ("OpenSSH_9.2p1 Debian-2, OpenSSL 3.0", "ok"),
        ("OpenSSH_10.0p2", "ok"),
        ("OpenSSH_7.4p1, OpenSSL 1.0.2k", "warning"),
        ("Dropbear v2022.83", "warning"),
    ],
)
def test_an_old_or_other_ssh_is_told(told: str, state: str) -> None:
    assert doctor.judge_ssh("/usr/bin/ssh", told).state == state
