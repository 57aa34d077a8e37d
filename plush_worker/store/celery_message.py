"""Messages to workers, such as the one that starts a run's coordinator, as Celery's own client would send them. Pure.

Celery message protocol 2 (docs.celeryq.dev, internals/protocol) in the envelope of kombu's Redis transport
(``kombu/transport/virtual/base.py`` prepare_message, ``redis.py`` _put): JSON with a base64 body, pushed with LPUSH to
the list named like the queue, which is how a message to the default exchange is delivered. No binding is needed.
"""

from __future__ import annotations

import binascii
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

COORDINATE_TASK = "plush.coordinate"
CLOSE_TASK = "plush.subtree.close"


def coordinate_message(run_id: str, queue: str) -> str:
    """``plush.coordinate(run_id=...)`` with the run's id as the task's id, for ``queue``."""
    return task_message(COORDINATE_TASK, {"run_id": run_id}, queue, run_id)


def close_message(mesh: str, incarnation: str, roots: str, kill: bool, queue: str) -> str:
    """``plush.subtree.close`` for the worker incarnation that takes ``queue``. ``roots`` is a host set as text."""
    kwargs = {"mesh": mesh, "incarnation": incarnation, "roots": roots, "kill": kill}
    return task_message(CLOSE_TASK, kwargs, queue, _uuid())


def task_message(task: str, kwargs: Mapping[str, object], queue: str, task_id: str) -> str:
    """A call of ``task``: what LPUSH puts on the list ``queue``. ``kwargs`` must go into JSON."""
    body = [[], kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    message = {
        "body": binascii.b2a_base64(json.dumps(body).encode(), newline=False).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _headers(task, kwargs, task_id),
        "properties": {
            "correlation_id": task_id,
            "reply_to": _uuid(),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": _uuid(),
        },
    }
    return json.dumps(message)


def _headers(task: str, kwargs: Mapping[str, object], task_id: str) -> dict[str, object]:
    return {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": repr(dict(kwargs)),
        "origin": f"plush{os.getpid()}@{os.uname().nodename}",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }


def _uuid() -> str:
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
