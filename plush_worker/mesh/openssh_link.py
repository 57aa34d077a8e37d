"""A FirstLink on the user's own ``ssh``, with whatever their configuration does: ControlMaster, Kerberos, PKCS#11.

Owns one ``ssh`` process and its pipes. Asks no question (BatchMode). Its log comes by a pipe of its own (``-E``): it
tells when login is done, and never mixes with the remote command's stderr. Entry point: ``open_openssh_link``.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

from plush_worker.mesh import openssh_errors
from plush_worker.mesh.first_link import LOGIN_LIMIT_S, LinkError, LinkHandler, Tail
from plush_worker.mesh.openssh_command import PinsFile, ssh_arguments
from plush_worker.model import HostEntry, SliceSettings

_LOG_TAIL_BYTES = 32 << 10  # a login logs about 5 KiB
_WRITE_HIGH_BYTES = 256 << 10
_LINGER_S = 1.0  # for the rest of stdout after the process's end, and for the process after stdout's end
_CLOSE_LIMIT_S = 1.0  # for what was written to go out, once stdin is closed
_FAILED = 255  # ssh's own failures; also a remote command's, so the log decides
_STDIN, _STDOUT, _STDERR = 0, 1, 2


async def open_openssh_link(
    entry: HostEntry, settings: SliceSettings, command: str, handler: LinkHandler
) -> OpensshLink:
    """As ``open_first_link``; but ssh records new keys itself, where ``entry.accept_new`` lets it."""
    loop = asyncio.get_running_loop()
    link = OpensshLink(handler, entry)
    pins = PinsFile(entry)
    try:
        arguments = ssh_arguments(entry, settings, pins.path, link.log.path)
        try:
            await loop.subprocess_exec(lambda: link, *arguments, command, start_new_session=True)
        except FileNotFoundError as error:
            raise LinkError(
                "no_ssh", "the worker has no ssh: install openssh-client, or set first_link: asyncssh"
            ) from error
        except OSError as error:
            raise LinkError("limit", f"the worker can't start ssh: {error.strerror}") from error
        limit_s = settings.connect_timeout_s + LOGIN_LIMIT_S
        try:
            async with asyncio.timeout(limit_s):
                await link.logged_in
        except TimeoutError:
            tried = f"ssh to {entry.address} port {entry.port}"
            raise LinkError("timeout", f"{tried}: no login within {limit_s} s") from None
    except BaseException:
        link.abandon()
        raise
    finally:
        pins.close()
    return link


class _LogPipe:
    """ssh's log: a pipe that it opens by its path under /proc. Always read, else ssh would stop at a full pipe."""

    def __init__(self, tail: Tail) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._tail = tail
        self.path = f"/proc/{os.getpid()}/fd/{self._writer}"
        asyncio.get_running_loop().add_reader(self._reader, self.read)
        self.on_data = _ignore

    def read(self) -> None:
        """Takes in what is there."""
        try:
            while data := os.read(self._reader, 65536):
                self._tail.add(data)
        except BlockingIOError:
            self.on_data()
            return
        asyncio.get_running_loop().remove_reader(self._reader)

    def opened_by_ssh(self) -> None:
        """Our writing end isn't needed any more."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        """A master that ssh left behind may go on writing: it ignores that nobody reads."""
        self.opened_by_ssh()
        if self._reader >= 0:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1


class OpensshLink(asyncio.SubprocessProtocol):
    """Implements FirstLink; asyncio calls it as the process's protocol."""

    host_key = ""

    def __init__(self, handler: LinkHandler, entry: HostEntry) -> None:
        self._handler: LinkHandler | None = handler
        self._entry = entry
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stderr = Tail()
        self._log_tail = Tail(_LOG_TAIL_BYTES)
        self.log = _LogPipe(self._log_tail)
        self.log.on_data = self._look_at_log
        self.logged_in: asyncio.Future[None] = self._loop.create_future()
        self._paused = False
        self._closing = False
        self._stdout_ended = False
        self._exited = False
        self._end_timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    # ---- FirstLink

    def write(self, data: bytes) -> None:
        """Goes into the pipe to ssh."""
        stdin = self._pipe(_STDIN)
        if stdin is not None and not self._closing and not stdin.is_closing():
            cast(asyncio.WriteTransport, stdin).write(data)

    def pause_reading(self) -> None:
        """ssh stops reading from the network as soon as its pipe is full."""
        self._paused = True
        stdout = self._pipe(_STDOUT)
        if stdout is not None and not self._stdout_ended:
            cast(asyncio.ReadTransport, stdout).pause_reading()

    def resume_reading(self) -> None:
        """Goes on."""
        self._paused = False
        stdout = self._pipe(_STDOUT)
        if stdout is not None and not self._stdout_ended:
            cast(asyncio.ReadTransport, stdout).resume_reading()

    def close(self) -> None:
        """Ends the link; ``connection_lost(None)`` follows."""
        if self._closing:
            return
        self._closing = True
        if self._paused:
            self.resume_reading()  # else the end would not be noticed
        stdin = self._pipe(_STDIN)
        if stdin is not None:
            stdin.close()  # after what was written
        self._end_in(_CLOSE_LIMIT_S)

    async def wait_closed(self) -> None:
        """Until ssh has been reaped."""
        await self._gone.wait()

    def stderr_tail(self) -> str:
        """The last of the remote command's stderr."""
        return self._stderr.text()

    def abandon(self) -> None:
        """The session never came to be: ends ssh, tells nobody."""
        self._handler = None
        self.logged_in.cancel()
        if self._transport is None:
            self._release()
        else:
            self._kill()

    # ---- asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        cast(asyncio.WriteTransport, self._pipe(_STDIN)).set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._stderr.add(data)
        elif self._handler is not None and not self._closing:
            self._handler.data_received(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == _STDOUT:
            self._stdout_ended = True
            self._half_ended()

    def process_exited(self) -> None:
        self._exited = True
        self.log.read()
        if not self.logged_in.done():
            self.logged_in.set_exception(self._explanation())
            self._handler = None
        self._half_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None and not self._closing:
            self._handler.resume_writing()

    # ---- inside

    def _pipe(self, number: int) -> asyncio.BaseTransport | None:
        return self._transport.get_pipe_transport(number) if self._transport is not None else None

    def _look_at_log(self) -> None:
        if not self.logged_in.done() and openssh_errors.has_logged_in(self._log_tail.text()):
            self.log.opened_by_ssh()
            self.logged_in.set_result(None)

    def _half_ended(self) -> None:
        """The process or its stdout has ended; the other should follow at once."""
        if self._exited and self._stdout_ended:
            self._end()
        else:
            self._end_in(_LINGER_S)

    def _end_in(self, delay_s: float) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self._end_timer = self._loop.call_later(delay_s, self._end_late)

    def _end_late(self) -> None:
        if self._paused and self._exited and not self._closing:
            self._end_in(_LINGER_S)  # what stands in the pipe is still to be taken
        elif not self._exited:
            self._kill()
        else:
            self._end()

    def _kill(self) -> None:
        """SIGTERM to ssh and its proxy command, SIGKILL if need be. A master left behind has its own group."""
        if self._transport is None or self._transport.get_returncode() is not None:
            self._end()
            return
        self._signal_group(signal.SIGTERM)
        self._loop.call_later(_LINGER_S, self._kill_hard)

    def _kill_hard(self) -> None:
        if self._transport is not None and self._transport.get_returncode() is None:
            self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._transport is None:
            return
        try:
            os.killpg(self._transport.get_pid(), number)
        except ProcessLookupError:
            pass

    def _end(self) -> None:
        """Tells the end, once."""
        handler, self._handler = self._handler, None
        error = None if self._closing or not self._failed() else self._explanation()
        if self._transport is not None:
            self._transport.close()
        if handler is not None:
            handler.connection_lost(error)

    def _failed(self) -> bool:
        status = self._transport.get_returncode() if self._transport is not None else None
        return (
            status is None or status < 0 or (status == _FAILED and openssh_errors.names_failure(self._log_tail.text()))
        )

    def _explanation(self) -> LinkError:
        status = self._transport.get_returncode() if self._transport is not None else None
        return openssh_errors.explain(self._log_tail.text(), self._stderr.text(), status, self._entry.name)

    def _release(self) -> None:
        if self._end_timer is not None:
            self._end_timer.cancel()
        self.log.close()
        self._transport = None
        self._gone.set()


def _ignore() -> None:
    pass
