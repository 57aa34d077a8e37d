"""The Celery tasks: short, idempotent, and only messengers. What they set off is in the store and on the mesh thread.

``plush.coordinate`` hands its run over and raises Ignore, so no pool thread waits for a run: a threads pool whose tasks
wait deadlocks as soon as there are as many runs as threads. The other tasks wake the owner of subtrees; what it does it
reads from the store. They carry the worker incarnation they are meant for, and are dropped when it isn't this one.
Those that people watch (``task_names.py``) are handed over too: the mesh thread finishes them (``task_reports.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore

from plush_worker import task_names
from plush_worker.errors import BadTaskMessage, PlushError, RunNotFound, WorkerStopping
from plush_worker.task_names import CLOSE, OLD_OPEN, OLD_OPS, OPEN, OPS, WAKE

if TYPE_CHECKING:
    from plush_worker.celery_app import PlushApp
    from plush_worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

COORDINATE = task_names.COORDINATE

_STALE = {"stale": True}
_MAX_TEXT_CHARS = 1 << 20  # a host set of many hosts is the longest


def register_tasks(app: PlushApp) -> None:
    """Give ``app`` the tasks. ``typing=False``: arguments come from other processes and are checked here."""
    options: dict[str, Any] = {"bind": True, "typing": False, "throws": (PlushError,)}
    app.task(coordinate, name=COORDINATE, **options)
    app.task(close_subtrees, name=CLOSE, **options)
    for name in (OPEN, OLD_OPEN):
        app.task(open_subtrees, name=name, **options)
    for name in (*OPS.values(), OLD_OPS):
        app.task(apply_ops, name=name, **options)
    app.task(apply_ops, name=WAKE, send_events=False, ignore_result=True, **options)


def coordinate(task: Any, *args: Any, **kwargs: Any) -> None:
    """Hand the run over to the coordinators of this worker. Task id and run id are the same."""
    given = _arguments(COORDINATE, args, kwargs, {"run_id": str})
    run_id = given["run_id"]
    if task.request.id != run_id:
        raise BadTaskMessage(f"{COORDINATE}: the task id is {task.request.id!r}, not the run's id {run_id!r}")
    runtime = _runtime(task)
    try:
        answer = _call(runtime, runtime.coordinators.start_run(run_id))
        if answer.get("coordinated") == "no such run":
            raise RunNotFound(f"there is no run {run_id}: it was removed, or never submitted")
    except WorkerStopping as error:
        # Not the run's failure: it has no coordinator now, which the reconciler of the next worker mends.
        log.info("run %s not taken: %s", run_id, error)
    raise Ignore


def open_subtrees(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Open the subtrees ``roots`` (host set text) of ``mesh`` that the store assigns to this incarnation."""
    given = _arguments(task.name, args, kwargs, {"run_id": str, "mesh": str, "incarnation": str, "roots": str})
    runtime = _runtime(task)
    if given["incarnation"] != runtime.incarnation:
        return _STALE
    action = runtime.meshes.open_subtrees(given["mesh"], given["run_id"], given["roots"])
    return _follow(task, runtime, kwargs | {"what": "open"}, action)


def apply_ops(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Send the run's ops down that this incarnation's subtrees haven't had yet."""
    given = _arguments(task.name, args, kwargs, {"run_id": str, "mesh": str, "incarnation": str})
    runtime = _runtime(task)
    if given["incarnation"] != runtime.incarnation:
        return _STALE
    action = runtime.meshes.apply_ops(given["mesh"], given["run_id"])
    if task.name not in OPS.values():
        return _call(runtime, action)
    return _follow(task, runtime, kwargs | {"what": task.name.removeprefix("plush.")}, action)


def close_subtrees(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Close the subtrees ``roots`` of ``mesh``; with ``kill``, end living ops first."""
    given = _arguments(CLOSE, args, kwargs, {"mesh": str, "incarnation": str, "roots": str, "kill": bool})
    runtime = _runtime(task)
    if given["incarnation"] != runtime.incarnation:
        return _STALE
    return _call(runtime, runtime.meshes.close_subtrees(given["mesh"], given["roots"], given["kill"]))


def _call(runtime: WorkerRuntime, coroutine: Any) -> dict[str, Any]:
    result: dict[str, Any] = runtime.call(coroutine)
    return result


def _follow(task: Any, runtime: WorkerRuntime, arguments: Mapping[str, Any], action: Any) -> dict[str, Any]:
    """The action's answer; raises Ignore when the task goes on, until the hosts that it is about are done."""
    answer: dict[str, Any] | None = runtime.call(runtime.reports.follow(task.request.id, task.name, arguments, action))
    if answer is None:
        raise Ignore
    return answer


def _runtime(task: Any) -> WorkerRuntime:
    runtime: WorkerRuntime | None = task.app.runtime
    if runtime is None:
        raise WorkerStopping(f"{task.name}: this worker's mesh thread isn't up")
    return runtime


def _arguments(
    task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], wanted: Mapping[str, type]
) -> dict[str, Any]:
    """``kwargs`` if they are exactly what is wanted; unknown ones are ignored, so that a newer sender may add some.

    Raises BadTaskMessage that says what the task takes.
    """
    takes = f"{task} takes {', '.join(f'{name} ({kind.__name__})' for name, kind in wanted.items())}"
    if args:
        raise BadTaskMessage(f"{takes}, by name; got {len(args)} positional arguments")
    missing = [name for name in wanted if name not in kwargs]
    if missing:
        raise BadTaskMessage(f"{takes}; missing: {', '.join(missing)}")
    for name, kind in wanted.items():
        value = kwargs[name]
        if not isinstance(value, kind) or (isinstance(value, str) and len(value) > _MAX_TEXT_CHARS):
            raise BadTaskMessage(f"{takes}; {name} is {type(value).__name__} {str(value)[:40]!r}")
    return {name: kwargs[name] for name in wanted}
