"""The API as a part of a stack, or as a container's process: ``python -m plush_api.api_part``.

Runs uvicorn on the address of its settings (``api_settings.py``) and says on PLUSH_READY_FD where it serves. At SIGTERM
followers are told to come back, and what is being answered is answered.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from typing import Any

from plush_worker.errors import PartFailed, PlushError
from plush_worker.worker_process import LOG_FILE, READY_FD, wait_for_server

logger = logging.getLogger(__name__)

SERVER_WAIT_S = 10.0
STOP_WAIT_S = 3  # for answers that are under way
KEEP_ALIVE_S = 30
BACKLOG = 1024


def main() -> int:
    """Serve until a signal. Returns the exit code."""
    from plush_api.api_settings import load_api_settings
    from plush_worker.celery_app import configure_logging
    from plush_worker.config import load_settings

    configure_logging(logging.INFO, os.environ.get(LOG_FILE))
    try:
        settings, api = load_settings(), load_api_settings()
        wait_for_server(settings.redis_url, SERVER_WAIT_S)
        return _serve(settings, api)
    except PlushError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


def _serve(settings: Any, api: Any) -> int:
    import uvicorn

    from plush_api.app import create_app

    app = create_app(settings, api)
    listener = _bind(api.host, api.port, fixed=api.port_fixed)
    tls = api.tls_certificate_file is not None
    url = _url(api.host, listener.getsockname()[1], tls=tls)

    class Server(uvicorn.Server):
        """Says when it serves, and lets followers go before it waits for the rest."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                logger.info("serves at %s", url)
                _tell(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            context = getattr(app.state, "context", None)
            if context is not None:
                context.stopping.set()
            await super().shutdown(sockets)

    if not tls and not _is_loopback(api.host):
        logger.warning("%s is reached by others without TLS: tokens can be read on the way; put a proxy in front", url)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_WAIT_S,
        ssl_certfile=api.tls_certificate_file,
        ssl_keyfile=api.tls_key_file,
    )
    server = Server(config)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended in good order
        signal.signal(number, lambda *_: None)
    with listener:
        server.run(sockets=[listener])
    return 0 if server.started else 1


def _bind(host: str, port: int, *, fixed: bool) -> socket.socket:
    """A listening socket: on the wanted port, or a free one when that is taken and nobody insisted on it.

    Raises PartFailed.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        try:
            return _listener(family, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or fixed:
                raise
            return _listener(family, (address[0], 0, *address[2:]))
    except OSError as error:
        raise PartFailed(
            f"the API can't listen on {host} port {port}: {error.strerror or error}; choose another PLUSH_API_PORT"
        ) from error


def _listener(family: int, address: Any) -> socket.socket:
    # With the protocol named, or asyncio doesn't set TCP_NODELAY and every answer waits 40 ms for a delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _url(host: str, port: int, *, tls: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    from plush_api.gate import is_loopback

    return host == "localhost" or (bool(host) and is_loopback(host))


def _tell(url: str) -> None:
    descriptor = os.environ.pop(READY_FD, "")
    if descriptor:
        os.write(int(descriptor), f"ready {url}\n".encode())
        os.close(int(descriptor))


if __name__ == "__main__":
    sys.exit(main())
