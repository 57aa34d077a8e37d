"""The events of a run: as server-sent events that go on where a client left off, or as pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from plush_api.auth import Reader, authenticate, token_in
from plush_api.context import Context, Declared, Shared, problems
from plush_api.event_feed import START, Event, EventFeed, Position, finishes, first_bytes, id_of, position_of
from plush_api.problems import Problem, bad_request
from plush_api.schemas import EventPage
from plush_api.streams import Stream
from plush_worker.errors import PlushError

router = APIRouter(tags=["events"])

EVENT_STREAM = "text/event-stream"
BEAT_S = 15.0  # a comment after so long without an event, so that proxies keep the stream open
LOOK_S = 1.0  # how soon a stopping server is noticed
PAGE_BYTES = 4 << 20  # of a page of events; one event may be larger
RETRY_MS = 1000  # what clients are told to wait before they come back
_ID = Annotated[str, Query(max_length=50, description="Id of the last event seen; empty: from the first.")]
_MESSAGE = {
    "type": "object",
    "description": "One message. `data` is the JSON of an event; an `event` called `gap` says that some may be missed.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["data"],
}
_ANSWERS: Declared = {
    200: {
        "description": "Events as a stream, or a page of them where only JSON is accepted.",
        "content": {EVENT_STREAM: {"schema": _MESSAGE}},
    },
    204: {"description": "The run has ended and the client has seen all."},
}


@router.get(
    "/runs/{run_id}/events",
    response_model=EventPage,
    responses=problems(404, answers=_ANSWERS),
)
async def follow_events(
    shared: Shared,
    request: Request,
    principal: Reader,
    run_id: str,
    after: _ID = "",
    wait_s: Annotated[float, Query(ge=0, le=30, description="A page waits so long for its first event.")] = 0.0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events of a page.")] = 200,
    last_event_id: Annotated[str, Header(max_length=50, description="Wins over `after`.")] = "",
) -> Response:
    """Follow a run. With `Accept: application/json` a page of events instead of a stream."""
    await shared.head(run_id, principal)
    position = _position(last_event_id, "header.Last-Event-ID") if last_event_id else _position(after, "query.after")
    accepted = request.headers.get("accept", "")
    if "application/json" in accepted and EVENT_STREAM not in accepted:
        return await _page(shared, run_id, position, wait_s, limit)
    if position != START and await _seen_all(shared, run_id, position):
        return Response(status_code=204)  # tells an EventSource not to come back
    stack = AsyncExitStack()
    try:
        await stack.enter_async_context(shared.following())
        feed = await stack.enter_async_context(shared.feeds.follow(run_id))
    except BaseException:
        await stack.aclose()
        raise
    header = request.headers.get("authorization", "")
    chunks = _stream(shared, stack, feed, run_id, position, header)
    return Stream(
        chunks, media_type=EVENT_STREAM, stall_s=shared.api.stall_s, headers={"X-Accel-Buffering": "no"}, closing=stack
    )


async def _page(shared: Context, run_id: str, position: Position, wait_s: float, limit: int) -> Response:
    found = first_bytes(await shared.store.raw_events(run_id, id_of(position), 0, limit), PAGE_BYTES)
    gap = bool(found) and await _may_miss(shared, run_id, position, found[0])
    if not found and wait_s and not await _seen_all(shared, run_id, position):
        async with shared.following(), shared.feeds.follow(run_id) as feed:
            found = (await _next(shared, feed, position, wait_s))[:limit]
    events = b",".join(b'{"id":"%s","event":%s}' % (event_id.encode(), data) for event_id, data in found)
    ended = finishes(found[-1]) if found else await _seen_all(shared, run_id, position)
    flags = b'"gap":%s,"ended":%s' % (_json_bool(gap), _json_bool(ended))
    return Response(b'{"events":[%s],%s}' % (events, flags), media_type="application/json")


async def _stream(
    shared: Context, stack: AsyncExitStack, feed: EventFeed, run_id: str, position: Position, header: str
) -> AsyncGenerator[bytes, None]:
    """Server-sent events until the run's last one, the server's end, or the token's."""
    del stack  # closed by the response, whatever becomes of this generator
    yield b"retry: %d\n\n" % RETRY_MS
    is_first = True
    while not shared.stopping.is_set():
        try:
            found = await _next(shared, feed, position, BEAT_S)
            if found and is_first and await _may_miss(shared, run_id, position, found[0]):
                yield b"event: gap\ndata: {}\n\n"
            goes_on = bool(found) or await _goes_on(shared, run_id, header)
        except PlushError as error:
            if not error.retryable:
                raise
            yield b": the store is away\n\n"
            await asyncio.sleep(LOOK_S)
            continue
        except Problem:
            return  # the token isn't valid any more
        is_first = is_first and not found
        if found:
            yield b"".join(b"id: %s\ndata: %s\n\n" % (event_id.encode(), data) for event_id, data in found)
            position = position_of(found[-1][0])
            if finishes(found[-1]):
                return
        elif goes_on:
            yield b": beat\n\n"
        else:
            return


async def _next(shared: Context, feed: EventFeed, position: Position, wait_s: float) -> list[Event]:
    """The next events behind ``position``; empty when none came in ``wait_s`` or the server is stopping."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while not shared.stopping.is_set():
        left_s = deadline - loop.time()
        found = await feed.after(position, max(0.0, min(left_s, LOOK_S)))
        if found or left_s <= LOOK_S:
            return found
    return []


async def _goes_on(shared: Context, run_id: str, header: str) -> bool:
    """Whether a quiet stream may still bring something. Raises Problem when its token isn't valid any more."""
    await authenticate(shared.store, token_in(header))
    head = await shared.store.run_head(run_id)
    return head is not None and not head.get("finished")


async def _seen_all(shared: Context, run_id: str, position: Position) -> bool:
    """Whether the run has ended and ``position`` is that of its last event, or behind it."""
    fold = await shared.folds.now(run_id)
    return fold.state.finished and position >= position_of(fold.last_id)


async def _may_miss(shared: Context, run_id: str, position: Position, first: Event) -> bool:
    """Whether events between ``position`` and ``first`` may have been trimmed away."""
    if position == START:
        return b'"type":"run_submitted"' not in first[1]
    oldest = await shared.store.raw_events(run_id, "0", 0, 1)
    return bool(oldest) and position_of(oldest[0][0]) > position


def _position(text: str, place: str) -> Position:
    try:
        return position_of(text) if text else START
    except ValueError as error:
        raise bad_request(place, str(error)) from error


def _json_bool(value: bool) -> bytes:
    return b"true" if value else b"false"
