"""What a service says no with, as errors: problem documents (RFC 9457) and failing connections. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from plush_worker.errors import PeerError, PlushError, RunNotFound, ServiceUnavailable, UserError

RETRYABLE_STATUSES = (408, 425, 429, 502, 503, 504)
DETAIL_CHARS = 500


class ApiRefused(UserError):
    """The service won't do what was asked. ``status`` is HTTP's, ``problem`` the stable code of the document."""

    code = "refused"
    exit_code = 1

    def __init__(self, text: str, status: int, problem: str, errors: tuple[Mapping[str, Any], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.problem = problem
        self.errors = errors


class Unauthorized(ApiRefused):
    """The token is wrong, expired or revoked, or may not do this."""

    code = "unauthorized"


class ApiUnavailable(ServiceUnavailable):
    """The service can't be reached or can't answer now. ``wait_s``: what it asked us to wait; 0 when nothing."""

    code = "api_unavailable"

    def __init__(self, text: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class ApiFailed(PeerError):
    """The service failed, or answered what makes no sense."""

    code = "api_failed"


def error_of(status: int, headers: Mapping[str, str], body: bytes, what: str, url: str) -> PlushError:
    """The error of an answer with a status of 400 or more. ``what`` was being done."""
    document = _document(body)
    detail = str(document.get("detail") or document.get("title") or _plain(body) or "no reason given")
    problem = str(document.get("code") or "")
    text = f"{what}: {detail}"
    if status in RETRYABLE_STATUSES or (status >= 500 and document.get("retryable")):
        return ApiUnavailable(f"{text} ({url} answered {status})", _seconds(headers.get("retry-after", "")))
    if status >= 500:
        return ApiFailed(f"{text} ({url} answered {status})")
    errors = tuple(item for item in document.get("errors", ()) if isinstance(item, dict))
    if problem == "bad_experiment" and errors:
        return _spec_errors(errors)
    if problem == "run_not_found":
        return RunNotFound(detail)
    kind = Unauthorized if status in (401, 403) else ApiRefused
    return kind(text, status, problem, errors)


def _spec_errors(errors: tuple[dict[str, Any], ...]) -> PlushError:
    from plush_worker.experiment.spec_load import SpecError, SpecErrors

    return SpecErrors(
        [
            SpecError(
                str(error.get("file") or "experiment"),
                int(error.get("line") or 0),
                str(error.get("path") or ""),
                str(error.get("message") or ""),
            )
            for error in errors
        ]
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _plain(body: bytes) -> str:
    """The beginning of an answer that isn't ours (a proxy's page), on one line."""
    return " ".join(body[:DETAIL_CHARS].decode("utf-8", "replace").split())


def _seconds(text: str) -> float:
    """Retry-After in seconds; its form as a date counts as nothing."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
