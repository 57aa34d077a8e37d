"""What the routes share: one object for each application, and how a request gets it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from plush_worker.blobs import BlobStore
from plush_worker.config import Settings
from plush_worker.errors import PlushError
from plush_worker.service_file import running_service
from plush_worker.store.errors import NoSuchRun
from plush_worker.store.service import ServiceStore

from .api_settings import ApiSettings
from .auth import Principal
from .event_feed import EventFeeds
from .gate import VERSION_PREFIX
from .metrics import Metrics
from .problems import Problem
from .run_folds import RunFolds
from .run_output import SegmentFiles
from .schemas import ProblemDocument

RUN_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
FLOWER_LOOK_S = 10.0
COMPILING_AT_ONCE = 4

_MEANINGS = {
    400: "The request can't be read.",
    401: "No valid token.",
    403: "The token may not do this.",
    404: "Not there, or not yours.",
    405: "No such method here.",
    406: "No form of the answer that the request accepts.",
    408: "The body didn't come.",
    409: "Not possible as things are now.",
    413: "Larger than the limit.",
    415: "A form of body that isn't understood.",
    422: "Something in the request is wrong; `errors` says what.",
    429: "Too often, or too many; `Retry-After` says when.",
    503: "Redis, or a file of output, is out of reach; try again.",
    507: "No room.",
}


Declared = dict[int | str, dict[str, Any]]


def problems(*statuses: int, answers: Declared | None = None) -> Declared:
    """What routes declare for OpenAPI: these errors and those that every route has, and other ``answers``."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    wanted = sorted({*statuses, 401, 403, 422, 429, 503})
    return {**(answers or {}), **{status: {"description": _MEANINGS[status], "content": content} for status in wanted}}


PROBLEM_MODEL = ProblemDocument


@dataclass
class Context:
    """Everything that lives as long as the application."""

    settings: Settings
    api: ApiSettings
    store: ServiceStore
    folds: RunFolds
    feeds: EventFeeds
    files: SegmentFiles
    blobs: BlobStore
    metrics: Metrics
    stopping: asyncio.Event
    compiling: asyncio.Semaphore
    followers: int = 0
    _flower_url: str = ""
    _flower_looked_s: float = float("-inf")

    @classmethod
    async def open(cls, settings: Settings, api: ApiSettings, metrics: Metrics) -> Context:
        """Connects. Raises StoreUnavailable."""
        store = await ServiceStore.connect(settings.redis_url)
        return cls(
            settings=settings,
            api=api,
            store=store,
            folds=RunFolds(store),
            feeds=EventFeeds(store),
            files=SegmentFiles(store, settings.state_dir),
            blobs=BlobStore(settings.state_dir),
            metrics=metrics,
            stopping=asyncio.Event(),
            compiling=asyncio.Semaphore(COMPILING_AT_ONCE),
        )

    async def close(self) -> None:
        """Ends readers and connections."""
        await self.feeds.close()
        await self.store.close()

    async def head(self, run_id: str, principal: Principal) -> Mapping[str, str]:
        """The short fields of a run that the principal may see. Raises NoSuchRun for others', too."""
        head = await self.store.run_head(run_id) if RUN_ID.fullmatch(run_id) else None
        if head is None or not principal.sees(head.get("owner", "")):
            raise NoSuchRun(f"there is no run {run_id[:64]} of yours")
        return head

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """A place for an open stream. Raises Problem (429) when all are taken."""
        if self.followers >= self.api.followers:
            raise Problem(429, "too_many_followers", f"{self.followers} streams are open already", retryable=True)
        self.followers += 1
        self.metrics.followers.set(self.followers)
        try:
            yield
        finally:
            self.followers -= 1
            self.metrics.followers.set(self.followers)

    def base_url(self, request: Request) -> str:
        """Where the client sees ``/v1``."""
        return (self.api.public_url or str(request.base_url)).rstrip("/") + VERSION_PREFIX

    def flower_url(self) -> str:
        """Where people see Flower; empty when that isn't known."""
        if self.api.flower_url:
            return self.api.flower_url
        if not self._flower_url and time.monotonic() - self._flower_looked_s > FLOWER_LOOK_S:
            self._flower_looked_s = time.monotonic()
            try:
                service = running_service()
            except PlushError:
                service = None
            if service is not None and service.redis_url == self.settings.redis_url:
                self._flower_url = service.flower_url
        return self._flower_url


def context(request: Request) -> Context:
    """The application's context."""
    found: Context = request.app.state.context
    return found


Shared = Annotated[Context, Depends(context)]
