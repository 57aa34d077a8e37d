"""Errors of the API as problem documents (RFC 9457), and which error is which status.

Every problem has a stable ``code``, which is also the end of its ``type``; documents and programs may rely on both.
Entry points: ``Problem`` to raise, ``problem_of`` for any other error, ``install``.
"""

from __future__ import annotations

import http
import json
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from plush_api.client import SegmentMissing
from plush_worker.blobs import BlobMissing, BlobRefused, BlobTooLarge
from plush_worker.errors import PlushError, StoreUnavailable, UserError
from plush_worker.experiment.spec_load import SpecErrors
from plush_worker.store.errors import Fenced, MeshClosing, NoSuchMesh, NoSuchRun, StoreFull, TooLarge
from plush_worker.store.idempotency import TooManyRuns

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:plush:problem:"
RETRY_AFTER_S = 1

_STATUS: dict[type[PlushError], int] = {
    NoSuchRun: 404,
    NoSuchMesh: 404,
    MeshClosing: 409,
    Fenced: 409,
    TooLarge: 413,
    BlobTooLarge: 413,
    BlobRefused: 422,
    BlobMissing: 422,
    TooManyRuns: 429,
    StoreUnavailable: 503,
    StoreFull: 507,
    SegmentMissing: 503,
    SpecErrors: 422,
    UserError: 422,
}
_TITLES = {
    "bad_experiment": "The experiment can't be run as it is written",
    "bad_request": "The request doesn't make sense",
    "idempotency_key_reused": "The idempotency key was used for another request",
    "missing_scope": "The token may not do this",
    "rate_limited": "Too many requests",
    "run_not_found": "There is no such run",
    "slice_forbidden": "The token may not use this slice",
    "store_unavailable": "Redis doesn't answer",
    "too_many_runs": "Too many open runs",
    "unauthorized": "A valid token is needed",
}


class Problem(HTTPException):
    """An answer that is an error. ``errors`` are mappings with ``path``, ``line`` and ``message``."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.code = code
        self.errors = tuple(errors)
        self.retryable = retryable

    def response(self, instance: str) -> Response:
        """The problem document; ``instance`` is the path of the request."""
        title = _TITLES.get(self.code, self.code.replace("_", " ").capitalize())
        document: dict[str, Any] = {"type": TYPE_PREFIX + self.code, "title": title, "status": self.status_code}
        document |= {"detail": self.detail, "instance": instance, "code": self.code, "retryable": self.retryable}
        if self.errors:
            document["errors"] = list(self.errors)
        headers = dict(self.headers or {})
        if self.retryable:
            headers.setdefault("Retry-After", str(RETRY_AFTER_S))
        body = b"" if self.status_code in (204, 304) else json.dumps(document).encode()
        return Response(body, self.status_code, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """Any error as a problem. What isn't expected is told as ``internal``, without its text."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, _code_of(error.status_code), str(error.detail), headers=error.headers)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, PlushError):
        for kind in type(error).__mro__:
            if kind in _STATUS:
                return Problem(
                    _STATUS[kind], error.code, str(error), errors=_errors_of(error), retryable=error.retryable
                )
    if isinstance(error, ClientDisconnect):
        return Problem(400, "client_gone", "the client went away before its request was whole")
    if isinstance(error, PlushError):  # others' tracebacks are logged by the server
        logger.error("a request failed", exc_info=error)
    return Problem(500, "internal", f"{type(error).__name__} in the API; its log says more")


def bad_request(place: str, message: str, status: int = 422) -> Problem:
    """A part of the request that can't be used; ``place`` is such as ``query.after``."""
    return Problem(status, "bad_request", f"{place}: {message}", errors=[{"path": place, "message": message}])


def install(app: FastAPI) -> None:
    """Every error of the application is answered with a problem document."""

    async def answer(request: Request, error: Exception) -> Response:
        return problem_of(error).response(path_of(request.scope))

    for kind in (HTTPException, RequestValidationError, PlushError, ClientDisconnect, Exception):
        app.add_exception_handler(kind, answer)


def path_of(scope: MutableMapping[str, Any]) -> str:
    """The path of a request as it was sent, which is a URI reference."""
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.decode("latin-1")


def _invalid(error: RequestValidationError) -> Problem:
    errors = []
    for item in error.errors()[:50]:
        path = ".".join(str(step) for step in item.get("loc", ()))
        errors.append({"path": path, "message": str(item.get("msg", "is wrong"))})
    detail = "; ".join(f"{e['path']}: {e['message']}" if e["path"] else e["message"] for e in errors)
    return Problem(422, "bad_request", detail, errors=errors)


def _errors_of(error: PlushError) -> list[dict[str, Any]]:
    if not isinstance(error, SpecErrors):
        return []
    return [{"path": e.path, "line": e.line, "file": e.file, "message": e.message} for e in error.errors]


def _code_of(status: int) -> str:
    return http.HTTPStatus(status).name.lower()
