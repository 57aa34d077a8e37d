"""The event feed: every follower gets every event once and in order, however far behind, at a bounded cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from plush_api import event_feed
from plush_api.event_feed import START, Event, EventFeed, EventFeeds, Position, id_of, position_of
from plush_worker.errors import StoreUnavailable

LIMIT_S = 10.0


class FakeStream:
    """A stream in memory that blocks as Redis does, may be away, and counts how often it is read."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reads = 0
        self.away = False
        self._changed = asyncio.Event()

    def append(self, data: bytes) -> None:
        self.events.append((id_of((len(self.events) + 1, 0)), data))
        self.wake()

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def raw_events(self, run_id: str, after: str, block_ms: int, count: int) -> list[Event]:
        self.reads += 1
        while True:
            if self.away:
                raise StoreUnavailable("away")
            found = [e for e in self.events if position_of(e[0]) > position_of(after)][:count]
            if found or not block_ms:
                return found
            await self._changed.wait()

    async def last_event_id(self, run_id: str) -> str:
        return self.events[-1][0] if self.events else "0"


def run(scenario: Callable[[FakeStream], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario(FakeStream())

    asyncio.run(main())


async def take(feed: EventFeed, position: Position, count: int) -> list[Event]:
    """The next ``count`` events behind ``position``."""
    found: list[Event] = []
    while len(found) < count:
        page = await feed.after(position, LIMIT_S)
        found += page
        position = position_of(found[-1][0])
    return found


def test_followers_that_come_early_and_late_get_all_events_in_order() -> None:
    async def scenario(stream: FakeStream) -> None:
        for n in range(500):
            stream.append(b"%d" % n)
        feeds = EventFeeds(stream)
        async with feeds.follow("r") as feed:
            early = asyncio.create_task(take(feed, START, 700))
            for n in range(500, 700):
                stream.append(b"%d" % n)
            assert [data for _, data in await early] == [b"%d" % n for n in range(700)]
            late = await take(feed, position_of("350-0"), 350)
            assert [data for _, data in late] == [b"%d" % n for n in range(350, 700)]

    run(scenario)


def test_a_follower_behind_what_is_remembered_reads_on_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "REMEMBERED_BYTES", 100)

    async def scenario(stream: FakeStream) -> None:
        feeds = EventFeeds(stream)
        async with feeds.follow("r") as feed:
            stream.append(b"first")
            assert await feed.after(START, LIMIT_S) == [("1-0", b"first")]
            for _ in range(50):
                stream.append(b"x" * 20)
            await take(feed, position_of("50-0"), 1)  # the reader has seen them all
            assert sum(len(data) for _, data in feed._events) <= 120, "it remembers more than it may"
            assert len(await take(feed, position_of("1-0"), 50)) == 50

    run(scenario)


def test_a_page_of_large_events_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "REMEMBERED_BYTES", 1 << 20)

    async def scenario(stream: FakeStream) -> None:
        for _ in range(30):
            stream.append(b"x" * 100_000)
        async with EventFeeds(stream).follow("r") as feed:
            stream.append(b"y" * 100_000)
            for position in (START, position_of("5-0"), position_of("29-0"), position_of("30-0")):
                page = await feed.after(position, LIMIT_S)
                assert 0 < sum(len(data) for _, data in page) <= event_feed.PAGE_BYTES, "a slow follower holds it"
            assert len(await take(feed, START, 31)) == 31

    run(scenario)


def test_fifty_followers_read_the_store_like_one() -> None:
    async def scenario(stream: FakeStream) -> None:
        feeds = EventFeeds(stream)
        async with feeds.follow("r") as feed:
            waiting = [asyncio.create_task(feed.after(START, LIMIT_S)) for _ in range(50)]
            await asyncio.sleep(0)
            stream.append(b"x")
            assert all(await asyncio.gather(*waiting))
            assert stream.reads <= 3

    run(scenario)


def test_nothing_is_skipped_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "RETRY_S", 0.01)

    async def scenario(stream: FakeStream) -> None:
        feeds = EventFeeds(stream)
        async with feeds.follow("r") as feed:
            stream.append(b"before")
            await take(feed, START, 1)
            stream.away = True
            stream.wake()
            waiting = asyncio.create_task(take(feed, position_of("1-0"), 2))
            stream.append(b"during")
            stream.away = False
            stream.append(b"after")
            assert [data for _, data in await waiting] == [b"during", b"after"]

    run(scenario)


def test_the_reader_ends_with_its_last_follower() -> None:
    async def scenario(stream: FakeStream) -> None:
        feeds = EventFeeds(stream)
        async with feeds.follow("r") as one, feeds.follow("r") as two:
            assert one is two
        assert one._reader is not None and one._reader.done()
        assert feeds._feeds == {}

    run(scenario)


def test_a_wait_without_an_event_ends_in_time() -> None:
    async def scenario(stream: FakeStream) -> None:
        async with EventFeeds(stream).follow("r") as feed:
            assert await feed.after(START, 0.01) == []

    run(scenario)


@pytest.mark.parametrize(
    "text", ["", "x", "1-x", "-1", "1--1", "1-2-3", "18446744073709551616", "1" * 30, "١-0", " 1-0"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no id of an event"):
        position_of(text)


def test_ids_compare_as_numbers() -> None:
    assert position_of("9-9") < position_of("10-0") < position_of("10-10")
    assert position_of("0") == START
    assert id_of(position_of("17-3")) == "17-3"
