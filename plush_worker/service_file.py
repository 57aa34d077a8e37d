"""How a command finds the service that runs on this machine.

``plush up`` writes ``service.json`` (0600: it holds credentials); ``find_service`` reads it and believes it only while
the process that wrote it lives. ``PLUSH_REDIS_URL`` and the settings file come first. Standard library only, without
pydantic: the command line asks this before its first request. Full settings are ``config.py``'s.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from plush_worker import xdg
from plush_worker.errors import ConfigurationError
from plush_worker.store.address import parse_url

FILE_NAME = "service.json"


@dataclass(frozen=True, slots=True)
class Service:
    """A service to talk to. ``source`` says where we know it from, for messages."""

    redis_url: str
    flower_url: str = ""
    flower_user: str = ""
    flower_password: str = ""
    pid: int = 0
    process_start: str = ""
    boot_id: str = ""
    state_dir: str = ""
    api_url: str = ""
    token_file: str = ""  # holds an admin token of the API, 0600
    source: str = ""


def find_service() -> Service | None:
    """The service of PLUSH_REDIS_URL, of plush.toml, or of a living ``plush up``; None when there is none.

    Raises ConfigurationError when what is configured can't be read. Doesn't connect.
    """
    url = os.environ.get("PLUSH_REDIS_URL", "")
    if url:
        return Service(
            redis_url=with_password_file(url, os.environ.get("PLUSH_REDIS_PASSWORD_FILE", "")), source="PLUSH_REDIS_URL"
        )
    return _configured() or running_service()


def running_service() -> Service | None:
    """The service that a living ``plush up`` of this user on this machine wrote down."""
    for path in _candidates():
        service = _read(path)
        if service is not None and _lives(service):
            return service
    return None


def write_service(service: Service) -> Path:
    """Write ``service`` as this process's own, atomically and 0600. Returns the path; pass it to ``remove_service``."""
    path = next(_candidates())
    folder = xdg.private_dir(path.parent)
    pid = os.getpid()
    values = asdict(service) | {"pid": pid, "process_start": xdg.process_start(pid), "boot_id": xdg.boot_id()}
    del values["source"]
    descriptor, name = tempfile.mkstemp(prefix=FILE_NAME, dir=folder)  # mkstemp: 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(values, file)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def remove_service(path: Path) -> None:
    """Remove the file if it is this process's own."""
    service = _read(path)
    if service is not None and service.pid == os.getpid():
        path.unlink(missing_ok=True)


def with_password_file(url: str, path: str) -> str:
    """``url`` with the password that the file at ``path`` holds; unchanged when ``path`` is empty.

    A password of the URL's own wins: the URL may be that of a service which doesn't know of this person's settings.
    Raises ConfigurationError when the file can't be read.
    """
    address = parse_url(url)
    if not path or address.password:
        return url
    try:
        password = Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"PLUSH_REDIS_PASSWORD_FILE={path}: {error}") from error
    address.password = password
    return address.url()


def _read(path: Path) -> Service | None:
    """What the file says; None when it isn't there, or not of our making."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("redis_url"), str):
        return None
    kinds = {f.name: int if f.name == "pid" else str for f in fields(Service)}
    known: dict[str, Any] = {k: v for k, v in values.items() if k in kinds and isinstance(v, kinds[k])}
    return Service(**{**known, "source": str(path)})


def _candidates() -> Iterator[Path]:
    runtime = xdg.runtime_dir()
    if runtime is not None:
        yield runtime / FILE_NAME
    yield xdg.state_dir() / FILE_NAME


def _configured() -> Service | None:
    path = xdg.config_dir() / "plush.toml"
    if not path.is_file():
        return None
    import tomllib

    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    url = values.get("redis_url", "")
    if not url:
        return None
    if not isinstance(url, str):
        raise ConfigurationError(f"{path}: redis_url must be a string")
    return Service(redis_url=with_password_file(url, str(values.get("redis_password_file", ""))), source=str(path))


def _lives(service: Service) -> bool:
    return (
        service.boot_id == xdg.boot_id()  # a home shared by NFS shows other machines' files
        and service.pid > 0
        and xdg.process_start(service.pid) == service.process_start != ""
    )
