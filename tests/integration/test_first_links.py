"""A worker's own links against real sshd: every way in, every way to fail, flow control."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plush_worker.mesh.asyncssh_connection import Connections
from plush_worker.mesh.asyncssh_link import AsyncsshLink
from plush_worker.mesh.first_link import FirstLink, LinkError, open_first_link
from plush_worker.mesh.host_keys import record_host_key
from plush_worker.model import HostEntry, SliceSettings
from tests.integration.ssh_servers import (
    SshServer,
    free_port,
    make_key,
    public_line,
    sign_key,
    ssh_agent,
    ssh_server,
    wait_until,
)

SETTINGS = SliceSettings(connect_timeout_s=10)
HASTY = SliceSettings(connect_timeout_s=1)


class Collector:
    """A LinkHandler that keeps everything."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.ended: asyncio.Future[LinkError | None] = asyncio.get_running_loop().create_future()
        self.may_write = asyncio.Event()
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, error: LinkError | None) -> None:
        assert not self.ended.done(), "told twice"
        self.ended.set_result(error)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  # conditions of other processes
            await asyncio.sleep(0.02)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 50))


def entry_of(server: SshServer, **fields: Any) -> HostEntry:
    known = {
        "name": "h1",
        "address": server.address,
        "port": server.port,
        "user": server.user,
        "known_hosts": server.known_hosts,
        "identity_files": (str(server.client_key),),
        "identity_agent": "none",
        "known_hosts_file": str(server.folder / "known_hosts"),
    }
    return HostEntry(**{**known, **fields})


async def output_of(
    entry: HostEntry, command: str = "echo hello", settings: SliceSettings = SETTINGS
) -> tuple[bytes, FirstLink]:
    handler = Collector()
    link = await open_first_link(entry, settings, command, handler, host_key_recorder=record_host_key)
    assert await handler.ended is None
    await link.wait_closed()
    return bytes(handler.data), link


def failure_of(entry: HostEntry, settings: SliceSettings = SETTINGS) -> LinkError:
    with pytest.raises(LinkError) as caught:
        run(output_of(entry, settings=settings))
    return caught.value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server"), "127.0.0.7") as running:
        yield running


def test_runs_a_command_and_gives_its_output_and_stderr(server: SshServer) -> None:
    data, link = run(output_of(entry_of(server), "echo hello; echo oops >&2"))
    assert data == b"hello\n"
    assert link.stderr_tail() == "oops\n"
    assert link.host_key == public_line(server.host_key)


def test_many_bytes_go_both_ways_unharmed(server: SshServer) -> None:
    sent = bytes(range(256)) * 4096

    async def echo() -> bytes:
        handler = Collector()
        link = await open_first_link(entry_of(server), SETTINGS, "cat", handler, host_key_recorder=record_host_key)
        for start in range(0, len(sent), 30_000):
            await handler.may_write.wait()
            link.write(sent[start : start + 30_000])
        await _until(lambda: len(handler.data) >= len(sent))
        link.close()
        assert await handler.ended is None
        await link.wait_closed()
        return bytes(handler.data)

    assert run(echo()) == sent


def test_what_was_written_goes_out_before_close(server: SshServer, tmp_path: Path) -> None:
    async def write_and_close() -> None:
        handler = Collector()
        command = f"echo up; cat > {tmp_path}/got; mv {tmp_path}/got {tmp_path}/all"
        link = await open_first_link(entry_of(server), SETTINGS, command, handler, host_key_recorder=record_host_key)
        await _until(lambda: handler.data)
        link.write(b"x" * 1_000_000)
        link.close()
        assert await handler.ended is None
        await link.wait_closed()

    run(write_and_close())
    wait_until((tmp_path / "all").exists, "the command has read its stdin to the end")
    assert (tmp_path / "all").stat().st_size == 1_000_000


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
def test_close_does_not_wait_for_a_command_that_goes_on(server: SshServer, first_link: str) -> None:
    async def close() -> int:
        handler = Collector()
        settings = replace(SETTINGS, first_link=first_link)
        link = await open_first_link(
            entry_of(server), settings, "echo $$; exec sleep 60", handler, host_key_recorder=record_host_key
        )
        await _until(lambda: handler.data.endswith(b"\n"))
        async with asyncio.timeout(8):
            link.close()
            assert await handler.ended is None
            await link.wait_closed()
        link.write(b"dropped")
        link.close()
        return int(handler.data)

    os.kill(run(close()), signal.SIGKILL)
    assert not [pid for pid in _running(str(server.port)) if _name_of(pid) == "ssh"]


def test_a_killed_connection_is_an_error(server: SshServer) -> None:
    async def kill() -> LinkError | None:
        handler = Collector()
        command = "echo $PPID $$; exec sleep 60"
        await open_first_link(entry_of(server), SETTINGS, command, handler, host_key_recorder=record_host_key)
        await _until(lambda: handler.data.endswith(b"\n"))
        async with asyncio.timeout(5):
            for pid in handler.data.split():
                os.kill(int(pid), signal.SIGKILL)
            return await handler.ended

    error = run(kill())
    assert error is not None
    assert error.code == "eof"


def test_new_session_keys_while_data_flows_both_ways(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "server", RekeyLimit="1M") as server:
        entry = entry_of(server, known_hosts=(), accept_new=True)
        sent = os.urandom(1 << 16) * 160

        async def echo() -> bytes:
            handler = Collector()
            link = await open_first_link(entry, SETTINGS, "cat", handler, host_key_recorder=record_host_key)
            for start in range(0, len(sent), 1 << 16):
                await handler.may_write.wait()
                link.write(sent[start : start + (1 << 16)])
            await _until(lambda: len(handler.data) >= len(sent))
            link.close()
            await handler.ended
            await link.wait_closed()
            return bytes(handler.data)

        assert run(echo()) == sent


# ---- ways to fail


def test_refused(server: SshServer) -> None:
    port = free_port(server.address)
    error = failure_of(entry_of(server, port=port))
    assert error.code == "refused"
    assert f"{server.address} port {port}" in error.detail
    assert error.retryable


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.9\r\n"], ids=["no banner", "only a banner"])
def test_half_open_connection_times_out(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.7", 0)) as listener, ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(listener.accept)
        pool.submit(lambda: accepted.result(20)[0].sendall(greeting))
        entry = HostEntry(name="h1", address="127.0.0.7", port=listener.getsockname()[1], identity_agent="none")
        error = failure_of(entry, HASTY)
        accepted.result(5)[0].close()
    assert error.code == "timeout"
    assert ("key exchange" if greeting else "no SSH banner") in error.detail
    assert "within 1 s" in error.detail


def test_a_server_that_hangs_up_is_quoted() -> None:
    with socket.create_server(("127.0.0.7", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def turn_away() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"Not allowed at this time\r\n")
            connection.close()

        pool.submit(turn_away)
        entry = HostEntry(name="h1", address="127.0.0.7", port=listener.getsockname()[1], identity_agent="none")
        error = failure_of(entry)
    assert error.code == "eof"
    assert "Not allowed at this time" in error.detail
    assert "PerSourcePenalties" in error.detail


def test_something_that_is_no_ssh_server() -> None:
    with socket.create_server(("127.0.0.7", 0)) as listener, ThreadPoolExecutor(1) as pool:

        def talk() -> None:
            connection, _ = listener.accept()
            connection.sendall(b"SSH-1.5-old\r\n")
            connection.recv(100)
            connection.close()

        pool.submit(talk)
        entry = HostEntry(name="h1", address="127.0.0.7", port=listener.getsockname()[1], identity_agent="none")
        error = failure_of(entry)
    assert error.code == "protocol"
    assert "no SSH 2 server" in error.detail


def test_name_that_does_not_resolve(server: SshServer) -> None:
    error = failure_of(entry_of(server, address="no-such-host.invalid"))
    assert error.code == "name"
    assert "no-such-host.invalid" in error.detail


def test_command_is_quoted_to_the_login_shell_as_it_is(server: SshServer) -> None:
    data, _ = run(output_of(entry_of(server), "printf '%s' \"a'b\"; exit 3"))
    assert data == b"a'b"


# ---- host keys


def test_unknown_key_is_refused_and_says_how_to_trust_it(server: SshServer) -> None:
    error = failure_of(entry_of(server, known_hosts=()))
    assert error.code == "host_key"
    assert "plush hosts trust -w h1" in error.detail
    assert "SHA256:" in error.detail
    assert not error.retryable


@pytest.mark.parametrize("accept_new", [False, True])
@pytest.mark.parametrize("kind", ["ed25519", "rsa"], ids=["same type", "other type"])
def test_changed_key_is_never_accepted(server: SshServer, tmp_path: Path, kind: str, accept_new: bool) -> None:
    other = public_line(make_key(tmp_path / "other", kind))
    error = failure_of(entry_of(server, known_hosts=(other,), accept_new=accept_new))
    assert error.code == "host_key"
    assert "is not the one on record" in error.detail
    assert not (server.folder / "known_hosts").exists()


def test_revoked_key(server: SshServer) -> None:
    line = public_line(server.host_key)
    error = failure_of(entry_of(server, known_hosts=(line, f"@revoked {line}"), accept_new=True))
    assert error.code == "host_key"
    assert "@revoked" in error.detail


def test_accept_new_records_the_key_once(server: SshServer, tmp_path: Path) -> None:
    path = tmp_path / "new" / "known_hosts"
    entry = entry_of(server, known_hosts=(), accept_new=True, known_hosts_file=str(path))

    async def several() -> None:
        await asyncio.gather(*(output_of(entry) for _ in range(5)))

    run(several())
    assert path.read_text() == f"[{server.address}]:{server.port} {public_line(server.host_key)}\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_accept_new_is_refused_when_the_file_has_another_key_by_now(server: SshServer, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    other = public_line(make_key(tmp_path / "other"))
    path.write_text(f"[{server.address}]:{server.port} {other}\n")
    error = failure_of(entry_of(server, known_hosts=(), accept_new=True, known_hosts_file=str(path)))
    assert error.code == "host_key"
    assert "differs from the one" in error.detail
    assert path.read_text().count("\n") == 1


def test_accept_new_without_a_place_to_record_is_refused(server: SshServer) -> None:
    error = failure_of(entry_of(server, known_hosts=(), accept_new=True, known_hosts_file=""))
    assert error.code == "host_key"
    assert "known_hosts_file" in error.detail


@pytest.fixture
def certified(tmp_path: Path) -> Iterator[tuple[SshServer, str]]:
    """A server with a host certificate, and the line that trusts its authority."""
    authority = make_key(tmp_path / "authority")
    folder = tmp_path / "server"
    host_key = make_key(folder / "certified_key")
    names = "*.example.org,127.0.0.7"
    certificate = sign_key(authority, host_key.with_name("certified_key.pub"), "-h", "-n", names)
    with ssh_server(folder, "127.0.0.7", HostCertificate=str(certificate), HostKey=str(host_key)) as running:
        running.host_key = host_key
        yield running, f"@cert-authority {public_line(authority)}"


def test_host_certificate(certified: tuple[SshServer, str], tmp_path: Path) -> None:
    server, authority = certified
    data, link = run(output_of(entry_of(server, known_hosts=(authority,))))
    assert data == b"hello\n"
    assert link.host_key == public_line(server.host_key)
    alias = entry_of(server, known_hosts=(authority,), host_key_alias="a.example.org")
    assert run(output_of(alias))[0] == b"hello\n"
    stale = public_line(make_key(tmp_path / "stale"))
    assert run(output_of(entry_of(server, known_hosts=(stale, authority))))[0] == b"hello\n"


def test_host_certificate_for_another_name(certified: tuple[SshServer, str]) -> None:
    server, authority = certified
    error = failure_of(entry_of(server, known_hosts=(authority,), host_key_alias="a.example.com", accept_new=True))
    assert error.code == "host_key"
    assert "not for a.example.com" in error.detail


def test_host_certificate_of_another_authority(certified: tuple[SshServer, str], tmp_path: Path) -> None:
    server, _ = certified
    other = f"@cert-authority {public_line(make_key(tmp_path / 'other'))}"
    assert failure_of(entry_of(server, known_hosts=(other,))).code == "host_key"
    pinned = entry_of(server, known_hosts=(other, public_line(server.host_key)))
    assert run(output_of(pinned))[0] == b"hello\n"


# ---- login


def test_wrong_client_key_names_what_was_offered(server: SshServer, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    error = failure_of(entry_of(server, identity_files=(str(wrong), str(tmp_path / "missing"))))
    assert error.code == "auth"
    assert str(wrong) in error.detail
    assert "missing: no such file" in error.detail
    assert "The server takes publickey" in error.detail


def test_encrypted_key_without_agent_is_named(server: SshServer, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret")
    error = failure_of(entry_of(server, identity_files=(str(locked),)))
    assert error.code == "auth"
    assert f"ssh-add {locked}" in error.detail


def test_rsa_client_key(server: SshServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "rsa", "rsa")
    with server.authorized_keys.open("a") as file:
        file.write(public_line(key) + "\n")
    assert run(output_of(entry_of(server, identity_files=(str(key),))))[0] == b"hello\n"


@pytest.mark.parametrize("by_agent", [False, True])
def test_user_certificate(tmp_path: Path, by_agent: bool) -> None:
    authority = make_key(tmp_path / "authority")
    key = make_key(tmp_path / "key")
    with ssh_server(tmp_path / "server", TrustedUserCAKeys=f"{authority}.pub") as server:
        certificate = sign_key(authority, tmp_path / "key.pub", "-n", server.user)
        beside = entry_of(server, identity_files=(str(key),))
        elsewhere = certificate.rename(tmp_path / "mine-cert.pub")
        named = replace(beside, certificate_files=(str(elsewhere),))
        assert failure_of(beside).code == "auth"
        if by_agent:
            with ssh_agent(tmp_path / "agent", key) as agent:
                key.unlink()
                assert run(output_of(replace(named, identity_agent=agent)))[0] == b"hello\n"
        else:
            assert run(output_of(named))[0] == b"hello\n"
            elsewhere.rename(certificate)
            assert run(output_of(beside))[0] == b"hello\n"


def test_agent(server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [make_key(tmp_path / f"other{i}") for i in range(7)]
    key = server.client_key
    with ssh_agent(tmp_path / "agent", *others, key) as agent:
        public_only = tmp_path / "id"
        public_only.with_name("id.pub").write_text(key.with_name("client_key.pub").read_text())
        entry = entry_of(server, identity_agent=agent, identity_files=(str(public_only),))
        # The named key goes first: sshd would end the login after six others.
        assert run(output_of(entry))[0] == b"hello\n"
        assert run(output_of(replace(entry, identities_only=True)))[0] == b"hello\n"
        error = failure_of(replace(entry, identity_files=()))
        assert error.code == "auth"
        assert "agent key other0" in error.detail
        monkeypatch.setenv("SSH_AUTH_SOCK", agent)
        assert run(output_of(replace(entry, identity_agent="")))[0] == b"hello\n"
        assert failure_of(replace(entry, identity_agent="none")).code == "auth"


def test_encrypted_key_in_the_agent(server: SshServer, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret")
    plain = tmp_path / "plain"
    plain.write_bytes(locked.read_bytes())
    plain.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "secret", "-N", "", "-f", str(plain)], check=True)
    with server.authorized_keys.open("a") as file:
        file.write(public_line(locked) + "\n")
    locked.with_name("locked.pub").unlink()
    with ssh_agent(tmp_path / "agent", plain) as agent:
        entry = entry_of(server, identity_agent=agent, identity_files=(str(locked),), identities_only=True)
        assert run(output_of(entry))[0] == b"hello\n"


def test_agent_that_is_gone_is_named(server: SshServer, tmp_path: Path) -> None:
    entry = entry_of(server, identity_agent=str(tmp_path / "gone"), identity_files=())
    error = failure_of(entry)
    assert error.code == "auth"
    assert str(tmp_path / "gone") in error.detail


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
def test_agent_forwarding_reaches_the_command(server: SshServer, tmp_path: Path, first_link: str) -> None:
    with ssh_agent(tmp_path / "agent", server.client_key) as agent:
        entry = entry_of(server, identity_agent=agent, identity_files=())
        settings = replace(SETTINGS, first_link=first_link)
        command = 'test -n "$SSH_AUTH_SOCK" && ssh-add -l || echo none'
        assert run(output_of(entry, command, settings))[0] == b"none\n"
        forwarding = replace(settings, inner_login="agent")
        assert b"client_key" in run(output_of(entry, command, forwarding))[0]
        assert b"client_key" in run(output_of(replace(entry, forward_agent=True), command, settings))[0]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("password", {"PasswordAuthentication": "yes"}),
        ("keyboard-interactive", {"KbdInteractiveAuthentication": "yes", "UsePAM": "yes"}),
    ],
)
def test_servers_that_ask_questions_are_refused_naming_the_setting(
    tmp_path: Path, method: str, options: dict[str, str]
) -> None:
    with ssh_server(tmp_path / "server", PubkeyAuthentication="no", **options) as server:
        error = failure_of(entry_of(server))
    assert error.code == "auth"
    assert f"takes only {method}" in error.detail
    assert "first_link: openssh" in error.detail


def test_second_factor_after_the_key_is_refused_naming_the_setting(tmp_path: Path) -> None:
    options = {"AuthenticationMethods": "publickey,password", "PasswordAuthentication": "yes"}
    with ssh_server(tmp_path / "server", **options) as server:
        error = failure_of(entry_of(server))
    assert error.code == "auth"
    assert "first_link: openssh" in error.detail


# ---- ways in


def test_ipv6(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "server", "::1") as server:
        assert run(output_of(entry_of(server)))[0] == b"hello\n"
        assert run(output_of(entry_of(server, address_family="inet6")))[0] == b"hello\n"
        assert failure_of(entry_of(server, address_family="inet")).code == "name"


def test_jump_hosts_share_one_connection(server: SshServer, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "jump", "127.0.0.8") as jump, ssh_server(tmp_path / "second", "127.0.0.9") as second:
        first_hop = entry_of(jump, name="jump").to_json()
        second_hop = entry_of(second, name="second").to_json()
        entry = entry_of(server, jumps=(first_hop, second_hop))

        async def several() -> list[bytes]:
            results = await asyncio.gather(*(output_of(entry, "echo $SSH_CONNECTION") for _ in range(4)))
            connections = Connections.of_loop()
            await _until(lambda: connections.jump_count() == 0)
            return [data for data, _ in results]

        assert all(line.split()[2] == b"127.0.0.7" for line in run(several()))
        assert jump.log.read_text().count("Accepted publickey") == 1
        assert second.log.read_text().count("Accepted publickey") == 1


def test_jump_host_as_written_uses_the_entrys_keys_but_knows_no_host_key(server: SshServer) -> None:
    error = failure_of(entry_of(server, proxy_jump=f"{server.user}@{server.address}:{server.port}"))
    assert error.code == "host_key"
    assert error.detail.startswith(f"jump host {server.address}: ")
    assert f"trust -w {server.address}" in error.detail


def test_failures_at_and_behind_a_jump_host(server: SshServer, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "jump", "127.0.0.8") as jump:
        hop = entry_of(jump, name="bastion")
        through = {"jumps": (hop.to_json(),)}
        refused = failure_of(entry_of(server, port=free_port(server.address), **through))
        assert refused.code in ("refused", "unreachable")
        assert "jump host" in refused.detail
        denied = failure_of(entry_of(server, jumps=(replace(hop, identity_files=()).to_json(),)))
        assert denied.code == "auth"
        assert denied.detail.startswith("jump host bastion: ")
        assert failure_of(entry_of(server, known_hosts=(), **through)).code == "host_key"
    error = failure_of(entry_of(server, **through))
    assert error.code == "refused"
    assert "jump host bastion" in error.detail


def test_jump_host_that_forwards_nothing(server: SshServer, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "jump", "127.0.0.8", AllowTcpForwarding="no") as jump:
        error = failure_of(entry_of(server, jumps=(entry_of(jump, name="bastion").to_json(),)))
    assert error.code == "unreachable"
    assert "AllowTcpForwarding" in error.detail


_RELAY = """
import os, select, socket, sys
sys.stderr.write("relay speaking\\n"); sys.stderr.flush()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for f in select.select([0, s], [], [])[0]:
        data = os.read(0, 65536) if f == 0 else s.recv(65536)
        if not data:
            sys.exit()
        s.sendall(data) if f == 0 else os.write(1, data)
"""


def test_proxy_command(server: SshServer, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(_RELAY)
    entry = entry_of(server, proxy_command=f"{sys.executable} {relay} %h %p")
    assert run(output_of(entry))[0] == b"hello\n"
    assert _running(str(relay)) == []


@pytest.mark.parametrize("command", ["echo some trouble >&2; exit 1", "exec sleep 62"])
def test_proxy_command_that_fails(server: SshServer, command: str) -> None:
    started_s = time.monotonic()
    error = failure_of(entry_of(server, proxy_command=f"sh -c '{command}' proxy-of-test"), HASTY)
    assert time.monotonic() - started_s < 10
    if "trouble" in command:
        assert error.code == "eof"
        assert "some trouble" in error.detail
    else:
        assert error.code == "timeout"
    assert not _running("sleep 62")


def _running(words: str) -> list[int]:
    """Processes of ours, or orphans of ours, with these words on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if words in line and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


# ---- flow control


def held_bytes(link: AsyncsshLink) -> int:
    """What waits in the link and in asyncssh for a handler that has paused."""
    waiting = link._channel._recv_buf if link._channel is not None else []
    return sum(map(len, link._undelivered)) + sum(len(data) for data, _ in waiting)


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
def test_pausing_holds_the_host_back(server: SshServer, first_link: str) -> None:
    """A reader that takes one piece at a time must not let the rest pile up here."""
    total = 64 << 20

    class Slow(Collector):
        link: FirstLink
        taken = 0
        worst_bytes = 0

        def data_received(self, data: bytes) -> None:
            self.taken += len(data)
            self.link.pause_reading()
            asyncio.get_running_loop().call_soon(self._look)

        def _look(self) -> None:
            if isinstance(self.link, AsyncsshLink):
                self.worst_bytes = max(self.worst_bytes, held_bytes(self.link))
            self.link.resume_reading()

    async def read() -> Slow:
        handler = Slow()
        settings = replace(SETTINGS, first_link=first_link)
        command = f"sleep 0.3; head -c {total} /dev/zero"
        handler.link = await open_first_link(
            entry_of(server), settings, command, handler, host_key_recorder=record_host_key
        )
        assert await handler.ended is None
        await handler.link.wait_closed()
        return handler

    handler = run(read())
    assert handler.taken == total
    assert handler.worst_bytes < 6 << 20


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
def test_a_paused_link_takes_no_more_than_its_window(server: SshServer, tmp_path: Path, first_link: str) -> None:
    count = tmp_path / "count"

    async def stall() -> None:
        handler = Collector()
        settings = replace(SETTINGS, first_link=first_link)
        command = f'python3 -c \'import os\nwhile 1: n=os.write(1,bytes(65536)); open("{count}","ab").write(bytes(1))\''
        link = await open_first_link(entry_of(server), settings, command, handler, host_key_recorder=record_host_key)
        link.pause_reading()
        settled, last = 0, -1
        async with asyncio.timeout(20):
            while settled < 20:
                size = count.stat().st_size if count.exists() else 0
                settled = settled + 1 if size == last and size > 0 else 0
                last = size
                await asyncio.sleep(0.02)
        assert last * 65536 < 16 << 20
        assert len(handler.data) < 16 << 20
        link.close()
        await handler.ended
        await link.wait_closed()

    run(stall())


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
def test_writing_faster_than_the_host_reads_is_told(server: SshServer, first_link: str) -> None:
    async def write() -> None:
        handler = Collector()
        settings = replace(SETTINGS, first_link=first_link)
        link = await open_first_link(
            entry_of(server), settings, "sleep 0.5; wc -c", handler, host_key_recorder=record_host_key
        )
        sent = 0
        while handler.may_write.is_set():
            link.write(bytes(65536))
            sent += 65536
            assert sent < 64 << 20, "never told to pause"
            await asyncio.sleep(0)
        await asyncio.wait_for(handler.may_write.wait(), 20)
        link.close()
        await handler.ended
        await link.wait_closed()

    run(write())


# ---- the user's own ssh

OPENSSH = replace(SETTINGS, first_link="openssh")


def test_openssh_runs_a_command(server: SshServer) -> None:
    data, link = run(output_of(entry_of(server), "echo hello; echo oops >&2; exit 4", OPENSSH))
    assert data == b"hello\n"
    assert link.stderr_tail() == "oops\n"


def test_openssh_command_that_ends_with_255_is_no_failure_of_the_link(server: SshServer) -> None:
    assert run(output_of(entry_of(server), "echo hello; exit 255", OPENSSH))[0] == b"hello\n"


def test_openssh_failures(server: SshServer, tmp_path: Path) -> None:
    port = free_port(server.address)
    other = public_line(make_key(tmp_path / "other"))
    wrong = make_key(tmp_path / "wrong")
    cases = {
        "refused": {"port": port},
        "name": {"address": "no-such-host.invalid"},
        "host_key": {"known_hosts": (other,), "accept_new": True},
        "auth": {"identity_files": (str(wrong),), "identities_only": True},
    }
    for code, fields in cases.items():
        error = failure_of(entry_of(server, **fields), OPENSSH)
        assert error.code == code, error.detail
    assert "plush hosts trust -w h1" in failure_of(entry_of(server, known_hosts=(other,)), OPENSSH).detail
    missing = str(tmp_path / "none")
    unknown = failure_of(entry_of(server, known_hosts=(), known_hosts_file=missing), OPENSSH)
    assert unknown.code == "host_key"


def test_openssh_half_open_connection_times_out() -> None:
    with socket.create_server(("127.0.0.7", 0)) as listener:
        entry = HostEntry(name="h1", address="127.0.0.7", port=listener.getsockname()[1], identity_agent="none")
        error = failure_of(entry, replace(HASTY, first_link="openssh"))
    assert error.code == "timeout"


def test_openssh_accept_new_records(server: SshServer, tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    entry = entry_of(server, known_hosts=(), accept_new=True, known_hosts_file=str(path))
    assert run(output_of(entry, settings=OPENSSH))[0] == b"hello\n"
    assert public_line(server.host_key) in path.read_text()


def test_openssh_uses_a_live_master_where_a_second_login_would_need_questions(tmp_path: Path) -> None:
    with ssh_server(tmp_path / "server") as server:
        config = tmp_path / "config"
        config.write_text(
            f"Host box\n HostName {server.address}\n Port {server.port}\n User {server.user}\n"
            f" IdentityFile {server.client_key}\n IdentityAgent none\n ControlPath {tmp_path}/master\n"
            f" UserKnownHostsFile {tmp_path}/known\n"
        )
        (tmp_path / "known").write_text(f"[{server.address}]:{server.port} {public_line(server.host_key)}\n")
        master = subprocess.Popen(["ssh", "-F", str(config), "-M", "-N", "box"], stdin=subprocess.DEVNULL)
        try:
            wait_until((tmp_path / "master").exists, "the master's socket")
            server.authorized_keys.write_text("")  # nobody logs in any more
            entry = entry_of(server, name="box", config_file=str(config))
            assert run(output_of(entry, settings=OPENSSH))[0] == b"hello\n"
            assert failure_of(entry).code == "auth"
        finally:
            master.terminate()
            master.wait(10)


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_openssh_missing(server: SshServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = failure_of(entry_of(server), OPENSSH)
    assert error.code == "no_ssh"
    assert "openssh-client" in error.detail


def test_openssh_with_a_master_that_stays_behind(server: SshServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    control = tmp_path / "master"
    config.write_text(f"Host *\n ControlMaster auto\n ControlPath {control}\n ControlPersist 60\n")
    entry = entry_of(server, name="box", config_file=str(config))
    try:
        for _ in range(2):  # the first becomes the master, the second finds it
            assert run(output_of(entry, "echo hello", OPENSSH))[0] == b"hello\n"
    finally:
        subprocess.run(["ssh", "-F", str(config), "-O", "exit", "box"], check=True, capture_output=True)
    wait_until(lambda: not control.exists(), "the master is gone")


def test_many_links_at_once_with_one_agent(server: SshServer, tmp_path: Path) -> None:
    with ssh_agent(tmp_path / "agent", server.client_key) as agent:
        entry = entry_of(server, identity_agent=agent, identity_files=())

        async def several() -> list[bytes]:
            return [data for data, _ in await asyncio.gather(*(output_of(entry) for _ in range(40)))]

        assert run(several()) == [b"hello\n"] * 40


@pytest.mark.parametrize("first_link", ["asyncssh", "openssh"])
@pytest.mark.parametrize("way", ["direct", "jump", "proxy"])
def test_an_opening_that_is_given_up_leaves_nothing(server: SshServer, first_link: str, way: str) -> None:
    """Behind a jump host, the connection to that host must still serve others."""
    with socket.create_server(("127.0.0.7", 0)) as silent:
        entry = entry_of(server, port=silent.getsockname()[1])
        if way == "jump":
            entry = replace(entry, jumps=(entry_of(server, name="hop").to_json(),))
        elif way == "proxy":
            entry = replace(entry, proxy_command="sleep 63")
        if way == "jump" and first_link == "openssh":
            entry = replace(entry, jumps=(), proxy_command=f"{_PLAIN_SSH} -p {server.port} -i {server.client_key} "
                            f"-W %h:%p {server.address}")  # fmt: skip

        async def give_up() -> None:
            before = len(os.listdir("/proc/self/fd"))
            settings = replace(SETTINGS, first_link=first_link)
            task = asyncio.ensure_future(output_of(entry, settings=settings))
            if way == "proxy":
                await _until(lambda: _running("sleep 63"))
            else:
                silent.setblocking(False)
                accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(silent), 15)
                held.append(accepted)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for connection in held:
                connection.close()
            await _until(lambda: len(os.listdir("/proc/self/fd")) <= before and not _running("sleep 63"))

        held: list[socket.socket] = []
        run(give_up())


_PLAIN_SSH = "ssh -F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


def test_nothing_is_left_open(server: SshServer, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")

    async def many() -> None:
        await output_of(entry_of(server))
        before = len(os.listdir("/proc/self/fd"))
        for settings in (SETTINGS, OPENSSH):
            await output_of(entry_of(server), settings=settings)
            for fields in ({"port": 1}, {"known_hosts": ()}, {"identity_files": (str(wrong),)}):
                with pytest.raises(LinkError):
                    await output_of(entry_of(server, **fields), settings=settings)
        await _until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    run(many())
