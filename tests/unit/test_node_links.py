"""What a node program makes of an ssh: its arguments, the keys it may accept, and why it ended."""

from __future__ import annotations

import itertools

import pytest

from plush_worker.node.bootstrap import command_line
from plush_worker.node.links import classify, known_hosts, ssh_arguments
from plush_worker.node.routing import Child


def child(address: str = "node7.example", user: str = "", port: int = 2222) -> Child:
    return Child([7, 0, "node7", address, port, user, b"", 0], 1, None)


def arguments(target: Child, options: list[str] | None = None, alias: str = "plush-7") -> list[str]:
    found: list[str] = ssh_arguments(target, options or [], alias, "/tmp/a b%/kh-7", 10)
    return found


def settings(words: list[str]) -> dict[str, str]:
    """Option -> its first value, which is the one that ssh takes."""
    found: dict[str, str] = {}
    for flag, word in itertools.pairwise(words):
        if flag == "-o":
            name, _, value = word.partition("=")
            found.setdefault(name, value)
    return found


def test_arguments_pin_the_host_key_and_ask_nobody() -> None:
    words = arguments(child(user="me"))
    found = settings(words)
    assert words[:4] == ["ssh", "-T", "-p", "2222"]
    assert words[-3:] == ["--", "me@node7.example", command_line()]
    assert found["BatchMode"] == "yes"
    assert found["StrictHostKeyChecking"] == "yes"
    assert found["UserKnownHostsFile"] == '"/tmp/a b%%/kh-7"'
    assert found["GlobalKnownHostsFile"] == "/dev/null"
    assert found["HostKeyAlias"] == "plush-7"
    assert found["ControlPath"] == "none"
    assert found["ConnectTimeout"] == "10"


def test_options_of_the_order_win_except_over_how_the_host_is_checked() -> None:
    found = settings(arguments(child(), ["-o", "ConnectTimeout=3", "-o", "StrictHostKeyChecking=no", "-A"]))
    assert found["ConnectTimeout"] == "3"
    assert found["StrictHostKeyChecking"] == "yes"


def test_without_user_and_alias() -> None:
    words = arguments(child("fe80::1"), alias="")
    assert words[-2] == "fe80::1"
    assert "HostKeyAlias" not in settings(words)


@pytest.mark.parametrize(
    ("address", "user"), [("-oProxyCommand=x", ""), ("host", "-oProxyCommand=x"), ("a b", ""), ("", ""), ("h", "a\nb")]
)
def test_an_address_that_ssh_would_take_for_something_else_is_refused(address: str, user: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        arguments(child(address, user))


def test_known_hosts_are_for_the_alias() -> None:
    text, alias = known_hosts(7, b"ssh-ed25519 AAAA comment\n\necdsa BBBB\n@revoked ssh-rsa CCCC\n")
    assert text == b"plush-7 ssh-ed25519 AAAA\nplush-7 ecdsa BBBB\n@revoked * ssh-rsa CCCC\n"
    assert alias == "plush-7"


def test_an_authority_is_checked_against_the_address() -> None:
    text, alias = known_hosts(7, b"@cert-authority ssh-ed25519 AAAA\nssh-ed25519 BBBB")
    assert text == b"@cert-authority * ssh-ed25519 AAAA\n* ssh-ed25519 BBBB\n"
    assert alias == ""


def test_no_keys_accept_nothing() -> None:
    assert known_hosts(7, b"") == (b"", "plush-7")


@pytest.mark.parametrize(
    ("printed", "code"),
    [
        ("ssh: Could not resolve hostname nowhere: Name or service not known", "name"),
        ("ssh: connect to host h port 22: Connection refused", "refused"),
        ("ssh: connect to host h port 22: Connection timed out", "timeout"),
        ("Connection timed out during banner exchange", "timeout"),
        ("ssh: connect to host h port 22: No route to host", "unreachable"),
        ("ssh: connect to host h port 22: Network is unreachable", "unreachable"),
        ("me@h: Permission denied (publickey).", "auth"),
        ("Received disconnect from h: Too many authentication failures", "auth"),
        ("No ED25519 host key is known for plush-7 and you have requested strict checking.", "host_key"),
        ("Host key verification failed.", "host_key"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", "host_key"),
        ("kex_exchange_identification: Connection closed by remote host", "refused"),
        ("kex_exchange_identification: read: Connection reset by peer", "refused"),
        ("cannot run ssh: No such file or directory", "no_ssh"),
        ("something new", "bootstrap"),
    ],
)  # fmt: skip
def test_ends_are_classified(printed: str, code: str) -> None:
    assert classify(printed) == code
