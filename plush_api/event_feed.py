"""The events of runs for many followers: one reader for each followed run, and a position for each follower.

A follower holds no queue: it asks for what is behind its position, and is given it from the few newest events that
the feed remembers or, when it is further behind, from the store. So a slow follower costs what a fast one does, and
fifty followers of one run read the store like one. While Redis is away followers wait; nothing is skipped.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from plush_worker.errors import PlushError

logger = logging.getLogger(__name__)

REMEMBERED_BYTES = 1 << 20  # of one run's newest events
PAGE_EVENTS = 200
PAGE_BYTES = 256 << 10  # of one answer to a follower, which a slow one holds; one event may be larger
BLOCK_MS = 5000
RETRY_S = 0.5
GATHER_S = 0.02  # after each reading: what comes in the meantime wakes the followers once, not event by event
FINISHED = b'"type":"run_finished"'

Position = tuple[int, int]
Event = tuple[str, bytes]  # id, JSON
START: Position = (0, 0)


class EventSource(Protocol):
    """What a feed needs of the store."""

    async def raw_events(self, run_id: str, after: str, block_ms: int, count: int) -> list[Event]:
        """Events behind ``after``."""

    async def last_event_id(self, run_id: str) -> str:
        """The newest one's id, "0" when there is none."""


def position_of(event_id: str) -> Position:
    """An id of the stream, ``<milliseconds>-<n>``, as a pair that compares. Raises ValueError, also beyond 64 bits."""
    head, _, tail = event_id.partition("-")
    parts = (head, tail or "0")
    if not all(part.isascii() and part.isdigit() and len(part) <= 20 and int(part) < 1 << 64 for part in parts):
        raise ValueError(f"{event_id[:60]!r} is no id of an event: <milliseconds>-<number>")
    return int(parts[0]), int(parts[1])


def id_of(position: Position) -> str:
    """Inverse of position_of."""
    return f"{position[0]}-{position[1]}"


class EventFeed:
    """The newest events of one run. ``follow`` it through ``EventFeeds``."""

    def __init__(self, source: EventSource, run_id: str) -> None:
        self._source = source
        self._run_id = run_id
        self._positions: list[Position] = []
        self._events: list[Event] = []
        self._bytes = 0
        self._behind = START  # the position just before the first remembered event
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._catching_up = asyncio.Lock()
        self._page_events = PAGE_EVENTS
        self.followers = 0

    async def start(self) -> None:
        """Begins to read, from the newest event on. Raises StoreUnavailable."""
        self._behind = position_of(await self._source.last_event_id(self._run_id))
        self._reader = asyncio.create_task(self._read())

    async def stop(self) -> None:
        """Ends the reader."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def after(self, position: Position, wait_s: float) -> list[Event]:
        """Some of the events behind ``position``, in order, at most PAGE_EVENTS and PAGE_BYTES; waits for the first.

        Empty when none came in ``wait_s``. Raises StoreUnavailable for one that is far behind.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            changed = self._changed
            if position < self._behind:
                if found := await self._catch_up(position):
                    return found
                position = self._behind  # they were trimmed away
            at = bisect_right(self._positions, position)
            if at < len(self._positions):
                return first_bytes(self._events[at : at + PAGE_EVENTS], PAGE_BYTES)
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                return []

    async def _catch_up(self, position: Position) -> list[Event]:
        """A page for one that is far behind; one at a time, and no more than what a page holds as events are here."""
        async with self._catching_up:
            found = await self._source.raw_events(self._run_id, id_of(position), 0, self._page_events)
        if found:
            mean_bytes = max(1, sum(len(data) for _, data in found) // len(found))
            self._page_events = max(1, min(PAGE_EVENTS, PAGE_BYTES // mean_bytes))
        return first_bytes(found, PAGE_BYTES)

    async def _read(self) -> None:
        last = self._behind
        while True:
            try:
                found = await self._source.raw_events(self._run_id, id_of(last), BLOCK_MS, PAGE_EVENTS)
            except PlushError as error:
                logger.warning("run %s: %s: tried again", self._run_id, error)
                await asyncio.sleep(RETRY_S)
                continue
            if found:
                last = position_of(found[-1][0])
                self._remember(found)
                await asyncio.sleep(GATHER_S)

    def _remember(self, found: list[Event]) -> None:
        self._positions += [position_of(event_id) for event_id, _ in found]
        self._events += found
        self._bytes += sum(len(data) for _, data in found)
        drop = 0
        while self._bytes > REMEMBERED_BYTES and drop < len(self._events) - 1:
            self._bytes -= len(self._events[drop][1])
            drop += 1
        if drop:
            self._behind = self._positions[drop - 1]
            del self._positions[:drop], self._events[:drop]
        self._changed.set()
        self._changed = asyncio.Event()


class EventFeeds:
    """The feeds of the runs that are followed now."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._feeds: dict[str, EventFeed] = {}
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def follow(self, run_id: str) -> AsyncIterator[EventFeed]:
        """The feed of a run; it reads while somebody follows. Raises StoreUnavailable."""
        async with self._starting:
            feed = self._feeds.get(run_id)
            if feed is None:
                feed = EventFeed(self._source, run_id)
                await feed.start()
                self._feeds[run_id] = feed
            feed.followers += 1
        try:
            yield feed
        finally:
            feed.followers -= 1
            if not feed.followers and self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
                await feed.stop()

    async def close(self) -> None:
        """Ends all readers."""
        feeds, self._feeds = list(self._feeds.values()), {}
        for feed in feeds:
            await feed.stop()


def first_bytes(events: list[Event], limit_bytes: int) -> list[Event]:
    """The first of ``events`` that are together at most ``limit_bytes``, at least one."""
    size_bytes = 0
    for count, (_, data) in enumerate(events):
        size_bytes += len(data)
        if size_bytes > limit_bytes and count:
            return events[:count]
    return events


def finishes(event: Event) -> bool:
    """Whether the event is the run's last."""
    return FINISHED in event[1]
