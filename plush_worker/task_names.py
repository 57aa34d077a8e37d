"""The names of the Celery tasks, as Flower shows them. Pure.

A run is ``plush.coordinate``; what is done for it under one owner of subtrees is a task of its own below it:
``plush.open``, ``plush.deploy``, ``plush.run``, ``plush.fetch`` and ``plush.kill``, linked to it by root and parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COORDINATE = "plush.coordinate"
OPEN = "plush.open"
WAKE = "plush.wake"  # look at the run's ops again; nothing for people, so it sends no events
CLOSE = "plush.subtree.close"
OPS = {what: f"plush.{what}" for what in ("deploy", "run", "fetch", "kill")}

# What coordinators of the version before send; understood for one version.
OLD_OPEN = "plush.subtree.open"
OLD_OPS = "plush.subtree.op"


def shown_name(task: str, arguments: Mapping[str, Any]) -> str:
    """Under which name a wake-up is sent: by ``what`` it wakes its owner for, and for how many hosts."""
    what = arguments.get("what")
    if task == OLD_OPEN:
        return OPEN
    if task != OLD_OPS:
        return task
    return OPS.get(str(what), WAKE) if arguments.get("host_count") else WAKE


def shown_arguments(arguments: Mapping[str, Any]) -> str | None:
    """What people are shown of a wake-up's arguments; None for a task that isn't about hosts of a run."""
    if "host_count" not in arguments:
        return None
    shown = {"uuid": arguments.get("run_id"), "hosts": arguments["host_count"], "slice": arguments.get("slice", "")}
    return repr(shown)
