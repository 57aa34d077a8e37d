"""Which host keys are trusted, in which order they are asked for, how new ones are recorded."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from plush_worker.mesh.host_keys import (
    HostKeyNotRecorded,
    Trust,
    fingerprint,
    host_key_algorithms,
    judge,
    key_line,
    key_type,
    known_hosts_name,
    parse_pins,
    record_host_key,
)
from plush_worker.model import HostEntry

KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(3)]
BLOBS = [key.public_data for key in KEYS]
LINES = [key_line(blob) for blob in BLOBS]
CA_LINE = f"@cert-authority {LINES[2]} the comment"


def certificate(host_key: int = 0, authority: int = 2, **options: Any) -> bytes:
    options = {"principals": ["a.example.org", "*.b.example.org"], "valid_after": 0, **options}
    made = KEYS[authority].generate_host_certificate(KEYS[host_key], "test", **options)
    return made.public_data


def trust(lines: tuple[str, ...], blob: bytes, name: str = "a.example.org") -> Trust:
    return judge(parse_pins(lines), blob, name).trust


def test_key_line_names_type_and_fingerprint() -> None:
    assert key_type(BLOBS[0]) == "ssh-ed25519"
    assert LINES[0] == " ".join(KEYS[0].export_public_key().decode().split()[:2])
    assert fingerprint(BLOBS[0]) == KEYS[0].get_fingerprint()
    assert [key_type(blob) for blob in (b"", b"\0\0", b"\xff" * 8)] == ["", "", ""]


def test_plain_keys() -> None:
    assert trust((), BLOBS[0]) is Trust.UNKNOWN
    assert trust((LINES[1], f"{LINES[0]} comment of it"), BLOBS[0]) is Trust.TRUSTED
    assert trust((LINES[1],), BLOBS[0]) is Trust.CHANGED
    assert trust((LINES[0], f"@revoked {LINES[0]}"), BLOBS[0]) is Trust.REVOKED
    assert trust((CA_LINE,), BLOBS[0]) is Trust.UNKNOWN
    assert trust((CA_LINE,), BLOBS[2]) is Trust.UNKNOWN, "an authority's key is no host's key"


def test_certificates() -> None:
    assert trust((CA_LINE,), certificate()) is Trust.TRUSTED
    assert trust((CA_LINE,), certificate(), "x.b.example.org") is Trust.TRUSTED
    assert trust((CA_LINE,), certificate(), "A.EXAMPLE.ORG") is Trust.TRUSTED
    assert trust((CA_LINE,), certificate(), "x.a.example.org") is Trust.BAD_CERTIFICATE
    assert trust((CA_LINE,), certificate(valid_before=1)) is Trust.BAD_CERTIFICATE
    assert trust((CA_LINE,), certificate(valid_after=2**40, valid_before=2**41)) is Trust.BAD_CERTIFICATE
    user = KEYS[2].generate_user_certificate(KEYS[0], "test", principals=["a.example.org"], valid_after=0)
    assert trust((CA_LINE,), user.public_data) is Trust.BAD_CERTIFICATE
    assert trust((CA_LINE,), certificate()[:-3] + b"abc") is Trust.BAD_CERTIFICATE
    for revoked in (LINES[0], LINES[2]):
        assert trust((CA_LINE, LINES[0], f"@revoked {revoked}"), certificate()) is Trust.REVOKED


def test_certificate_of_an_unknown_authority_leaves_the_key_to_stand_for_itself() -> None:
    assert trust((), certificate()) is Trust.UNKNOWN
    assert trust((LINES[0],), certificate()) is Trust.TRUSTED
    assert trust((LINES[1],), certificate()) is Trust.CHANGED
    assert trust((f"@cert-authority {LINES[1]}",), certificate()) is Trust.UNKNOWN
    assert judge(parse_pins((LINES[0],)), certificate(), "a").key == LINES[0]


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 !!!", "@wrong ssh-ed25519 AAAA", "@revoked"])
def test_bad_lines_are_named(line: str) -> None:
    with pytest.raises(ValueError, match="no host key line"):
        parse_pins((line,))


def test_pinned_types_are_asked_for_first_and_all_others_after() -> None:
    plain = host_key_algorithms((), False)
    assert plain[0] == "ssh-ed25519"
    assert not [name for name in plain if "cert" in name or name == "ssh-rsa"]
    rsa = host_key_algorithms(("ssh-rsa", "ecdsa-sha2-nistp256"), False)
    assert rsa[:3] == ("rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256")
    assert set(rsa) == set(plain)
    both = host_key_algorithms(("ssh-ed25519",), True)
    assert both[0] == "ssh-ed25519-cert-v01@openssh.com"
    assert "ssh-ed25519" in both


@pytest.mark.parametrize(
    ("wanted", "first", "present", "absent"),
    [
        ("ssh-rsa,ssh-ed25519", "ssh-rsa", "ssh-ed25519", "rsa-sha2-512"),
        ("+ssh-rsa", "ssh-ed25519", "ssh-rsa", "sk-ssh-ed25519@openssh.com"),
        ("^ecdsa-*", "ecdsa-sha2-nistp256", "ssh-ed25519", "ssh-rsa"),
        ("-ecdsa-*,rsa-*", "ssh-ed25519", "ssh-ed25519", "ecdsa-sha2-nistp256"),
    ],
)
def test_host_key_algorithms_of_the_configuration(wanted: str, first: str, present: str, absent: str) -> None:
    names = host_key_algorithms((), False, wanted)
    assert names[0] == first
    assert present in names
    assert absent not in names


def test_no_algorithm_left() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        host_key_algorithms((), False, "ssh-dss")


def test_known_hosts_name() -> None:
    entry = HostEntry(name="n", address="h")
    assert known_hosts_name(entry) == "h"
    assert known_hosts_name(HostEntry(name="n", address="::1", port=2222)) == "[::1]:2222"
    assert known_hosts_name(HostEntry(name="n", address="h", port=2222, host_key_alias="alias")) == "alias"


def entry_in(path: Path) -> HostEntry:
    return HostEntry(name="n", address="h", known_hosts_file=str(path))


def test_recording_appends_a_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "known_hosts"
    for _ in range(2):
        record_host_key(entry_in(path), LINES[0])
    assert path.read_text() == f"h {LINES[0]}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("# no newline at the end")
    record_host_key(entry_in(path), LINES[0])
    assert path.read_text() == f"# no newline at the end\nh {LINES[0]}\n"


@pytest.mark.parametrize("hashed", [False, True])
def test_recording_never_adds_a_second_key_for_a_name(tmp_path: Path, hashed: bool) -> None:
    path = tmp_path / "known_hosts"
    salt = b"s" * 20
    digest = hmac.new(salt, b"h", hashlib.sha1).digest()
    name = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}" if hashed else "g,h"
    path.write_text(f"other {LINES[2]}\n{name} {LINES[0]} comment\n@cert-authority h {LINES[2]}\n|1|bad {LINES[2]}\n")
    before = path.read_text()
    record_host_key(entry_in(path), LINES[0])
    with pytest.raises(HostKeyNotRecorded, match="differs from the one"):
        record_host_key(entry_in(path), LINES[1])
    assert path.read_text() == before


def test_recording_says_why_it_can_not(tmp_path: Path) -> None:
    with pytest.raises(HostKeyNotRecorded, match="known_hosts_file"):
        record_host_key(HostEntry(name="n", address="h"), LINES[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(HostKeyNotRecorded, match="can't be recorded in"):
        record_host_key(entry_in(tmp_path / "file" / "below"), LINES[0])
