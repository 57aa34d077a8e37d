"""A worker's own link to a subtree root: what it looks like, how it fails, which of the two ways opens it.

Owns the contract (``FirstLink``, ``LinkHandler``, ``LinkError``) and the choice between asyncssh and the user's own
``ssh``. Bytes only: frames, payload and heartbeats are ``root_link.py``'s. Entry point: ``open_first_link``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from plush_worker.errors import PeerError
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node.limits import MAX_DETAIL_CHARS

LOGIN_LIMIT_S = 30  # from the key exchange to the running command; PAM, an agent that asks, a loaded host
STDERR_TAIL_BYTES = 4000

# Records the key of a host that accept_new let in: (entry, "key-type base64"). Raises when it can't, or must not.
HostKeyRecorder = Callable[[HostEntry, str], None]

_RETRYABLE = frozenset(("refused", "timeout", "unreachable", "eof", "limit"))


class LinkError(PeerError):
    """A link could not be opened, or broke. ``code`` is one of the LOST codes of docs/protocol.md; ``detail`` says
    what was tried, what came back and what to do, and doesn't repeat the host's name."""

    code: str  # type: ignore[misc]  # per instance here: the reason travels as data
    retryable: bool  # type: ignore[misc]

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail[:MAX_DETAIL_CHARS]
        self.retryable = code in _RETRYABLE


class LinkHandler(Protocol):
    """Who uses the link. Called on the loop's thread; may be called before ``open_first_link`` has returned."""

    def data_received(self, data: bytes) -> None:
        """Bytes of the command's stdout."""

    def connection_lost(self, error: LinkError | None) -> None:
        """The end, once, after all data. None: the command's session ended in order, or ``close`` was called."""

    def pause_writing(self) -> None:
        """The buffer towards the host is full; what is written still goes into it."""

    def resume_writing(self) -> None:
        """There is room again."""


class FirstLink(Protocol):
    """An open link: stdin and stdout of a command on the host."""

    @property
    def host_key(self) -> str:
        """``key-type base64`` that the host proved to hold; empty where the user's own ssh checked it."""

    def write(self, data: bytes) -> None:
        """Sends bytes to the command's stdin. After the end they are dropped."""

    def pause_reading(self) -> None:
        """No more ``data_received`` until ``resume_reading``; the host is slowed down, memory stays bounded."""

    def resume_reading(self) -> None:
        """Goes on; may call ``data_received`` at once."""

    def close(self) -> None:
        """Ends the link after what was written has gone out, within a second or two."""

    async def wait_closed(self) -> None:
        """Until connection and processes of the link are gone."""

    def stderr_tail(self) -> str:
        """The last of what the command wrote to stderr."""


async def open_first_link(
    entry: HostEntry,
    settings: SliceSettings,
    command: str,
    handler: LinkHandler,
    *,
    host_key_recorder: HostKeyRecorder,
) -> FirstLink:
    """Logs in to the host and starts ``command`` under its login shell, without a terminal.

    Raises LinkError within ``settings.connect_timeout_s`` up to the end of the key exchange, plus LOGIN_LIMIT_S for
    login and start (each jump host adds its own), also when the other side accepts and then stays silent. A host key
    that isn't pinned is refused unless ``entry.accept_new``; then it is recorded first. A changed one always is.
    """
    if settings.first_link == "openssh":
        from plush_worker.mesh.openssh_link import open_openssh_link

        return await open_openssh_link(entry, settings, command, handler)
    from plush_worker.mesh.asyncssh_link import open_asyncssh_link

    return await open_asyncssh_link(entry, settings, command, handler, host_key_recorder)


class Tail:
    """The last bytes of a stream of any length."""

    def __init__(self, limit_bytes: int = STDERR_TAIL_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Takes bytes in; what is too old is forgotten."""
        self._data += data
        if len(self._data) > 2 * self._limit_bytes:
            del self._data[: -self._limit_bytes]

    def text(self) -> str:
        """The last of it, for people."""
        return bytes(self._data[-self._limit_bytes :]).decode("utf-8", "replace")
