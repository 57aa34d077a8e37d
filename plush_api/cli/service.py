"""Which service a command talks to: the one that is configured or runs, or one of the command's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from plush_worker.errors import ServiceUnavailable

if TYPE_CHECKING:
    from plush_api.client import Client

    from .console import Console


class FoundService:
    """A service that a command can use. ``failure`` is set when it is the command's own."""

    def __init__(self, redis_url: str, state_dir: str, failure: Callable[[], str | None] | None = None) -> None:
        self.redis_url = redis_url
        self.state_dir = state_dir
        self.failure = failure

    def connect(self) -> Client:
        """A new client of it."""
        from plush_api.client import connect

        return connect(self.redis_url, self.state_dir)


def find_or_start_service(workers: int, console: Console, stack: ExitStack) -> FoundService:
    """The service that is configured or runs, else one with so many workers that ends with ``stack``."""
    from plush_worker.service_file import find_service

    found = find_service()
    if found is not None:
        if workers:
            console.say(f"--workers {workers} has no effect: the workers of {found.source} are used")
        return FoundService(found.redis_url, found.state_dir)
    from plush_api.embedded import EmbeddedStack

    embedded = stack.enter_context(EmbeddedStack(workers=workers or 1))
    return FoundService(embedded.redis_url, embedded.state_dir, embedded.failure)


def find_running_service() -> FoundService:
    """The service that is configured or runs. Raises ServiceUnavailable when there is none."""
    from plush_worker.service_file import find_service

    found = find_service()
    if found is None:
        raise ServiceUnavailable("no service is running: start one with 'plush up', or set PLUSH_REDIS_URL")
    return FoundService(found.redis_url, found.state_dir)


def connect_to_service() -> Client:
    """A client of the service that is configured or runs. Raises ServiceUnavailable when there is none."""
    return find_running_service().connect()
