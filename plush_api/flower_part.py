"""Flower as a part of a stack: ``python -m plush_api.flower_part``.

Runs Flower's own server on a loopback port, with its state in memory, and says on PLUSH_READY_FD where it serves. The
address comes in FLOWER_ADDRESS and FLOWER_PORT, the credentials in FLOWER_BASIC_AUTH: never in argv.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from typing import Any

from plush_worker.errors import PartFailed, PlushError
from plush_worker.worker_process import READY_FD, wait_for_server

SERVER_WAIT_S = 10.0
PORT_FIXED = "PLUSH_FLOWER_PORT_FIXED"  # in the environment: no other port than FLOWER_PORT will do


def main() -> int:
    """Serve until a signal. Returns the exit code."""
    from plush_worker.celery_app import configure_logging, create_app
    from plush_worker.config import load_settings

    configure_logging(logging.WARNING, os.environ.get("PLUSH_LOG_FILE"))
    try:
        settings = load_settings()
        wait_for_server(settings.redis_url, SERVER_WAIT_S)
        _serve(create_app(settings))
    except PlushError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def _serve(app: Any) -> None:
    from flower.app import Flower
    from flower.command import apply_env_options, extract_settings
    from flower.urls import settings as urls
    from tornado.options import options

    apply_env_options()
    extract_settings()
    flower = Flower(capp=app, options=options, **urls)
    port = _bind(flower, options)

    # Nothing is kept, so nothing needs an orderly end; Flower's own can wait for a broker that is gone already.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    flower.io_loop.add_callback(_tell, f"http://{options.address}:{port}/")
    flower.start()


def _bind(flower: Any, options: Any) -> int:
    """The port it listens on: the wanted one, or a free one when that is taken and nobody insisted on it."""
    try:
        return int(flower.start_http_server())
    except OSError as error:
        if error.errno != errno.EADDRINUSE or os.environ.get(PORT_FIXED):
            raise PartFailed(
                f"Flower can't listen on {options.address} port {options.port}: {error.strerror}; choose another --port"
            ) from error
    options.port = 0
    return int(flower.start_http_server())


def _tell(url: str) -> None:
    descriptor = os.environ.pop(READY_FD, "")
    if descriptor:
        os.write(int(descriptor), f"ready {url}\n".encode())
        os.close(int(descriptor))


if __name__ == "__main__":
    sys.exit(main())
