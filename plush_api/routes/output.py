"""The output of a run: as text, and as the segments that clients put together themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from plush_api.auth import Reader
from plush_api.context import Context, Shared, problems
from plush_api.event_feed import EventFeed, position_of
from plush_api.problems import Problem, bad_request
from plush_api.run_folds import RunFold
from plush_api.run_output import STREAMS, OutputText, read_new
from plush_api.schemas import Segment, SegmentList
from plush_api.streams import Stream
from plush_worker.errors import PlushError

router = APIRouter(tags=["output"])

TEXT = "text/plain; charset=utf-8"
FRAMES = "application/octet-stream"
WAIT_S = 1.0
GATHER_S = 0.05  # between two readings for a follower
_MAX_OFFSET = 1 << 62


@router.get(
    "/runs/{run_id}/output",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def read_output(
    shared: Shared,
    principal: Reader,
    run_id: str,
    host: Annotated[str, Query(max_length=300, description="Only this host's, byte by byte as it printed it.")] = "",
    stream: Annotated[Literal["stdout", "stderr", "both"], Query()] = "stdout",
    process: Annotated[str, Query(max_length=200, description="Only of the process of this name.")] = "",
    first_byte: Annotated[int, Query(alias="from", ge=0, le=_MAX_OFFSET, description="Of one host's stream.")] = 0,
    end_byte: Annotated[
        int | None, Query(alias="to", ge=0, le=_MAX_OFFSET, description="Behind the last byte.")
    ] = None,
    follow: Annotated[bool, Query(description="Go on until the run has ended.")] = False,
) -> Response:
    """What hosts printed. Of all hosts: each line behind its host's name, in the order in which it was stored."""
    await shared.head(run_id, principal)
    fold = await shared.folds.now(run_id)
    number = _number(fold, host) if host else None
    ranged = bool(first_byte) or end_byte is not None
    if ranged and (number is None or stream == "both"):
        raise bad_request("query.from", "a range is of one host's stream: give host, and stdout or stderr as stream")
    if ranged and not process and len(fold.spec.processes) > 1:
        raise bad_request("query.process", f"the run has {len(fold.spec.processes)} processes: say which one")
    if process and not any(p["name"] == process for p in fold.spec.processes):
        raise Problem(404, "process_not_found", f"{process!r} is no process of this run")
    for segment in await shared.store.committed(run_id):  # while there can be an error instead of a torn text
        await shared.files.path(run_id, segment)
    text = OutputText(fold, host=number, streams=STREAMS[stream], ops=None, first_byte=first_byte, end_byte=end_byte)
    stack = AsyncExitStack()
    try:
        await stack.enter_async_context(shared.following())
        feed = await stack.enter_async_context(shared.feeds.follow(run_id)) if follow else None
    except BaseException:
        await stack.aclose()
        raise
    chunks = _read(shared, fold, text, process, feed)
    return Stream(chunks, media_type=TEXT, stall_s=shared.api.stall_s, closing=stack)


@router.get("/runs/{run_id}/segments", responses=problems(404))
async def list_segments(shared: Shared, principal: Reader, run_id: str) -> SegmentList:
    """The files of output of a run, and how much of each is committed."""
    await shared.head(run_id, principal)
    committed = await shared.store.committed(run_id)
    return SegmentList(segments=[Segment(name=n, committed_bytes=size) for n, size in sorted(committed.items())])


@router.get(
    "/runs/{run_id}/segments/{name}",
    response_class=Response,
    responses={200: {"content": {FRAMES: {"schema": {"type": "string", "format": "binary"}}}}, **problems(404)},
)
async def read_segment_bytes(
    shared: Shared,
    principal: Reader,
    run_id: str,
    name: str,
    start: Annotated[int, Query(ge=0, le=_MAX_OFFSET)] = 0,
    end: Annotated[int | None, Query(ge=0, le=_MAX_OFFSET, description="Default: what is committed.")] = None,
) -> Response:
    """Bytes of a segment: OUTPUT frames as docs/protocol.md describes them. Whole frames between committed lengths."""
    await shared.head(run_id, principal)
    committed = (await shared.store.committed(run_id)).get(name)
    if committed is None:
        raise Problem(404, "segment_not_found", f"run {run_id} has no segment of this name")
    last = committed if end is None else min(end, committed)
    await shared.files.path(run_id, name)
    stack = AsyncExitStack()
    await stack.enter_async_context(shared.following())
    chunks = shared.files.raw(run_id, name, min(start, last), last)
    return Stream(chunks, media_type=FRAMES, stall_s=shared.api.stall_s, closing=stack)


def _number(fold: RunFold, host: str) -> int:
    number = fold.number_of(host)
    if number is None:
        known = any(entry["name"] == host for entry in fold.spec.hosts)
        why = "has not joined yet: it has no output" if known else "is no host of this run"
        raise Problem(404, "host_not_found", f"{host!r} {why}")
    return number


async def _read(
    shared: Context, fold: RunFold, text: OutputText, process: str, feed: EventFeed | None
) -> AsyncGenerator[bytes, None]:
    """The text of what is committed; with a feed, also of what comes until the run has ended."""
    run_id = fold.spec.run_id
    read: dict[str, int] = {}
    position = position_of(fold.last_id)
    ended = feed is None or fold.state.finished
    is_stale = True  # what is committed and which ops there are isn't known, or has changed otherwise than by output
    committed: dict[str, int] = {}
    while not text.complete:
        try:
            if is_stale:
                fold, committed = await shared.folds.now(run_id), await shared.store.committed(run_id)
                text.ops = await _ops_of(shared, run_id, process) if process else None
                text.names, is_stale = fold.names, False
        except PlushError as error:
            if feed is None or not error.retryable or shared.stopping.is_set():
                raise
            await asyncio.sleep(WAIT_S)
            continue
        async for data in read_new(shared.files, run_id, committed, read, text):
            yield data
        if ended or shared.stopping.is_set():
            break
        assert feed is not None
        await asyncio.sleep(GATHER_S)
        for event_id, data in await feed.after(position, WAIT_S):
            position = position_of(event_id)
            event = json.loads(data)
            if event["type"] == "output":
                name = event["segment"]
                committed[name] = max(committed.get(name, 0), event["bytes"])
            else:
                is_stale = is_stale or event["type"] in ("op_ordered", "hosts_joined")
                ended = ended or event["type"] == "run_finished"
    text.end()
    if data := text.drain():
        yield data


async def _ops_of(shared: Context, run_id: str, process: str) -> frozenset[int]:
    """The ops of one process of a run."""
    return frozenset(op.op for op in await shared.store.ops(run_id) if op.name == process)
