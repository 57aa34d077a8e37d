"""Private servers: found, started, refused with their own words, and never with the password in argv."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from plush_worker.store.address import Address
from plush_worker.store.errors import StoreUnavailable
from plush_worker.store.server import find_server, start_server, wheel_server
from plush_worker.store.wire import Wire

PROGRAMS = ["found", "wheel"]


def program_of(name: str) -> Path:
    return find_server() if name == "found" else wheel_server()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_server_is_private(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    password = "w \"\\ ' #\x01é"
    process = start_server(tmp_path, unix_socket=path, password=password, program=program_of(name))
    try:
        assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert b"requirepass" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert path.stat().st_mode & 0o777 == 0o700
        with Wire(Address(path=str(path), password=password)) as wire:
            assert wire.call("CONFIG", "GET", "maxmemory-policy")[1] == b"noeviction"
            assert wire.call("CONFIG", "GET", "port")[1] == b"0"
        with (
            Wire(Address(path=str(path))) as wire,
            pytest.raises(StoreUnavailable, match="put its password in the URL"),
        ):
            wire.call("PING")
    finally:
        process.terminate()
        process.wait(20)
    assert not path.exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_stored_is_there_again_with_an_append_only_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    for expected in (None, b"1"):
        process = start_server(tmp_path, unix_socket=path, appendonly=True, program=program_of(name))
        try:
            with Wire(Address(path=str(path))) as wire:
                assert wire.call("GET", "k") == expected
                wire.call("SET", "k", "1")
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("taken_by", ["a server", "anything"])
def test_a_port_in_use_is_told_in_the_servers_words(name: str, taken_by: str, tmp_path: Path) -> None:
    """Another user's server on that port would otherwise be taken for ours."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        if taken_by == "anything":
            taken.listen()
            with pytest.raises(StoreUnavailable, match=r"(?s)exit code 1; its log .* ends with: .*bind"):
                start_server(tmp_path, port=port, program=program_of(name))
            return
    folder = tmp_path / "other"
    folder.mkdir()
    other = start_server(folder, port=port, program=program_of(name))
    try:
        with pytest.raises(StoreUnavailable, match=r"(?s)exit code 1; its log .* ends with: .*bind"):
            start_server(tmp_path, port=port, program=program_of(name))
    finally:
        other.terminate()
        other.wait(20)


def test_a_socket_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="longer than 104 bytes"):
        start_server(tmp_path, unix_socket=tmp_path / ("x" * 104))
    with pytest.raises(ValueError, match="socket or a port"):
        start_server(tmp_path)


def test_without_a_server_on_path_the_wheels_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == wheel_server()
    assert wheel_server().name == "valkey-server"
