"""Which known_hosts lines speak for a host: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT."""

from __future__ import annotations

import base64
import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.experiment.known_hosts import KnownHosts


def key(number: int, key_type: str = "ssh-ed25519") -> str:
    blob = len(key_type).to_bytes(4, "big") + key_type.encode() + (32).to_bytes(4, "big") + bytes([number]) * 32
    return f"{key_type} {base64.b64encode(blob).decode()}"


def hashed(name: str, salt: bytes = b"s" * 20) -> str:
    digest = hmac.digest(salt, name.encode(), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def known(*lines: str) -> KnownHosts:
    result = KnownHosts()
    result.add("\n".join(lines))
    return result


def test_plain_names_in_any_case_with_all_their_keys() -> None:
    hosts = known(f"a,B.example {key(1)} comment", f"other {key(2)}", f"A {key(3, 'ssh-rsa')}", f"a {key(1)}")
    assert hosts.lines_for("a") == (key(1), key(3, "ssh-rsa"))
    assert hosts.lines_for("b.EXAMPLE") == (key(1),)
    assert hosts.lines_for("c") == ()


def test_hashed_names() -> None:
    hosts = known(f"{hashed('a')} {key(1)}", f"{hashed('[a]:2222', b'x' * 20)} {key(2)}", f"{hashed('b')} {key(3)}")
    assert hosts.lines_for("A") == (key(1),)
    assert hosts.lines_for("a", 2222) == (key(2),)


def test_wildcards_and_negation() -> None:
    hosts = known(f"*.example.org,!bad.example.org {key(1)}", f"node? {key(2)}", f"10.0.*.1 {key(3)}")
    assert hosts.lines_for("x.example.org") == (key(1),)
    assert hosts.lines_for("bad.example.org") == ()
    assert hosts.lines_for("node7") == (key(2),)
    assert hosts.lines_for("node77") == ()
    assert hosts.lines_for("10.0.2.1") == (key(3),)
    assert hosts.lines_for("10x0.2.1") == ()


def test_ports_and_the_fall_back_to_the_plain_name() -> None:
    hosts = known(f"[a]:2222 {key(1)}", f"a,b {key(2)}", f"@revoked [b]:2222 {key(3)}")
    assert hosts.lines_for("a", 2222) == (key(1),), "the line for the port alone"
    assert hosts.lines_for("a", 2223) == (key(2),), "no line for the port: the plain name's, as ssh does"
    assert hosts.lines_for("a") == (key(2),)
    assert hosts.lines_for("b", 2222) == (key(2), "@revoked " + key(3)), "a revocation isn't a key to go by"


def test_markers() -> None:
    hosts = known(f"@cert-authority *.x {key(1)} ca", f"@revoked * {key(2)}", f"@other a.x {key(3)}", f"a.x {key(4)}")
    assert hosts.lines_for("a.x") == ("@cert-authority " + key(1), "@revoked " + key(2), key(4))


def test_an_alias_replaces_name_and_port() -> None:
    hosts = known(f"a {key(1)}", f"alias {key(2)}")
    assert hosts.lines_for("a", 2222, "Alias") == (key(2),)


def test_bad_lines_are_skipped() -> None:
    hosts = known(
        "", "#a " + key(1), "a", "a ssh-ed25519", "a ssh-ed25519 !!!!", "a ssh-rsa " + key(1).split()[1],
        "a 1024 35 1234567", "|1|x|y " + key(2), "|2|eA==|eA== " + key(2), "@revoked a ssh-ed25519", f"a {key(9)}\r",
    )  # fmt: skip
    assert hosts.lines_for("a") == (key(9),)


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    known(text).lines_for("a", 22)
    known(f"{text} {key(1)}").lines_for("a", 2222)


def test_files_that_cannot_be_read_are_as_if_empty(tmp_path: object) -> None:
    assert KnownHosts.read([str(tmp_path), "/no/such/file"]).lines_for("a") == ()


def test_hashing_is_what_openssh_does() -> None:
    """HMAC-SHA1 with the salt as its key; ssh-keygen -H is tried in the integration tests."""
    salt = b"0" * 20
    inner = hashlib.sha1(bytes(b ^ 0x36 for b in salt.ljust(64, b"\0")) + b"a").digest()
    outer = hashlib.sha1(bytes(b ^ 0x5C for b in salt.ljust(64, b"\0")) + inner).digest()
    line = f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(outer).decode()} {key(1)}"
    assert known(line).lines_for("a") == (key(1),)
