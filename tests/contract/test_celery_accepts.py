"""A real Celery worker takes the messages that are built by hand, and Flower's events show them as they should be."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from plush_worker.store.celery_message import close_message
from plush_worker.store.light import LightStore

from .conftest import Server
from .test_store_runs import spec

WORKER = """
import sys
from celery import Celery

app = Celery("t", broker=sys.argv[1], backend=sys.argv[1])
app.conf.update(task_default_queue="plush", result_extended=True, worker_send_task_events=True)

@app.task(name="plush.coordinate", bind=True)
def coordinate(task, run_id):
    return {"run": run_id, "id": task.request.id, "args": list(task.request.args), "queue": task.request.delivery_info}

@app.task(name="plush.subtree.close")
def close(mesh, incarnation, roots, kill):
    return [mesh, incarnation, roots, kill]

app.worker_main(["worker", "-P", "threads", "-c", "2", "-Q", "plush,worker.w", "--without-mingle", "--without-gossip",
                 "-l", "WARNING", "-n", "t@localhost"])
"""


@pytest.fixture
def celery_worker(server: Server, tmp_path: Path) -> Iterator[Celery]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    url = server.address.celery_url()
    process = subprocess.Popen([sys.executable, script, url], cwd=tmp_path, stderr=subprocess.PIPE)
    app = Celery("t", broker=url, backend=url, set_as_current=False)
    try:
        yield app
    finally:
        app.close()
        process.terminate()
        _, said = process.communicate(timeout=30)
        assert b"Traceback" not in said, said.decode()


def test_a_worker_runs_what_was_submitted(server: Server, celery_worker: Celery) -> None:
    seen: list[dict[str, Any]] = []

    def noted(event: dict[str, Any]) -> None:
        seen.append(event)
        if event["type"] == "task-succeeded":
            receiver.should_stop = True

    with celery_worker.connection_for_read() as connection:
        receiver = celery_worker.events.Receiver(connection, handlers={"*": noted})
        consumer = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=30, wakeup=True))
        consumer.start()
        until(lambda: any(event["type"].startswith("worker-") for event in seen))
        with LightStore.connect(server.url) as light:
            assert light.submit(spec("0123456789abcdef"))
        consumer.join(30)
    received = next(event for event in seen if event["type"] == "task-received")
    assert received["uuid"] == "0123456789abcdef"
    assert received["name"] == "plush.coordinate"
    assert received["kwargs"] == "{'run_id': '0123456789abcdef'}"
    result = celery_worker.AsyncResult("0123456789abcdef").get(timeout=10)
    assert result["run"] == result["id"] == "0123456789abcdef"
    assert result["args"] == []
    meta = celery_worker.backend.get_task_meta("0123456789abcdef")
    assert (meta["status"], meta["name"]) == ("SUCCESS", "plush.coordinate")
    assert server.call("LLEN", "plush") == 0


def test_a_workers_own_queue_takes_orders_to_close(server: Server, celery_worker: Celery) -> None:
    server.call("LPUSH", "worker.w", close_message("m", "i", "0-3", True, "worker.w"))
    until(lambda: server.call("LLEN", "worker.w") == 0)
    found = until(lambda: server.call("KEYS", "celery-task-meta-*"))
    task_id = found[0].decode().removeprefix("celery-task-meta-")
    assert celery_worker.AsyncResult(task_id).get(timeout=10) == ["m", "i", "0-3", True]


def until(condition: Any, deadline_s: float = 30.0) -> Any:
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
    return found
