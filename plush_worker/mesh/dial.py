"""From an address to a connected socket: names, TCP, proxy commands. Every failure a LinkError with its code.

Knows nothing of SSH. Entry points: ``dial_tcp``, ``dial_proxy_command``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from typing import Any

from plush_worker.mesh.first_link import LinkError, Tail
from plush_worker.model import HostEntry

_FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
_LOOKUPS_AT_ONCE = 16
_LEAST_TRY_S = 1.0  # for one of several addresses of a name
_PROXY_END_S = 2.0  # a proxy command whose connection ended gets this long before SIGKILL

_CODES = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "eof",
    errno.EPIPE: "eof",
    errno.ETIMEDOUT: "timeout",
    errno.EMFILE: "limit",
    errno.ENFILE: "limit",
}
_WHAT_TO_DO = {
    "refused": "is its sshd running on that port?",
    "timeout": "is the host up, the port right and no firewall in between?",
    "limit": "the worker has too many open files: raise its limit (ulimit -n)",
}

# AddressInfo: what getaddrinfo gives
_AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
_lookup_slots = threading.Semaphore(_LOOKUPS_AT_ONCE)


def error_of_os_error(error: OSError, tried: str) -> LinkError:
    """LinkError for what the operating system said about ``tried``."""
    code = _CODES.get(error.errno or 0, "unreachable")
    what = error.strerror or str(error) or type(error).__name__
    advice = _WHAT_TO_DO.get(code, "")
    return LinkError(code, f"{tried}: {what}" + (f"; {advice}" if advice else ""))


async def dial_tcp(entry: HostEntry, timeout_s: float) -> socket.socket:
    """A connected, non-blocking socket. Tries every address of the name, in the resolver's order, within ``timeout_s``.

    Raises LinkError: name, refused, timeout, unreachable, limit.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + timeout_s
    try:
        async with asyncio.timeout_at(end_s):
            addresses = await _look_up(entry)
    except TimeoutError:
        raise LinkError("name", f"looking up {entry.address}: no answer from DNS within {timeout_s:g} s") from None
    failures: list[LinkError] = []
    for index, info in enumerate(addresses):
        left = len(addresses) - index
        try_s = max((end_s - loop.time()) / left, min(_LEAST_TRY_S, timeout_s))
        tried = f"connecting to {info[4][0]} port {entry.port}"
        try:
            return await _connect(loop, info, try_s)
        except TimeoutError:
            failures.append(LinkError("timeout", f"{tried}: no answer within {try_s:.3g} s; {_WHAT_TO_DO['timeout']}"))
        except OSError as error:
            failures.append(error_of_os_error(error, tried))
    if len(failures) == 1:
        raise failures[0]
    refused = next((failure for failure in failures if failure.code == "refused"), failures[-1])
    raise LinkError(refused.code, "; ".join(failure.detail for failure in failures))


async def _connect(loop: asyncio.AbstractEventLoop, info: _AddressInfo, timeout_s: float) -> socket.socket:
    family, kind, protocol, _, address = info
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _look_up(entry: HostEntry) -> list[_AddressInfo]:
    """getaddrinfo in a thread of its own: a dead DNS server must hold up neither others nor the worker's exit."""
    family = _FAMILIES.get(entry.address_family, socket.AF_UNSPEC)
    literal = _literal(entry.address, entry.port, family)
    if literal:
        return literal
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[_AddressInfo]] = loop.create_future()

    def settle(result: list[_AddressInfo] | None, error: OSError | UnicodeError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result or [])

    def look_up() -> None:
        found: list[Any] | None = None
        failure: OSError | UnicodeError | None = None
        with _lookup_slots:
            try:
                found = socket.getaddrinfo(entry.address, entry.port, family, socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                failure = error
        try:
            loop.call_soon_threadsafe(settle, found, failure)
        except RuntimeError:  # the loop is closed: nobody waits for the answer
            pass

    threading.Thread(target=look_up, name=f"lookup-{entry.address}", daemon=True).start()
    try:
        return await answer
    except socket.gaierror as error:
        advice = "DNS doesn't answer; try again" if error.errno == socket.EAI_AGAIN else "is it spelt right?"
        raise LinkError("name", f"looking up {entry.address!r}: {error.strerror}; {advice}") from error
    except (OSError, UnicodeError) as error:
        raise LinkError("name", f"looking up {entry.address!r}: {error}") from error


def _literal(address: str, port: int, family: int) -> list[_AddressInfo]:
    """For an address in numbers, without a thread; empty for a name."""
    try:
        return socket.getaddrinfo(address, port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST)  # type: ignore[return-value]
    except (OSError, UnicodeError):
        return []


class ProxyCommand:
    """A running ProxyCommand. ``socket`` is its stdin and stdout; its stderr never mixes with the connection."""

    def __init__(self, connection: socket.socket, process: asyncio.subprocess.Process) -> None:
        self.socket = connection
        self.stderr = Tail()
        self._process = process
        self._reader = asyncio.ensure_future(self._read_stderr())
        self._ending = False
        self._ended = asyncio.Event()

    async def _read_stderr(self) -> None:
        stream = self._process.stderr
        while stream is not None and (data := await stream.read(4096)):
            self.stderr.add(data)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL a little later, to its process group; reaps it. May be called again: then waits."""
        if self._ending:
            await self._ended.wait()
            return
        self._ending = True
        try:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                self._signal(sent)
                try:
                    async with asyncio.timeout(_PROXY_END_S):
                        await self._process.wait()
                    break
                except TimeoutError:
                    continue
        finally:
            self._reader.cancel()
            transport = getattr(self._process, "_transport", None)
            if transport is not None:  # else a grandchild that holds stderr keeps its pipe here open
                transport.close()
            self._ended.set()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass


async def dial_proxy_command(command: str) -> ProxyCommand:
    """Starts a command line as ssh does (the user's shell, ``exec``). Raises LinkError when it can't start."""
    ours, its = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            os.environ.get("SHELL") or "/bin/sh", "-c", f"exec {command}",
            stdin=its.fileno(), stdout=its.fileno(), stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        ours.close()
        raise error_of_os_error(error, f"starting ProxyCommand {command!r}") from error
    finally:
        its.close()
    ours.setblocking(False)
    return ProxyCommand(ours, process)
