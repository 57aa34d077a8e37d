"""Jump hosts as written, and the words for failed logins by asyncssh."""

from __future__ import annotations

import errno

import asyncssh
import pytest

from plush_worker.mesh.asyncssh_errors import Progress, explain, link_error_of_loss
from plush_worker.mesh.first_link import LinkError, Tail
from plush_worker.mesh.jumps import jump_entries
from plush_worker.model import HostEntry
from plush_worker.node.limits import MAX_DETAIL_CHARS

ENTRY = HostEntry(name="box", address="10.0.0.1", port=2222, user="me", identity_files=("/k",))


def jumps_of(text: str) -> list[tuple[str, str, int]]:
    entry = HostEntry(name="n", address="a", proxy_jump=text, identity_files=("/k",), known_hosts=("x y",))
    found = jump_entries(entry)
    assert all(jump.identity_files == ("/k",) and not jump.known_hosts and not jump.proxy_jump for jump in found)
    return [(jump.user, jump.address, jump.port) for jump in found]


def test_jumps_as_written() -> None:
    assert jumps_of("") == jumps_of("none") == []
    assert jumps_of("h") == [("", "h", 22)]
    assert jumps_of("u@a:2200,b") == [("u", "a", 2200), ("", "b", 22)]
    assert jumps_of("ssh://u@[::1]:2200/, ::1") == [("u", "::1", 2200), ("", "::1", 22)]


@pytest.mark.parametrize("text", [",", "a,,b", "u@", "h:port"])
def test_bad_jumps_are_named(text: str) -> None:
    with pytest.raises(LinkError, match="is no"):
        jumps_of(text)


def test_resolved_jumps_win() -> None:
    hop = HostEntry(name="j", address="b", tags=("t",))
    assert jump_entries(HostEntry(name="n", address="a", proxy_jump="x", jumps=(hop.to_json(),))) == (hop,)


def code_of(error: Exception, **progress: object) -> str:
    return explain(error, ENTRY, Progress(**progress), 10).code  # type: ignore[arg-type]


def test_codes() -> None:
    lost = asyncssh.ConnectionLost("Connection lost")
    assert code_of(TimeoutError()) == "timeout"
    assert code_of(TimeoutError(), connected=True, banner=True, key_exchanged=True) == "timeout"
    assert code_of(lost, connected=True) == "eof"
    assert code_of(lost, connected=True, banner=True, key_exchanged=True) == "eof"
    assert code_of(OSError(errno.EHOSTUNREACH, "No route to host")) == "unreachable"
    assert code_of(OSError(errno.EMFILE, "Too many open files")) == "limit"
    assert code_of(asyncssh.KeyExchangeFailed("No matching encryption algorithm found")) == "protocol"
    assert code_of(asyncssh.KeyExchangeFailed("No matching host key algorithm found")) == "host_key"
    assert code_of(asyncssh.DisconnectError(2, "Too many authentication failures")) == "auth"
    assert code_of(asyncssh.ProtocolError("Banner line too long"), connected=True) == "protocol"
    assert code_of(asyncssh.DisconnectError(11, "go away"), connected=True, banner=True) == "eof"
    assert code_of(ValueError("odd")) == "protocol"


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (2, "Connection refused", "refused"),
        (2, "Connection timed out", "timeout"),
        (2, "Name or service not known", "name"),
        (2, "", "unreachable"),
        (1, "open failed", "unreachable"),
    ],
)
def test_what_a_jump_host_answers(code: int, reason: str, expected: str) -> None:
    error = explain(asyncssh.ChannelOpenError(code, reason), ENTRY, Progress(through_tunnel=True), 10)
    assert error.code == expected
    assert "jump host" in error.detail


def test_messages_are_bounded_and_orderly_ends_are_no_errors() -> None:
    assert len(LinkError("eof", "x" * 10_000).detail) == MAX_DETAIL_CHARS
    assert link_error_of_loss(None, "noise") is None
    lost = link_error_of_loss(asyncssh.ConnectionLost("gone"), "last words\n")
    assert lost is not None
    assert lost.code == "eof"
    assert "last words" in lost.detail


def test_tail_keeps_the_last_bytes_only() -> None:
    tail = Tail(limit_bytes=10)
    for number in range(1000):
        tail.add(b"%d," % number)
    assert tail.text() == "7,998,999,"
    tail.add(b"\xff")
    assert tail.text().endswith("�")
