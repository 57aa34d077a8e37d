"""A FirstLink on one asyncssh session: a command on the host, its stdin and stdout as bytes, flow controlled both ways.

Owns the session; connecting and login are ``asyncssh_connection.py``'s. Entry point: ``open_asyncssh_link``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import asyncssh

from plush_worker.mesh.asyncssh_connection import Connections, OpenConnection
from plush_worker.mesh.asyncssh_errors import explain, link_error_of_loss
from plush_worker.mesh.first_link import HostKeyRecorder, LinkError, LinkHandler, Tail
from plush_worker.model import HostEntry, SliceSettings

_WINDOW_BYTES = 2 << 20  # like OpenSSH's own; the protocol keeps at most BULK_WINDOW_BYTES under way
_PACKET_BYTES = 64 << 10
_WRITE_HIGH_BYTES = 256 << 10
_CLOSE_LIMIT_S = 1.5  # for what was written to go out; sshd agrees only once the command has ended, or never

_log = logging.getLogger(__name__)


async def open_asyncssh_link(
    entry: HostEntry, settings: SliceSettings, command: str, handler: LinkHandler, record: HostKeyRecorder
) -> AsyncsshLink:
    """As ``open_first_link``."""
    forward_agent = entry.forward_agent or settings.inner_login == "agent"
    opened = await Connections.of_loop().open(entry, settings, record, forward_agent=forward_agent)
    link = AsyncsshLink(handler, opened)
    try:
        async with asyncio.timeout_at(opened.end_s):
            await opened.connection.create_session(
                lambda: link, command, encoding=None, window=_WINDOW_BYTES, max_pktsize=_PACKET_BYTES
            )
    except asyncssh.ChannelOpenError as error:
        link.abandon()
        reason = f"logged in, but the host won't run a command: {error.reason or error}"
        raise LinkError("eof" if opened.connection.is_closed() else "bootstrap", reason) from error
    except (OSError, asyncssh.Error) as error:
        link.abandon()
        raise explain(error, entry, opened.progress, settings.connect_timeout_s) from error
    except BaseException:
        link.abandon()
        raise
    return link


class AsyncsshLink(asyncssh.SSHClientSession[bytes]):
    """Implements FirstLink; asyncssh calls it as a session."""

    def __init__(self, handler: LinkHandler, opened: OpenConnection) -> None:
        self.host_key = opened.host_key
        self._handler: LinkHandler | None = handler
        self._opened = opened
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._stderr = Tail()
        self._paused = False
        self._delivering = False
        self._undelivered: deque[bytes] = deque()
        self._lost = False
        self._error: Exception | None = None
        self._unsent: list[bytes] = []
        self._closing = False
        self._close_timer: asyncio.TimerHandle | None = None

    # ---- FirstLink

    def write(self, data: bytes) -> None:
        """Small pieces written in one turn of the loop go out as one packet."""
        if self._closing or self._lost or not data:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(data)

    def pause_reading(self) -> None:
        """At most twice the channel's window is kept then."""
        self._paused = True
        # While the channel empties its own buffer into ours it must not be paused: it would open the whole window again
        # with the rest still in its buffer, each time (asyncssh 2.24, SSHChannel._deliver_data).
        if self._channel is not None and not self._delivering:
            self._channel.pause_reading()

    def resume_reading(self) -> None:
        """First what waits here, then what waits in the channel."""
        self._paused = False
        if not self._delivering:
            self._deliver()
        if self._delivering or self._is_held_back() or self._channel is None:
            return
        self._delivering = True
        try:
            self._channel.resume_reading()
        finally:
            self._delivering = False
        if self._is_held_back():
            self.pause_reading()

    def close(self) -> None:
        """Ends the link; ``connection_lost(None)`` follows."""
        if self._closing:
            return
        self._flush()
        self._closing = True
        self._undelivered.clear()
        if self._channel is None or self._lost:
            self._opened.connection.abort()
            self._finish()
            return
        self._channel.close()
        self._close_timer = asyncio.get_running_loop().call_later(_CLOSE_LIMIT_S, self._opened.connection.abort)

    async def wait_closed(self) -> None:
        """Until the connection, and a proxy command, are gone."""
        await self._opened.connection.wait_closed()
        if self._opened.proxy is not None:
            await self._opened.proxy.end()

    def stderr_tail(self) -> str:
        """The last of the command's stderr."""
        return self._stderr.text()

    def abandon(self) -> None:
        """The session never came to be: drops the connection, tells nobody."""
        self._handler = None
        self._opened.connection.abort()

    # ---- asyncssh.SSHClientSession

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self._stderr.add(data)
        elif self._handler is None or self._closing:
            return
        elif self._paused or self._undelivered:
            self._undelivered.append(data)
        else:
            self._handler.data_received(data)

    def eof_received(self) -> bool:
        """The command closed its stdout: it can't serve as a link any more, so its stdin is closed as well."""
        if self._close_timer is None:
            self._close_timer = asyncio.get_running_loop().call_later(_CLOSE_LIMIT_S, self._opened.connection.abort)
        return False

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None and not self._closing:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._error = exc
        self._channel = None
        if self._close_timer is not None:
            self._close_timer.cancel()
        asyncio.get_running_loop().call_soon(self._opened.connection.close)  # one session a connection
        if exc is not None and not isinstance(exc, (asyncssh.Error, OSError)):
            _log.error("a link's handler failed", exc_info=exc)
        self._finish()

    # ---- inside

    def _is_held_back(self) -> bool:
        """After a call of the handler, which may have paused."""
        return self._paused

    def _flush(self) -> None:
        pieces, self._unsent = self._unsent, []
        if pieces and self._channel is not None and not self._channel.is_closing():
            self._channel.write(b"".join(pieces))

    def _deliver(self) -> None:
        while self._undelivered and not self._paused and self._handler is not None:
            self._handler.data_received(self._undelivered.popleft())
        self._finish()

    def _finish(self) -> None:
        """Tells the end, once, when all data has been taken."""
        if not self._lost or (self._undelivered and not self._closing) or self._handler is None:
            return
        handler, self._handler = self._handler, None
        handler.connection_lost(None if self._closing else link_error_of_loss(self._error, self._stderr.text()))
