"""One blocking connection to a Redis server: hiredis on a plain socket. No retries, no pool, no redis-py.

Importing redis-py takes 150 ms, this 1 ms; the command line's first request must leave within 150 ms.
"""

from __future__ import annotations

import select
import socket

import hiredis

from .errors import StoreUnavailable
from .limits import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Any, Self

    from .address import Address

    Argument = str | bytes | int | float

_RECEIVE_BYTES = 65536
_pack: Any = hiredis.pack_command  # its own types allow one argument only


class Wire:
    """A connection, opened and logged in by its first request. Not for several threads at once."""

    def __init__(
        self,
        address: Address,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.address = address
        self._connect_timeout_s, self._answer_timeout_s = connect_timeout_s, answer_timeout_s
        self._socket: socket.socket | None = None
        self._reader: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def call(self, *command: Argument, wait_s: float = 0.0) -> Any:
        """The reply to one command; an error reply is returned as hiredis.ReplyError. Raises StoreUnavailable."""
        return self.pipeline([command], wait_s=wait_s)[0]

    def pipeline(self, commands: Sequence[Sequence[Argument]], wait_s: float = 0.0) -> list[Any]:
        """The replies to commands sent together, in order. ``wait_s`` is how much longer the server may block."""
        opening: list[Sequence[Argument]] = []
        try:
            if self._socket is None or self._ended(self._socket):
                opening = self._open()
            replies = self._exchange([*opening, *commands], wait_s)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise StoreUnavailable(self._complaint(error)) from error
            raise
        for (name, *_), reply in zip(opening, replies, strict=False):
            if isinstance(reply, hiredis.ReplyError):
                self.close()
                raise StoreUnavailable(
                    f"the Redis server {self.address} refused {name!s}: {reply}; check the URL's password and db"
                )
        self._check_open(replies[len(opening) :])
        return replies[len(opening) :]

    @staticmethod
    def _ended(connection: socket.socket) -> bool:
        """Whether an idle connection has something to read: its end, or an answer that nobody waits for."""
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        return bool(poll.poll(0))

    def _open(self) -> list[Sequence[Argument]]:
        """Connects; what to send first."""
        self.close()
        address = self.address
        if address.path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self._connect_timeout_s)
            self._socket.connect(address.path)
        else:
            self._socket = socket.create_connection((address.host, address.port), self._connect_timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            import ssl

            self._socket = ssl.create_default_context().wrap_socket(self._socket, server_hostname=address.host)
        self._reader = hiredis.Reader()
        opening: list[Sequence[Argument]] = []
        if address.password:
            opening.append(("AUTH", address.user, address.password) if address.user else ("AUTH", address.password))
        if address.db:
            opening.append(("SELECT", address.db))
        return opening

    def _exchange(self, commands: Sequence[Sequence[Argument]], wait_s: float) -> list[Any]:
        connection, reader = self._socket, self._reader
        assert connection is not None
        connection.settimeout(self._answer_timeout_s + wait_s)
        connection.sendall(b"".join(_pack(tuple(command)) for command in commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = reader.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = connection.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("it closed the connection")
            reader.feed(data)
        return replies

    def _check_open(self, replies: list[Any]) -> None:
        """A server that loads its data, or wants a password, is as good as not there."""
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith(("LOADING", "NOAUTH", "NOPERM")):
                self.close()
                advice = "try again in a moment" if str(reply).startswith("LOADING") else "put its password in the URL"
                raise StoreUnavailable(f"the Redis server {self.address} answered: {reply}; {advice}")

    def _complaint(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            said = f"no answer within {self._answer_timeout_s} s"
        else:
            said = error.strerror or str(error) or type(error).__name__
        return (
            f"no Redis server answers at {self.address}: {said}; "
            "start one ('plush up' brings its own), or set PLUSH_REDIS_URL to the one that runs"
        )
