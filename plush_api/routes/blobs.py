"""Blobs: the contents of an experiment's files, sent before it by their SHA-256."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from plush_api.auth import Runner
from plush_api.context import Shared, problems
from plush_api.problems import Problem
from plush_api.schemas import Blob
from plush_worker.blobs import BlobMissing

router = APIRouter(tags=["blobs"])

Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the content.")]
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


@router.put(
    "/blobs/{sha256}",
    status_code=201,
    responses=problems(408, 413, 507, answers={200: {"model": Blob, "description": "It was there already."}}),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_blob(shared: Shared, request: Request, response: Response, _principal: Runner, sha256: Digest) -> Blob:
    """Send a file's content. Nothing is kept when it isn't what its name says."""
    if not await asyncio.to_thread(shared.blobs.missing, [sha256]):
        response.status_code = 200
        return Blob(sha256=sha256, size_bytes=await asyncio.to_thread(shared.blobs.size, sha256))
    loop = asyncio.get_running_loop()
    body = request.stream()

    async def next_chunk() -> bytes:
        return await anext(body, b"")

    def chunks() -> Iterator[bytes]:
        """The body, piece by piece, for the thread that writes it; the last one is empty."""
        while chunk := asyncio.run_coroutine_threadsafe(next_chunk(), loop).result():
            yield chunk

    try:
        size_bytes = await asyncio.to_thread(shared.blobs.put_stream, chunks(), sha256, shared.api.blob_limit_bytes)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise Problem(507, "no_room", f"no room for the blob: {error.strerror}") from error
        raise
    return Blob(sha256=sha256, size_bytes=size_bytes)


@router.head("/blobs/{sha256}", response_class=Response, responses=problems(404))
async def look_for_blob(shared: Shared, _principal: Runner, sha256: Digest) -> Response:
    """Whether a content is there already; looking keeps it from being removed for a while."""
    if await asyncio.to_thread(shared.blobs.missing, [sha256]):
        raise Problem(404, "blob_not_found", "no blob of this digest is here")
    try:
        size_bytes = await asyncio.to_thread(shared.blobs.size, sha256)
    except BlobMissing as error:
        raise Problem(404, "blob_not_found", "no blob of this digest is here") from error
    return Response(status_code=200, headers={"Plush-Size-Bytes": str(size_bytes)})
