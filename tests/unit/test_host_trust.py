"""What a scan of host keys means beside what is on record."""

from __future__ import annotations

from pathlib import Path

import pytest

from plush_worker.experiment.host_trust import KeysNotRecorded, Scanned, Status, compare, read_scan, record
from plush_worker.model import HostEntry

A, B, C = ("ssh-ed25519 AAAA", "ssh-rsa BBBB", "ssh-ed25519 CCCC")


def entry(*known: str, **fields: object) -> HostEntry:
    return HostEntry("h", "10.0.0.1", known_hosts=known, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "shown", "status"),
    [
        ((), (A,), Status.NEW),
        ((A,), (A, B), Status.KNOWN),
        ((A,), (C,), Status.CHANGED),
        ((A,), (B,), Status.CHANGED),
        (("@cert-authority " + A,), (B,), Status.NEW),
        (("@revoked " + A, A), (A, B), Status.REVOKED),
    ],
)
def test_compare(known: tuple[str, ...], shown: tuple[str, ...], status: Status) -> None:
    assert compare(entry(*known), shown).status == status


def test_the_text_of_keyscan() -> None:
    text = f"# 10.0.0.1:22 SSH-2.0-OpenSSH\n10.0.0.1 {A}\n10.0.0.1 {B}\n[fe80::1]:2222 {C}\nbroken line\nNode {A}\n"
    assert read_scan(text) == {"10.0.0.1": [A, B], "fe80::1": [C], "node": [A]}


def test_keys_are_appended_behind_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    host = Scanned(entry(port=2222, known_hosts_file=str(path)), Status.NEW, (A, B))
    assert record(host) == str(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("x y z")
    record(host)
    assert path.read_text() == f"x y z\n[10.0.0.1]:2222 {A}\n[10.0.0.1]:2222 {B}\n"


@pytest.mark.parametrize("status", [Status.CHANGED, Status.REVOKED, Status.KNOWN, Status.UNREACHABLE])
def test_only_new_keys_are_recorded_unasked(status: Status, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    with pytest.raises(KeysNotRecorded, match=f"h: its keys are {status}"):
        record(Scanned(entry(known_hosts_file=str(path)), status, (A,), (B,)))
    assert not path.exists()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    host = Scanned(entry(known_hosts_file=f"{tmp_path}/file/known_hosts"), Status.NEW, (A,))
    with pytest.raises(KeysNotRecorded, match="h: its keys can't be recorded in"):
        record(host)
