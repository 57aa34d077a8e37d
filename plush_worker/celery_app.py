"""The Celery application: its settings, its tasks, its bootstep. Entry point: ``create_app``.

Owns how Plush uses Celery; decides nothing about runs or hosts. There is no module-level application: whoever needs
one (the worker process, Flower, a test) makes it from settings read once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import setup_logging

from plush_worker import logs
from plush_worker.bootsteps import MeshStep
from plush_worker.config import RUN_QUEUE, Settings
from plush_worker.store.address import parse_url
from plush_worker.tasks import register_tasks

if TYPE_CHECKING:
    from plush_worker.errors import PlushError
    from plush_worker.runtime import PartsFactory, WorkerRuntime

configure_logging = logs.configure_logging  # whoever makes an application does this first


class PlushApp(Celery):
    """A Celery application that knows Plush's settings and, inside a worker, its runtime."""

    def __init__(self, settings: Settings, factory: PartsFactory | None) -> None:
        super().__init__("plush", set_as_current=False)
        self.settings = settings
        self.parts_factory = factory  # None: the real mesh and coordinators
        self.runtime: WorkerRuntime | None = None  # set by the bootstep while the worker runs
        self.error: PlushError | None = None  # why the worker couldn't start, or had to end

    def __reduce__(self) -> Any:
        raise TypeError("a PlushApp can't be pickled: make one from its settings")


def create_app(settings: Settings, factory: PartsFactory | None = None) -> PlushApp:
    """An application on the Redis of ``settings``; doesn't connect. ``factory`` replaces mesh and coordinators."""
    app = PlushApp(settings, factory)
    app.conf.update(celery_settings(settings))
    register_tasks(app)
    app.steps["worker"].add(MeshStep)
    return app


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration; every line that isn't Celery's default has its reason."""
    url = parse_url(settings.redis_url).celery_url()
    return {
        "broker_url": url,
        "result_backend": url,
        # JSON only: a pickle in the queue would be code.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_default_queue": RUN_QUEUE,
        "task_create_missing_queues": True,  # worker.<name> queues
        "worker_prefetch_multiplier": 1,  # a worker takes what its threads can take, the rest is for the others
        "task_track_started": True,
        "task_ignore_result": False,
        "result_extended": True,  # Flower shows name and arguments
        "result_expires": settings.result_expires_s,
        "worker_send_task_events": True,
        "task_send_sent_event": False,  # senders are no clients of Celery's, and wake-ups aren't to be seen
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # links outlive an outage of the broker, however long
        "broker_transport_options": {
            "socket_timeout": settings.redis_timeout_s,  # without it a half-open connection hangs forever
            "socket_connect_timeout": settings.redis_timeout_s,
            "socket_keepalive": True,
        },
        "redis_socket_timeout": settings.redis_timeout_s,
        "redis_socket_connect_timeout": settings.redis_timeout_s,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # acknowledged early; tasks are short
        "worker_enable_remote_control": True,  # Flower's inspection
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_proc_alive_timeout": 30.0,
        "enable_utc": True,
    }


@setup_logging.connect(weak=False)
def _keep_our_logging(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring any logger; the worker process has done it."""
