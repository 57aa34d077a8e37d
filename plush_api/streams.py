"""An answer that goes on: bytes as an asynchronous iterator makes them, to a client that may stall or go away.

Nothing is queued for a client: the iterator is asked for more only when the last piece is on its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

logger = logging.getLogger(__name__)


class Stream(Response):
    """Sends ``chunks``. A client that takes nothing for ``stall_s`` is let go, so that it can't hold a place for ever.

    An error of the iterator cuts the answer off without its end, which the client notices; it is logged.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        stall_s: float,
        headers: Mapping[str, str] | None = None,
        closing: AsyncExitStack | None = None,
    ) -> None:
        """``closing`` is closed when the answer is over, however it ends."""
        self._chunks = chunks
        self._closing = closing or AsyncExitStack()
        self._stall_s = stall_s
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send_all(send))
        leaving = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            results = await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._chunks.aclose()
            await self._closing.aclose()
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await self._send(send, start)
        async with aclosing(self._chunks) as chunks:
            async for chunk in chunks:
                await self._send(send, {"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await send(message)
        except TimeoutError:
            logger.info("a follower took nothing for %g s and was let go", self._stall_s)
            raise Stalled from None


class Stalled(ConnectionError):
    """The client doesn't read."""


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
