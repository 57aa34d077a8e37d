"""What every request passes before a route sees it: metrics, token, rate, size of the body. An ASGI middleware.

Owns which paths are open to all. A request that is refused costs a lookup in Redis at most, and none after many wrong
tokens from one address.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from plush_worker.errors import PlushError
from plush_worker.store.service import ServiceStore
from plush_worker.store.tokens import ParsedToken

from .api_settings import ApiSettings
from .auth import PRINCIPAL, Principal, authenticate, token_in
from .metrics import Metrics
from .problems import Problem, path_of, problem_of
from .rates import Buckets

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

VERSION_PREFIX = "/v1"
_OPEN = {"/healthz", "/readyz", "/openapi.json"}
_METRICS = "/metrics"
_BLOBS = "/v1/blobs/"
BODY_WAIT_S = 30.0  # for the next piece of a body
WRONG_TOKENS_PER_S, WRONG_TOKENS_AT_ONCE = 2.0, 30  # from one address
GOOD_TOKENS = 10_000  # remembered


class Gate:
    """Wraps the application. ``store`` is asked for at each request, since it is connected at start-up."""

    def __init__(self, app: App, settings: ApiSettings, store: Callable[[], ServiceStore], metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._requests = Buckets(settings.rate_per_s, settings.rate_burst)
        self._wrong_tokens = Buckets(WRONG_TOKENS_PER_S, WRONG_TOKENS_AT_ONCE)
        self._good_tokens: dict[str, None] = {}  # ids of tokens that were accepted, oldest first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 500

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.began(scope, status, time.monotonic() - began_s)
            await send(message)

        try:
            await self._admit(scope)
            await self._app(scope, self._limited(scope, receive), watched)
        except (Problem, PlushError) as error:  # of the gate; the routes' own are answered within
            await problem_of(error).response(path_of(scope))(scope, receive, watched)

    async def _admit(self, scope: Scope) -> None:
        """Notes the principal in the scope. Raises Problem, StoreUnavailable."""
        path = scope["path"].removeprefix(VERSION_PREFIX) or "/"
        address = scope["client"][0] if scope.get("client") else ""
        if path in _OPEN or (path == _METRICS and is_loopback(address)):
            self._take(self._requests, f"address {address}")
            return
        token = token_in(_header(scope, b"authorization"))
        wait_s = self._wrong_tokens.wait_s(address, time.monotonic())
        if wait_s and token.token_id not in self._good_tokens:  # which others behind one proxy may go on using
            raise _rate_limited("too many wrong tokens from this address", wait_s)
        principal = await self._principal(token, address)
        self._take(self._requests, f"token {principal.token_id}")
        scope[PRINCIPAL] = principal

    async def _principal(self, token: ParsedToken, address: str) -> Principal:
        try:
            principal = await authenticate(self._store(), token)
        except Problem:
            self._good_tokens.pop(token.token_id, None)
            self._wrong_tokens.take(address, time.monotonic())
            raise
        self._good_tokens[token.token_id] = None
        if len(self._good_tokens) > GOOD_TOKENS:
            del self._good_tokens[next(iter(self._good_tokens))]
        return principal

    def _take(self, buckets: Buckets, key: str) -> None:
        wait_s = buckets.take(key, time.monotonic())
        if wait_s:
            raise _rate_limited(f"more than {self._settings.rate_per_s:g} requests a second", wait_s)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """``receive`` that counts the body. Raises Problem: 413 beyond the limit, 408 when nothing comes."""
        is_blob = scope["path"].startswith(_BLOBS) and scope["method"] == "PUT"
        limit_bytes = self._settings.blob_limit_bytes if is_blob else self._settings.body_limit_bytes
        announced = _header(scope, b"content-length")
        if announced.isdigit() and int(announced) > limit_bytes:
            raise _too_large(limit_bytes)
        taken_bytes, whole = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken_bytes, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout(BODY_WAIT_S):
                    message = await receive()
            except TimeoutError:
                raise Problem(408, "body_timeout", f"no more of the body came for {BODY_WAIT_S:g} s") from None
            if message["type"] == "http.request":
                taken_bytes += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if taken_bytes > limit_bytes:
                    raise _too_large(limit_bytes)
            return message

        return counted


def is_loopback(address: str) -> bool:
    """Whether an address of a client is this machine's own, or a Unix socket's (empty)."""
    try:
        return not address or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _rate_limited(why: str, wait_s: float) -> Problem:
    headers = {"Retry-After": str(max(1, round(wait_s + 0.5)))}
    return Problem(429, "rate_limited", f"{why}: try again in {wait_s:.1f} s", headers=headers, retryable=True)


def _too_large(limit_bytes: int) -> Problem:
    # The rest of the body is still on its way: the connection can't be used any further.
    return Problem(413, "too_large", f"the body has more than {limit_bytes} bytes", headers={"Connection": "close"})


def _header(scope: Scope, name: bytes) -> str:
    values = [value for key, value in scope["headers"] if key == name]
    return values[0].decode("latin-1") if values else ""
