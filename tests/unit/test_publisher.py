"""The order, the bounds and the patience of what a worker publishes: with an application that only notes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest

from plush_worker import publisher as module
from plush_worker.errors import PublisherOverloaded, WorkerStopping
from plush_worker.publisher import Publisher

WAIT_S = 5.0


class FakeApp:
    """Notes what is sent; ``gate`` holds the sender, ``errors`` are raised first, one a try."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.backend = self
        self.events = self
        self.amqp = MagicMock()

    def Dispatcher(self, connection: Any, **_: Any) -> FakeApp:
        return self

    def connection_for_write(self) -> FakeApp:
        return self

    def close(self) -> None: ...

    def release(self) -> None: ...

    def _note(self, *what: Any) -> None:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        if self.errors:
            raise self.errors.pop(0)
        self.sent.append(what)

    def send_task(self, name: str, **options: Any) -> None:
        self._note("task", name, options["task_id"])

    def send(self, kind: str, uuid: str, **fields: Any) -> None:
        self._note(kind, uuid, fields.get("result", fields.get("exception")))

    def store_result(self, task_id: str, result: Any, state: str, request: Any) -> None:
        self._note("result", task_id, state)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApp]:
    monkeypatch.setattr(module, "PAUSES_S", (0.0,))
    app = FakeApp()
    yield app
    app.gate.set()


@pytest.fixture
def publisher(app: FakeApp) -> Iterator[Publisher]:
    publisher = Publisher(app, "w@h")  # type: ignore[arg-type]
    publisher.start()
    yield publisher
    publisher.stop()


def hold(app: FakeApp, publisher: Publisher) -> None:
    """Keep the sender busy, so that what is queued next waits."""
    app.gate.clear()
    publisher.send_task("first", {}, "q", "0")
    assert app.entered.wait(WAIT_S)


def test_order_is_kept(app: FakeApp, publisher: Publisher) -> None:
    publisher.progress("r", "1/2")
    publisher.send_task("plush.subtree.open", {}, "worker.w", "t")
    publisher.fail("r", "broke", 1.0)
    publisher.stop()
    assert app.sent[-3:] == [
        ("task", "plush.open", "t"),
        ("result", "r", "FAILURE"),
        ("task-failed", "r", "broke"),
    ]


def test_waiting_progress_of_one_run_is_replaced_by_the_latest(app: FakeApp, publisher: Publisher) -> None:
    hold(app, publisher)
    for count in range(20_000):
        publisher.progress("r", f"{count} up")
        publisher.progress("other", f"{count} up")
    app.gate.set()
    publisher.stop()
    assert app.sent[1:] == [("task-progress", "r", "19999 up"), ("task-progress", "other", "19999 up")]


def test_a_result_overtakes_progress_that_still_waits(app: FakeApp, publisher: Publisher) -> None:
    hold(app, publisher)
    publisher.progress("r", "1/2 up")
    publisher.succeed("r", {"ok": 2}, 1.0)
    app.gate.set()
    publisher.stop()
    assert [what[0] for what in app.sent[1:]] == ["result", "task-succeeded"]


def test_the_queue_is_bounded(app: FakeApp, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    hold(app, publisher)
    for _ in range(3):
        publisher.send_task("t", {}, "q")
    with pytest.raises(PublisherOverloaded):
        publisher.send_task("t", {}, "q")
    app.gate.set()


def test_an_unreachable_broker_is_tried_again(app: FakeApp, publisher: Publisher) -> None:
    app.errors = [ConnectionRefusedError(), ConnectionResetError(), TimeoutError()]
    publisher.send_task("t", {}, "q", "1")
    publisher.stop()
    assert app.sent == [("task", "t", "1")] and publisher.dropped_count == 0


def test_patience_ends_and_the_rest_goes_on(
    app: FakeApp, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    app.errors = [ConnectionRefusedError("nobody there")]
    publisher.send_task("lost", {}, "q", "1")
    publisher.send_task("kept", {}, "q", "2")
    publisher.stop()
    assert app.sent == [("task", "kept", "2")] and publisher.dropped_count == 1
    assert "task lost for q dropped" in caplog.text and "nobody there" in caplog.text


def test_what_cannot_be_sent_is_dropped_at_once(
    app: FakeApp, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    app.errors = [TypeError("not JSON")]
    publisher.send_task("bad", {}, "q", "1")
    publisher.send_task("good", {}, "q", "2")
    publisher.stop()
    assert app.sent == [("task", "good", "2")] and "not JSON" in caplog.text


def test_a_stopped_publisher_takes_nothing(app: FakeApp, publisher: Publisher) -> None:
    publisher.stop()
    with pytest.raises(WorkerStopping):
        publisher.send_task("t", {}, "q")
