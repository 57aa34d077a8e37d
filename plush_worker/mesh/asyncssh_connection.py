"""One authenticated asyncssh connection to a host, directly, through a proxy command or through jump hosts.

Owns options, host key check, login and the shared connections to jump hosts. Nothing is read from ~/.ssh here: all
comes from the HostEntry. What asyncssh says of a failure becomes a LinkError in ``asyncssh_errors.py``. Entry points:
``Connections.open``, ``Connections.of_loop``.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import asyncssh

from plush_worker.mesh import host_keys
from plush_worker.mesh.asyncssh_errors import Progress, explain, host_key_error
from plush_worker.mesh.dial import ProxyCommand, dial_proxy_command, dial_tcp
from plush_worker.mesh.first_link import LOGIN_LIMIT_S, HostKeyRecorder, LinkError
from plush_worker.mesh.host_keys import HostKeyNotRecorded, Trust
from plush_worker.mesh.identities import KeyRing, agent_path
from plush_worker.mesh.jumps import jump_entries, proxy_command
from plush_worker.model import HostEntry, SliceSettings

# AES-GCM first: one call into OpenSSL a packet, where ChaCha20-Poly1305 costs asyncssh six; a login takes a third less.
_CIPHERS = (
    "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com",
    "aes128-ctr", "aes192-ctr", "aes256-ctr",
)  # fmt: skip
_KEY_EXCHANGES = "-diffie-hellman-group14-sha1"
_GREETING_BYTES = 500
_SERVED_BANNER_BYTES = 2000


class _Connection(asyncssh.SSHClientConnection):
    """Asks ``host_keys.judge`` about the host's key, and keeps what the other side says before its SSH banner."""

    attempt: _Attempt
    _greeting_done = False

    def validate_server_host_key(self, key_data: bytes) -> asyncssh.SSHKey:
        """Overrides asyncssh's check, which knows neither wildcard principals nor falling back from a certificate."""
        line = self.attempt.check_host_key(key_data)
        key = asyncssh.import_public_key(line)
        self._server_host_key = key
        return key

    def data_received(self, data: bytes, datatype: int | None = None) -> None:
        """As a protocol of asyncio and as a session of a tunnel."""
        progress = self.attempt.progress
        if not self._greeting_done:
            progress.greeting += data[: _GREETING_BYTES - len(progress.greeting)]
            super().data_received(data, datatype)
            self._greeting_done = bool(self.get_extra_info("server_version"))
            progress.banner = self._greeting_done
        else:
            super().data_received(data, datatype)


class _Client(asyncssh.SSHClient):
    """Login: only public keys, in ssh's order; remembers what else the server would have taken."""

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt
        self._offers: AsyncIterator[asyncssh.SSHKeyPair] | None = None

    def begin_auth(self, username: str) -> None:
        self._attempt.key_exchange_done(username)

    def auth_completed(self) -> None:
        self._attempt.progress.logged_in = True

    def auth_banner_received(self, msg: str, lang: str) -> None:
        progress = self._attempt.progress
        progress.login_banner = (progress.login_banner + msg)[:_SERVED_BANNER_BYTES]

    async def public_key_auth_requested(self) -> asyncssh.SSHKeyPair | None:
        self._attempt.progress.note_method("publickey")
        if self._offers is None:
            self._offers = self._attempt.offers()
        return await anext(self._offers, None)

    def kbdint_auth_requested(self) -> str | None:
        self._attempt.progress.note_method("keyboard-interactive")
        return None

    def password_auth_requested(self) -> str | None:
        self._attempt.progress.note_method("password")
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._attempt.connection_lost()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What holds for a login whatever the host."""

    connect_timeout_s: float
    record: HostKeyRecorder
    forward_agent: bool


class _Attempt:
    """One login to one host: what it may trust, how far it came, how long it may take."""

    def __init__(self, entry: HostEntry, keys: KeyRing, wish: _Wish, limit: asyncio.Timeout) -> None:
        self.entry = entry
        self.wish = wish
        self.progress = Progress()
        self.pins = host_keys.parse_pins(entry.known_hosts)
        self.accepted_new = ""
        self.host_key = ""
        self.failure: LinkError | None = None  # found in a callback; tells more than what asyncssh makes of it
        self.on_lost: list[Callable[[], None]] = []
        self.proxy: ProxyCommand | None = None
        self._keys = keys
        self._limit = limit

    def check_host_key(self, blob: bytes) -> str:
        """The accepted key as a line. Raises HostKeyNotVerifiable."""
        verdict = host_keys.judge(self.pins, blob, self.entry.host_key_alias or self.entry.address)
        if self.progress.key_exchanged:  # new session keys on an open link: the same host key, whatever was decided
            if verdict.key != self.host_key or verdict.trust is Trust.REVOKED:
                raise asyncssh.HostKeyNotVerifiable("the host key changed while the link was open")
        elif verdict.trust is Trust.UNKNOWN and self.entry.accept_new:
            self.accepted_new = verdict.key
        elif verdict.trust is not Trust.TRUSTED:
            self.failure = host_key_error(self.entry, verdict)
            raise asyncssh.HostKeyNotVerifiable(verdict.why)
        self.host_key = verdict.key
        return verdict.key

    def key_exchange_done(self, username: str) -> None:
        """The host has proved that it holds the key: a new one is recorded now, before anything is told to it."""
        if self.accepted_new:
            try:
                self.wish.record(self.entry, self.accepted_new)
            except HostKeyNotRecorded as error:
                self.failure = LinkError("host_key", str(error))
                raise asyncssh.HostKeyNotVerifiable(str(error)) from error
        self.progress.key_exchanged = True
        self.progress.user = username
        self._limit.reschedule(asyncio.get_running_loop().time() + LOGIN_LIMIT_S)

    @property
    def end_s(self) -> float:
        """Loop time by which the command must run."""
        return self._limit.when() or 0.0

    def offers(self) -> AsyncIterator[asyncssh.SSHKeyPair]:
        """Key pairs to try."""
        return self._keys.offers(self.entry, self.progress.keys)

    def connection_lost(self) -> None:
        """Lets go of what the connection stood on."""
        callbacks, self.on_lost = self.on_lost, []
        for callback in callbacks:
            callback()


@dataclass(slots=True)
class OpenConnection:
    """A connection after login. ``end_s``: loop time by which the command must run."""

    connection: asyncssh.SSHClientConnection
    host_key: str
    end_s: float
    progress: Progress
    proxy: ProxyCommand | None


@dataclass(slots=True)
class _Jump:
    """A connection to a jump host, shared by all that go through it."""

    opening: asyncio.Task[OpenConnection]
    users: int = 0

    def connection(self) -> asyncssh.SSHClientConnection:
        """Once it is open."""
        return self.opening.result().connection

    def is_usable(self) -> bool:
        """Open, and not lost since."""
        opening = self.opening
        return not opening.cancelled() and opening.exception() is None and not opening.result().connection.is_closed()


class Connections:
    """Opens connections for one loop; holds the parsed keys and the shared connections to jump hosts."""

    _by_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Connections]] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        log = logging.getLogger("asyncssh")
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)  # at INFO, which a worker logs, it writes ten lines a connection
        self.keys = KeyRing()
        self._jumps: dict[tuple[HostEntry, ...], _Jump] = {}
        self._background: set[asyncio.Task[None]] = set()

    @classmethod
    def of_loop(cls) -> Connections:
        """The one of the running loop."""
        return cls._by_loop.setdefault(asyncio.get_running_loop(), cls())

    async def open(
        self, entry: HostEntry, settings: SliceSettings, record: HostKeyRecorder, *, forward_agent: bool = False
    ) -> OpenConnection:
        """Raises LinkError, within the limits that ``open_first_link`` names."""
        wish = _Wish(settings.connect_timeout_s, record, forward_agent)
        jumps = jump_entries(entry)
        if not jumps:
            return await self._open(entry, wish, None, _nothing)
        jump = await self._through(jumps, replace(wish, forward_agent=False))
        return await self._open(entry, wish, jump.connection(), lambda: self._leave(jumps, jump))

    def jump_count(self) -> int:
        """How many connections to jump hosts are open or being opened."""
        return len(self._jumps)

    async def _through(self, jumps: tuple[HostEntry, ...], wish: _Wish) -> _Jump:
        """The shared connection to the last of ``jumps``, counted as used. Raises LinkError naming the jump host."""
        jump = self._jumps.get(jumps)
        if jump is None or (jump.opening.done() and not jump.is_usable()):
            jump = self._jumps[jumps] = _Jump(asyncio.ensure_future(self._open_jump(jumps, wish)))
            jump.opening.add_done_callback(_look_at_error)
        jump.users += 1
        try:
            await asyncio.shield(jump.opening)
        except LinkError as error:
            self._leave(jumps, jump)
            raise LinkError(error.code, f"jump host {jumps[-1].name}: {error.detail}") from error
        except BaseException:
            self._leave(jumps, jump)
            raise
        return jump

    async def _open_jump(self, jumps: tuple[HostEntry, ...], wish: _Wish) -> OpenConnection:
        if len(jumps) == 1:
            return await self._open(jumps[0], wish, None, _nothing)
        before = await self._through(jumps[:-1], wish)
        return await self._open(jumps[-1], wish, before.connection(), lambda: self._leave(jumps[:-1], before))

    def _leave(self, jumps: tuple[HostEntry, ...], jump: _Jump) -> None:
        """One user less; the last one closes the connection."""
        jump.users -= 1
        if jump.users > 0:
            return
        if self._jumps.get(jumps) is jump:
            del self._jumps[jumps]
        if not jump.opening.done():
            jump.opening.cancel()
        elif jump.is_usable():
            jump.connection().close()

    async def _open(
        self, entry: HostEntry, wish: _Wish, tunnel: asyncssh.SSHClientConnection | None, release: Callable[[], None]
    ) -> OpenConnection:
        """``release`` is called once, when the connection is gone or never came to be."""
        attempt: _Attempt | None = None
        try:
            async with asyncio.timeout(wish.connect_timeout_s) as limit:
                attempt = _Attempt(entry, self.keys, wish, limit)
                attempt.on_lost.append(release)
                return await self._connect(attempt, tunnel)
        except LinkError:
            raise
        except (OSError, ValueError, asyncssh.Error) as error:
            if attempt is None:
                release()
                raise LinkError("host_key", f"its entry in the host directory: {error}") from error
            raise attempt.failure or explain(error, entry, attempt.progress, wish.connect_timeout_s) from error
        finally:
            if attempt is not None and not attempt.progress.established:
                attempt.connection_lost()
                if attempt.proxy is not None:
                    await attempt.proxy.end()

    async def _connect(self, attempt: _Attempt, tunnel: asyncssh.SSHClientConnection | None) -> OpenConnection:
        loop = asyncio.get_running_loop()
        options = _options(attempt)
        options.waiter = loop.create_future()

        def make_connection(*_: object) -> _Connection:
            connection = _Connection(loop, options, wait="auth")
            connection.attempt = attempt
            return connection

        connection = await self._transport(attempt, tunnel, make_connection)
        attempt.progress.connected = True
        try:
            await options.waiter
        except BaseException:
            connection.abort()
            raise
        attempt.progress.established = True
        return OpenConnection(connection, attempt.host_key, attempt.end_s, attempt.progress, attempt.proxy)

    async def _transport(
        self,
        attempt: _Attempt,
        tunnel: asyncssh.SSHClientConnection | None,
        make_connection: Callable[..., _Connection],
    ) -> _Connection:
        entry = attempt.entry
        if tunnel is not None:
            attempt.progress.through_tunnel = True
            return await _through_tunnel(tunnel, entry, make_connection)
        if command := proxy_command(entry):
            proxy = await dial_proxy_command(command)
            attempt.proxy = attempt.progress.proxy = proxy
            attempt.on_lost.append(lambda: self._end_later(proxy))
            sock = proxy.socket
        else:
            sock = await dial_tcp(entry, attempt.wish.connect_timeout_s)
        _, connection = await asyncio.get_running_loop().create_connection(make_connection, sock=sock)
        return connection

    def _end_later(self, proxy: ProxyCommand) -> None:
        task = asyncio.ensure_future(proxy.end())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _through_tunnel(
    tunnel: asyncssh.SSHClientConnection, entry: HostEntry, make_connection: Callable[..., _Connection]
) -> _Connection:
    """Abandoned half-way, the channel that may still come is dropped: the jump host's connection serves others."""
    opening: asyncio.Task[Any] = asyncio.ensure_future(
        tunnel.create_connection(make_connection, entry.address, entry.port)  # type: ignore[arg-type]
    )
    try:
        _, session = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_drop_channel)
        raise
    return cast(_Connection, session)


def _drop_channel(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].abort()


def _look_at_error(opening: asyncio.Future[Any]) -> None:
    """Everyone who waited may be gone by now; the error has been told to those who are not."""
    if not opening.cancelled():
        opening.exception()


def _nothing() -> None:
    pass


def _options(attempt: _Attempt) -> asyncssh.SSHClientConnectionOptions:
    entry, pins = attempt.entry, attempt.pins
    forward = agent_path(entry) if attempt.wish.forward_agent else ""
    algorithms = host_keys.host_key_algorithms(pins.plain_types, bool(pins.authorities), entry.host_key_algorithms)
    user = {"username": entry.user} if entry.user else {}
    return asyncssh.SSHClientConnectionOptions(
        config=None,
        client_factory=lambda: _Client(attempt),
        host=entry.address,
        port=entry.port,
        known_hosts=([], [], []),  # trusts nothing: only _Connection.validate_server_host_key lets a key in
        server_host_key_algs=list(algorithms),
        kex_algs=_KEY_EXCHANGES,
        encryption_algs=list(_CIPHERS),
        compression_algs=["none"],
        client_keys=None,  # _Client offers them one by one
        agent_forwarding=forward or False,
        host_based_auth=False,
        gss_kex=False,
        gss_auth=False,
        gss_host=None,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
        request_pty=False,
        encoding=None,
        login_timeout=0,  # ours: asyncio.timeout around all of it
        connect_timeout=None,
        keepalive_interval=0,  # the node program's heartbeats do that
        rekey_seconds=0,
        **user,
    )
