"""Flower as a part of a stack: ``python -m plush_api.flower_part``.

Runs Flower's own server on a port, with its state in memory, and says on PLUSH_READY_FD where it serves. The
address comes in FLOWER_ADDRESS and FLOWER_PORT, the credentials (``user:password``) in FLOWER_BASIC_AUTH or in the
file that PLUSH_FLOWER_AUTH_FILE names: never in argv. Without credentials it serves on loopback only. Where people see
the API is told by PLUSH_URL, or by the service file of ``plush up``: a run's task then names its place there.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plush_worker.errors import ConfigurationError, PartFailed, PlushError
from plush_worker.service_file import running_service
from plush_worker.worker_process import READY_FD, wait_for_server

SERVER_WAIT_S = 10.0
PORT_FIXED = "PLUSH_FLOWER_PORT_FIXED"  # in the environment: no other port than FLOWER_PORT will do
AUTH_FILE = "PLUSH_FLOWER_AUTH_FILE"
AUTH = "FLOWER_BASIC_AUTH"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RUN_TASK = "plush.coordinate"
API_LOOK_S = 10.0


def main() -> int:
    """Serve until a signal. Returns the exit code."""
    from plush_worker.celery_app import configure_logging, create_app
    from plush_worker.config import load_settings

    try:
        settings = load_settings()
        configure_logging(logging.WARNING, os.environ.get("PLUSH_LOG_FILE"), settings.log_format)
        _read_credentials()
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
    if options.address not in LOOPBACK and not options.basic_auth:
        raise ConfigurationError(
            f"Flower serves on {options.address or 'every address'} only behind a password: set {AUTH_FILE} to a file "
            f"with user:password, or {AUTH}"
        )
    options.format_task = run_links()
    flower = Flower(capp=app, options=options, **urls)
    port = _bind(flower, options)

    # Nothing is kept, so nothing needs an orderly end; Flower's own can wait for a broker that is gone already.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    flower.io_loop.add_callback(_tell, f"http://{options.address}:{port}/")
    flower.start()


def _read_credentials() -> None:
    """The file's credentials go where Flower looks for them. Raises ConfigurationError."""
    path = os.environ.get(AUTH_FILE, "")
    if not path:
        return
    try:
        credentials = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{AUTH_FILE}={path}: {error}") from error
    if not all(credentials.partition(":")[::2]) or any(c.isspace() or c == "," for c in credentials):
        raise ConfigurationError(f"{AUTH_FILE}={path}: not of the form user:password")
    os.environ[AUTH] = credentials


def run_links() -> Callable[[Any], Any]:
    """Flower's hook ``format_task``: puts the place of a run in the API into what is shown of its task."""
    url, looked_s = os.environ.get("PLUSH_URL", "").rstrip("/"), float("-inf")

    def format_task(task: Any) -> Any:
        """Gets a copy of the task."""
        nonlocal url, looked_s
        if task.name != RUN_TASK:
            return task
        if not url and time.monotonic() - looked_s > API_LOOK_S:
            looked_s = time.monotonic()
            service = running_service()
            url = service.api_url.rstrip("/") if service is not None else ""
        if url:
            task.kwargs = repr({"run": task.uuid, "api": f"{url}/v1/runs/{task.uuid}"})
        return task

    return format_task  # Flower takes a plain function only


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
