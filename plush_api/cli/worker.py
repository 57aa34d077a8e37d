"""``plush worker``: the workers there are; and one in this process, for a Redis elsewhere or run by others."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated

import typer

from .host_options import AsJson

_COLUMNS = ("WORKER", "HOSTS", "CAPACITY", "AGE", "PID", "STATE FOLDER")

app = typer.Typer(no_args_is_help=True, help="Workers: they own the links and run what is asked of them.")


@app.command()
def start(
    name: Annotated[str | None, typer.Option(help="Unique among the workers; the machine's name by default.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Threads for tasks, which are short (4).")] = None,
    capacity: Annotated[int | None, typer.Option(help="Hosts that this worker takes at most (1000).")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log what happens.")] = False,
) -> None:
    """Run a worker until Ctrl-C or SIGTERM. Which Redis: PLUSH_REDIS_URL, plush.toml, or a running `plush up`."""
    import logging

    from plush_worker.celery_app import configure_logging
    from plush_worker.config import load_settings
    from plush_worker.errors import ServiceUnavailable
    from plush_worker.service_file import running_service
    from plush_worker.worker_process import run

    settings = load_settings(worker_name=name, concurrency=concurrency, worker_capacity=capacity)
    if "redis_url" not in settings.model_fields_set:
        service = running_service()
        if service is None:
            raise ServiceUnavailable("no Redis to work for: set PLUSH_REDIS_URL, or start a service with 'plush up'")
        settings = settings.model_copy(update={"redis_url": service.redis_url})
    configure_logging(logging.INFO if verbose else logging.WARNING)
    raise typer.Exit(run(settings, announce=lambda text: print(text, file=sys.stderr)))


@app.command("ls")
def list_workers(as_json: AsJson = False) -> None:
    """List the live workers: how many hosts each has, and how many it takes."""
    from dataclasses import asdict

    from .ps import age_text, print_table
    from .service import connect_to_service

    client = connect_to_service()
    try:
        workers = client.workers()
    finally:
        client.close()
    if as_json:
        for worker in workers:
            print(json.dumps(asdict(worker)))
        return
    now_s = time.time()
    rows = [
        [w.name, str(w.load), str(w.capacity), age_text(max(0.0, now_s - w.started_at)), str(w.pid or ""), w.state_dir]
        for w in workers
    ]
    print_table(_COLUMNS, rows)
