"""``plush up``: a service on this machine in one foreground command: Redis server, workers, API, Flower.

The command itself is the parts' supervisor (``stack.py``): it starts a part again that dies, and ends, with an error,
when one does so again and again. It tells other commands where the parts are (``service_file.py``).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from plush_api.stack import Part, Stack
    from plush_worker.service_file import Service
    from plush_worker.store.address import Address

START_TIMEOUT_S = 30.0
STOP_GRACE_S = 8.0
FLOWER_USER = "plush"


def up(
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    flower: Annotated[bool, typer.Option(help="Show runs and workers in a browser.")] = True,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Flower's port on 127.0.0.1 (5555, or a free one).")
    ] = None,
    api: Annotated[bool, typer.Option(help="Serve the HTTP API, for clients elsewhere and in other languages.")] = True,
    api_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The API's port on 127.0.0.1 (8520, or a free one).")
    ] = None,
) -> None:
    """Run a service on this machine until Ctrl-C: a Redis server, workers, the API and Flower.

    Every other command finds it. A part that dies is started again.
    """
    import os

    from plush_api.restarts import Restarts
    from plush_api.signal_events import signals_as_events
    from plush_api.stack import Stack
    from plush_worker import xdg
    from plush_worker.config import default_worker_name

    state = xdg.private_dir(xdg.state_dir())
    lock = _lock(state)
    folder = xdg.private_dir(state / "service")
    environment = {**os.environ, "PLUSH_STATE_DIR": str(state)}
    stack = Stack(
        folder, environment, _address(folder), on_ready=_tell, restarts=Restarts(), on_restart=_tell_of_restart
    )
    with signals_as_events() as (signal_fd, asked):
        try:
            for number in range(1, workers + 1):
                stack.start_worker(f"{default_worker_name()}-{number}")
            if api:
                stack.start_api(**_api_environment(folder, api_port))
            if flower:
                stack.start_flower(**_flower_environment(state, port))
            stack.start_server(appendonly=True)
            _watch(stack, signal_fd, asked, state)
        finally:
            killed = stack.stop(STOP_GRACE_S, gently=True)
            for name in killed:
                print(f"{name} didn't end within {STOP_GRACE_S:g} s and was killed", file=sys.stderr)
            os.close(lock)


def _watch(stack: Stack, signal_fd: int, asked: list[int], state: Path) -> None:
    """Until asked to end. Raises PartFailed when a part isn't ready in time, or dies again and again."""
    import time

    from plush_api.signal_events import drain
    from plush_worker.errors import PartFailed
    from plush_worker.service_file import remove_service, write_service

    deadline = time.monotonic() + START_TIMEOUT_S
    path = told = None
    try:
        while not asked:
            if stack.all_ready() and (found := _service(stack, state)) != told:
                path, first, told = write_service(found), told is None, found
                if first:
                    print(f"ready; Ctrl-C ends it ({path} tells other commands)", flush=True)
            left_s = None if told else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                late = ", ".join(part.name for part in stack.parts if not part.ready)
                raise PartFailed(f"not ready within {START_TIMEOUT_S:g} s: {late}; their logs are in {stack.folder}")
            stack.wait((signal_fd,), left_s)
            drain(signal_fd)
    finally:
        if path is not None:
            remove_service(path)


def _service(stack: Stack, state: Path) -> Service:
    """What other commands are told, from what the parts have told."""
    from plush_worker.service_file import Service

    details = {part.name: part.detail for part in stack.parts}
    flower, api = details.get("flower", ""), details.get("api", "")
    return Service(
        redis_url=stack.address.url(),
        flower_url=flower,
        flower_user=FLOWER_USER if flower else "",
        flower_password=_password(state / "flower.password") if flower else "",
        state_dir=str(state),
        api_url=api,
        token_file=str(_token_file(stack.folder)) if api else "",
    )


def _tell(part: Part) -> None:
    """One line a part, with its URL."""
    detail = part.detail
    if part.name == "flower":
        detail += f"  (user {FLOWER_USER}, password in {part.log.parent.parent / 'flower.password'})"
    elif part.name == "api":
        detail += f"  (admin token in {_token_file(part.log.parent)})"
    elif part.name.startswith("worker "):
        detail = f"queue worker.{part.name.removeprefix('worker ')}  (log {part.log})"
    print(f"{part.name:<20} {detail}", flush=True)


def _tell_of_restart(text: str) -> None:
    from .app import say

    say(text)


def _lock(state: Path) -> int:
    """Be the only ``plush up`` on this state folder, for the life of the returned descriptor. Raises AlreadyRunning."""
    import fcntl
    import os

    from plush_worker.errors import AlreadyRunning
    from plush_worker.service_file import running_service

    lock = os.open(state / "up.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.read(lock, 200).decode("utf-8", "replace").strip() or "unknown"
        os.close(lock)
        service = running_service()
        places = (("Flower", service.flower_url), ("its API", service.api_url)) if service else ()
        where = "".join(f"; {name} is at {url}" for name, url in places if url)
        raise AlreadyRunning(f"plush up runs already on {state} ({owner}){where}") from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"pid {os.getpid()} on {os.uname().nodename}".encode(), 0)
    return lock


def _address(folder: Path) -> Address:
    """The server's Unix socket, in the state folder or, where that path is too long, in a shorter one."""
    from plush_worker import xdg
    from plush_worker.store.address import Address

    path = folder / "redis.sock"
    if not xdg.fits_socket(path):
        path = xdg.private_dir(xdg.runtime_dir() or xdg.scratch_dir()) / "redis.sock"
    return Address(path=str(path), password=_password(folder / "redis.password"))


def _token_file(folder: Path) -> Path:
    return folder / "admin.token"


def _api_environment(folder: Path, port: int | None) -> dict[str, str]:
    """The API makes the first admin token by itself, when the file isn't there."""
    environment = {"PLUSH_API_ADMIN_TOKEN_FILE": str(_token_file(folder))}
    if port is not None:
        environment |= {"PLUSH_API_PORT": str(port), "PLUSH_API_PORT_FIXED": "1"}
    return environment


def _flower_environment(state: Path, port: int | None) -> dict[str, str]:
    environment = {
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{_password(state / 'flower.password')}",
        "FLOWER_PERSISTENT": "false",
    }
    if port is not None:
        environment |= {"FLOWER_PORT": str(port), "PLUSH_FLOWER_PORT_FIXED": "1"}
    return environment


def _password(path: Path) -> str:
    """The password in the file, made at first use, so that bookmarks and open tabs outlive a restart."""
    import os
    import secrets

    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text("utf-8").strip()
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        password = secrets.token_urlsafe(24)
        file.write(password + "\n")
    return password
