"""Which service elsewhere commands talk to over HTTP, and with which token; from the environment, never arguments.

Imports little: every command asks this before its first request.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from plush_worker.errors import ConfigurationError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOW = "set PLUSH_TOKEN, or PLUSH_TOKEN_FILE to a file with the token ('plush token create' prints one)"


class Remote(NamedTuple):
    """A service with an HTTP interface. ``source`` says where we know it from, for messages."""

    url: str  # without a slash at its end
    token: str
    source: str


def find_remote() -> Remote | None:
    """The service of PLUSH_URL, or, with a token but no URL, the one that runs on this machine; else None.

    Raises ConfigurationError when there is a URL without a token, or a token for no service.
    """
    url = os.environ.get("PLUSH_URL", "").strip().rstrip("/")
    token = _configured_token()
    if url:
        check_url(url)
        return Remote(url, token or _token_of_own_service(url), "PLUSH_URL")
    if not token:
        return None
    from plush_worker.service_file import running_service

    service = running_service()
    if service is None or not service.api_url:
        raise ConfigurationError(
            "PLUSH_TOKEN is set and no service with an API runs here: set PLUSH_URL to its address"
        )
    return Remote(service.api_url.rstrip("/"), token, service.source)


def check_url(url: str) -> None:
    """Raises ConfigurationError for what is no address of a service."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
        _ = parts.port
    except ValueError:
        wrong = True
    else:
        if parts.username or parts.password:
            raise ConfigurationError("PLUSH_URL holds a user or password: a token belongs in PLUSH_TOKEN")
    if wrong:
        raise ConfigurationError(f"PLUSH_URL={url}: not the address of a service, such as https://plush.example.org")


def warning(remote: Remote) -> str:
    """What there is to say about how the token travels; empty when nothing."""
    from urllib.parse import urlsplit

    parts = urlsplit(remote.url)
    if parts.scheme == "https" or parts.hostname in LOOPBACK:
        return ""
    return f"{remote.url} is not encrypted: whoever listens on the way can use your token; use https"


def _configured_token() -> str:
    """The token of PLUSH_TOKEN or PLUSH_TOKEN_FILE; empty when neither is set."""
    token = os.environ.get("PLUSH_TOKEN", "").strip()
    path = os.environ.get("PLUSH_TOKEN_FILE", "")
    if token or not path:
        return token
    return _read(path, f"PLUSH_TOKEN_FILE={path}")


def _token_of_own_service(url: str) -> str:
    """The admin token that ``plush up`` wrote for this user, when ``url`` is its own API. Raises ConfigurationError."""
    from plush_worker.service_file import running_service

    service = running_service()
    if service is not None and service.token_file and service.api_url.rstrip("/") == url:
        return _read(service.token_file, f"the token of the service at {url}")
    raise ConfigurationError(f"PLUSH_URL={url} needs a token: {_HOW}")


def _read(path: str, what: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(4096).strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{what}: {error}") from error
    if not token or any(c.isspace() for c in token):
        raise ConfigurationError(f"{what}: {path} holds no token; {_HOW}")
    return token
