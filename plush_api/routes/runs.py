"""Runs: list, show, hosts, kill, remove, how long they are kept. Submitting is in ``submission.py``."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from plush_api.auth import Principal, Reader, Runner
from plush_api.context import Context, Shared, problems
from plush_api.event_feed import finishes, position_of
from plush_api.problems import Problem, bad_request
from plush_api.run_report import report_hosts, report_run
from plush_api.schemas import HostOfRun, HostPage, HostPhase, KillRequest, LeaseRequest, Retention, Run, RunPage
from plush_worker.store.errors import NoSuchRun

router = APIRouter(tags=["runs"])

PAGES_AT_ONCE = 20  # looked at for one answer, before the client has to ask on
FORCED_GRACE_MS = 1000
FORCED_WAIT_S = 25.0
_CURSOR = re.compile(r"(\d{1,16})_([A-Za-z0-9-]{1,64})")
_UNFINISHED = ("waiting", "running", "stopping")
ListState = Literal["open", "ended", "waiting", "running", "stopping", "succeeded", "failed", "killed"]


@router.get("/runs", responses=problems())
async def list_runs(
    shared: Shared,
    request: Request,
    principal: Reader,
    state: Annotated[ListState | None, Query(description="`open`: no end yet.")] = None,
    owner: Annotated[str, Query(max_length=200, description="For admins; others see their own.")] = "",
    name: Annotated[str, Query(max_length=200, description="Of the experiment.")] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str, Query(max_length=100, description="`next` of the page before.")] = "",
) -> RunPage:
    """Runs, newest first. A page may have fewer than `limit` and still a next one."""
    after = ("", "")
    if cursor:
        match = _CURSOR.fullmatch(cursor)
        if match is None:
            raise bad_request("query.cursor", "is no `next` of a page of runs")
        after = (match[1], match[2])
    if not principal.is_admin:
        if owner and owner != principal.owner:
            return RunPage(runs=[], next=None)
        owner = principal.owner
    end = "open" if state in _UNFINISHED else state or ""
    base_url, flower_url = shared.base_url(request), shared.flower_url()
    found: list[Run] = []
    for _ in range(PAGES_AT_ONCE):
        page = await shared.store.find_runs(owner=owner, name=name, end=end, after=after, limit=limit - len(found))
        for head in page.runs:
            try:
                fold = await shared.folds.now(head["run_id"])
            except NoSuchRun:
                continue  # removed in this moment
            run = report_run(head, fold, base_url, flower_url)
            if state not in _UNFINISHED or run.state == state:
                found.append(run)
        after = (page.next_score, page.next_id)
        if not page.next_id or len(found) >= limit:
            break
    return RunPage(runs=found, next=f"{after[0]}_{after[1]}" if after[1] else None)


@router.get("/runs/{run_id}", responses=problems(404))
async def show_run(shared: Shared, request: Request, principal: Reader, run_id: str) -> Run:
    """A run as it is now."""
    return await run_now(shared, request, principal, run_id)


async def run_now(shared: Context, request: Request, principal: Principal, run_id: str) -> Run:
    """The run as it is now. Raises NoSuchRun."""
    head = await shared.head(run_id, principal)
    fold = await shared.folds.now(run_id)
    return report_run(head, fold, shared.base_url(request), shared.flower_url())


@router.get("/runs/{run_id}/hosts", responses=problems(404))
async def list_hosts(
    shared: Shared,
    principal: Reader,
    run_id: str,
    state: Annotated[HostPhase | None, Query()] = None,
    start: Annotated[int, Query(ge=0, le=1 << 40, description="Index of the first host.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> HostPage:
    """The hosts of a run and how each is, by index."""
    await shared.head(run_id, principal)
    hosts = report_hosts(await shared.folds.now(run_id))
    wanted: list[HostOfRun] = []
    for host in hosts[start:]:
        if state is None or host.state == state:
            if len(wanted) == limit:
                return HostPage(hosts=wanted, total=len(hosts), next=host.index)
            wanted.append(host)
    return HostPage(hosts=wanted, total=len(hosts), next=None)


@router.post("/runs/{run_id}/kill", status_code=202, responses=problems(400, 404, 413))
async def kill_run(
    shared: Shared, request: Request, principal: Runner, run_id: str, how: KillRequest | None = None
) -> Run:
    """Stop a run: a signal to everything it started, SIGKILL after the grace. Of a run that has ended nothing."""
    head = await shared.head(run_id, principal)
    if not head.get("finished"):
        how = how or KillRequest()
        await _ask_to_stop(shared, run_id, how.signal, how.grace_ms, principal)
    return await run_now(shared, request, principal, run_id)


@router.delete("/runs/{run_id}", status_code=204, responses=problems(404, 409))
async def remove_run(
    shared: Shared,
    principal: Runner,
    run_id: str,
    force: Annotated[bool, Query(description="Kill it first when it hasn't ended.")] = False,
) -> Response:
    """Forget a run that has ended, and its output. 409 when it hasn't ended."""
    head = await shared.head(run_id, principal)
    if not head.get("finished"):
        if not force:
            raise Problem(409, "run_not_ended", f"run {run_id} hasn't ended: kill it first, or give force=1")
        await _ask_to_stop(shared, run_id, 15, FORCED_GRACE_MS, principal)
        await _wait_for_end(shared, run_id)
    await shared.store.remove_run(run_id)
    shared.folds.forget(run_id)
    return Response(status_code=204)


@router.patch("/runs/{run_id}", responses=problems(400, 404, 413))
async def keep_run(shared: Shared, request: Request, principal: Runner, run_id: str, retention: Retention) -> Run:
    """Change how long a run and its output are kept after its end."""
    await shared.head(run_id, principal)
    await shared.store.set_run_fields(run_id, keep_s=retention.keep_s)
    return await run_now(shared, request, principal, run_id)


@router.post("/runs/{run_id}/lease", status_code=204, responses=problems(400, 404, 413))
async def renew_lease(shared: Shared, principal: Runner, run_id: str, lease: LeaseRequest) -> Response:
    """The client of a run lives for so long: a run that was submitted with a client's lease is stopped without it."""
    await shared.head(run_id, principal)
    if not await shared.store.renew_client(run_id, lease.ttl_s):
        raise NoSuchRun(f"there is no run {run_id} of yours")
    return Response(status_code=204)


async def _ask_to_stop(shared: Context, run_id: str, signal: int, grace_ms: int, principal: Principal) -> None:
    by = f"{principal.owner} by API"
    await shared.store.append(run_id, {"type": "kill_requested", "signal": signal, "grace_ms": grace_ms, "by": by})


async def _wait_for_end(shared: Context, run_id: str) -> None:
    """Until the run has ended. Raises Problem (409) when that takes too long."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FORCED_WAIT_S
    position = position_of("0")
    async with shared.feeds.follow(run_id) as feed:
        while (left_s := deadline - loop.time()) > 0 and not shared.stopping.is_set():
            for event in await feed.after(position, min(left_s, 1.0)):
                if finishes(event):
                    return
                position = position_of(event[0])
    raise Problem(
        409, "run_not_ended", f"run {run_id} was asked to stop and hasn't ended in {FORCED_WAIT_S:g} s", retryable=True
    )
