"""Whether the API is there, whether it can work, and what Prometheus asks."""

from __future__ import annotations

from fastapi import APIRouter, Response

from plush_api.context import Declared, Shared, problems
from plush_api.metrics import CONTENT_TYPE
from plush_api.schemas import Health, Readiness
from plush_worker.config import RUN_QUEUE
from plush_worker.errors import StoreUnavailable

router = APIRouter(tags=["service"])
_OPEN: Declared = {status: entry for status, entry in problems().items() if status in (429, 503)}


@router.get("/healthz", responses=_OPEN)
async def health() -> Health:
    """The process answers. No token needed."""
    return Health()


@router.get("/readyz", responses=_OPEN)
async def readiness(shared: Shared) -> Readiness:
    """Redis answers, so that runs can be submitted; without a worker they wait. No token needed."""
    await shared.store.ping()
    return Readiness(workers=len(await shared.store.live_workers()))


@router.get("/metrics", response_class=Response, responses=problems(answers={200: {"content": {"text/plain": {}}}}))
async def metrics(shared: Shared) -> Response:
    """For Prometheus. From this machine no token is needed."""
    try:
        workers, queued = await shared.store.live_workers(), await shared.store.queued(RUN_QUEUE)
    except StoreUnavailable:
        return Response(shared.metrics.text(None, 0), media_type=CONTENT_TYPE)
    return Response(shared.metrics.text(workers, queued), media_type=CONTENT_TYPE)
