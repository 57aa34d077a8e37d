"""Which service a command talks to: the one that is configured or runs, or one of the command's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from plush_worker.errors import ServiceUnavailable

if TYPE_CHECKING:
    from plush_api.client import Client
    from plush_api.remote import Remote

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


class RemoteService(FoundService):
    """A service elsewhere, spoken to over HTTP. Its hosts are looked up where it runs."""

    def __init__(self, remote: Remote) -> None:
        super().__init__("", "")
        self.remote = remote

    def connect(self) -> Client:
        """A new client of it."""
        from plush_api.http_client import HttpClient

        return HttpClient(self.remote.url, self.remote.token)


def find_remote_service() -> RemoteService | None:
    """The service that PLUSH_URL or PLUSH_TOKEN select; None when neither is set. Raises ConfigurationError."""
    if not any(name in os.environ for name in ("PLUSH_URL", "PLUSH_TOKEN", "PLUSH_TOKEN_FILE")):
        return None
    from plush_api.remote import find_remote, warning

    remote = find_remote()
    if remote is None:
        return None
    if text := warning(remote):
        from .app import say

        say(text)
    return RemoteService(remote)


def find_or_start_service(workers: int, console: Console, stack: ExitStack) -> FoundService:
    """The service that is configured or runs, else one with so many workers that ends with ``stack``.

    Never one elsewhere: it is for commands that have looked their hosts up on this machine.
    """
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
    """The service that is configured or runs, here or elsewhere. Raises ServiceUnavailable when there is none."""
    remote = find_remote_service()
    if remote is not None:
        return remote
    from plush_worker.service_file import find_service

    found = find_service()
    if found is None:
        raise ServiceUnavailable("no service is running: start one with 'plush up', or set PLUSH_REDIS_URL")
    return FoundService(found.redis_url, found.state_dir)


def connect_to_service() -> Client:
    """A client of the service that is configured or runs. Raises ServiceUnavailable when there is none."""
    return find_running_service().connect()
