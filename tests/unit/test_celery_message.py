"""The hand-built message has what kombu and Celery read from one of their own."""

from __future__ import annotations

import base64
import json
from typing import Any

from celery import Celery
from kombu.transport.virtual import Message

from plush_worker.store.celery_message import coordinate_message, task_message


def celery_own(task: str, kwargs: dict[str, Any], queue: str, task_id: str) -> dict[str, Any]:
    """The headers and body that this Celery would send."""
    app = Celery("t", broker="memory://", set_as_current=False)
    message = app.amqp.as_task_v2(task_id, task, args=[], kwargs=kwargs, root_id=task_id, ignore_result=False)
    return {"headers": message.headers, "properties": message.properties, "body": message.body}


def test_headers_and_body_are_celerys_own() -> None:
    kwargs = {"run_id": "r1"}
    own = celery_own("plush.coordinate", kwargs, "plush", "r1")
    ours = json.loads(coordinate_message("r1", "plush"))
    assert {**ours["headers"], "origin": ""} == {**json.loads(json.dumps(own["headers"])), "origin": ""} | {
        "lang": "py",
        "argsrepr": "()",
    }
    assert json.loads(base64.b64decode(ours["body"])) == json.loads(json.dumps(own["body"]))
    assert ours["properties"]["correlation_id"] == own["properties"]["correlation_id"]


def test_kombu_reads_the_envelope() -> None:
    class Channel:
        def message_to_python(self, message: Any) -> Any:
            return message

        def decode_body(self, body: str, encoding: str | None = None) -> Any:
            return base64.b64decode(body) if encoding == "base64" else body

    raw = json.loads(task_message("t", {"k": "ä", "deep": {"n": [1]}}, "q", "id"))
    message = Message(raw, channel=Channel())
    assert message.delivery_tag
    assert message.delivery_info["routing_key"] == "q"
    args, kwargs, _ = message.payload
    assert (args, kwargs) == ([], {"k": "ä", "deep": {"n": [1]}})


def test_every_message_has_a_tag_of_its_own() -> None:
    tags = {json.loads(coordinate_message("r1", "q"))["properties"]["delivery_tag"] for _ in range(50)}
    assert len(tags) == 50
