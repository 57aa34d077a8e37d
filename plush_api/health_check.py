"""Whether the part of the service in this container is well: ``python -m plush_api.health_check api|worker|flower``.

Exit code 0 when it is, 1 with a line that says what is wrong when it isn't. Asked every few seconds, so it imports
little. Redis has a check of its own (``docker-compose.yml``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from plush_worker.errors import PlushError

TIMEOUT_S = 4.0


def main() -> int:
    """The exit code."""
    asked = sys.argv[1] if len(sys.argv) == 2 else ""
    if asked not in CHECKS:
        sys.stderr.write(f"usage: python -m plush_api.health_check {'|'.join(CHECKS)}\n")
        return 2
    try:
        problem = CHECKS[asked]()
    except (PlushError, OSError, ValueError) as error:
        problem = str(error)
    if problem:
        sys.stderr.write(f"{asked}: {problem}\n")
    return 1 if problem else 0


def check_api() -> str:
    """What is wrong with the API: it must reach Redis and know of a worker or say that there is none."""
    scheme = "https" if os.environ.get("PLUSH_API_TLS_CERTIFICATE_FILE") else "http"
    return _get(scheme, int(os.environ.get("PLUSH_API_PORT", "8520")), "/healthz")


def check_flower() -> str:
    """What is wrong with Flower."""
    return _get("http", int(os.environ.get("FLOWER_PORT", "5555")), "/healthcheck")


def check_worker() -> str:
    """What is wrong with the worker of this container: it renews its lease in Redis while it is well."""
    from plush_worker.service_file import find_service
    from plush_worker.store.light import LightStore

    service = find_service()
    if service is None:
        return "no Redis to work for: set PLUSH_REDIS_URL"
    with LightStore.connect(service.redis_url) as store:
        workers = store.live_workers()
    name = os.environ.get("PLUSH_WORKER_NAME", "")
    node = os.uname().nodename.partition(".")[0]
    if any(worker.name == (name or node) for worker in workers):
        return ""
    return f"no worker {name or node} keeps a lease in Redis; there are {len(workers)} others"


def _get(scheme: str, port: int, path: str) -> str:
    import http.client

    connection: http.client.HTTPConnection
    if scheme == "https":
        import ssl

        context = ssl._create_unverified_context()  # noqa: S323 - our own certificate, over loopback, names another host
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status == 200 else f"{scheme}://127.0.0.1:{port}{path} answers {status}"


CHECKS: Mapping[str, Callable[[], str]] = {"api": check_api, "worker": check_worker, "flower": check_flower}

if __name__ == "__main__":
    sys.exit(main())
