"""Every error that Plush raises on purpose, and the exit codes of its commands.

One root with a stable ``code`` (for programs: the JSON output, the API, tests) and ``retryable`` (the same call may
succeed later, unchanged). Three families say whose mistake it was: the user's (``UserError``: change what you asked),
the peer's (``PeerError``: something outside failed or broke the rules) and ours (``InternalError``: report it).
Adapters translate third-party errors into these with ``raise ... from``. Standard library only: the command line
imports this on its way to the first request.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NO_SERVICE = 69  # EX_UNAVAILABLE of sysexits.h
EXIT_TIME_LIMIT = 124  # as timeout(1)
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_UNREACHABLE = 255  # as ssh(1); overrides the largest remote code


class PlushError(Exception):
    """Root of all. A message names the host, what was tried, what came back and what to do."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = EXIT_FAILURE


class UserError(PlushError):
    """What was asked can't be done as asked."""

    code = "user_error"
    exit_code = EXIT_USAGE


class UsageError(UserError):
    """A command line or a call that makes no sense."""

    code = "usage"


class ConfigurationError(UserError):
    """A setting or a file of settings that can't be used; the message names it."""

    code = "configuration"


class AlreadyRunning(UserError):
    """There may be only one of these, and it lives."""

    code = "already_running"
    exit_code = EXIT_FAILURE


class RunNotFound(UserError):
    """No run with this id."""

    code = "run_not_found"
    exit_code = EXIT_FAILURE


class PeerError(PlushError):
    """Something outside this process failed or broke the rules."""

    code = "peer_error"


class ServiceUnavailable(PeerError):
    """No service to talk to: nothing configured, nothing running, or it doesn't answer."""

    code = "service_unavailable"
    retryable = True
    exit_code = EXIT_NO_SERVICE


class StoreUnavailable(ServiceUnavailable):
    """Redis doesn't answer, or refuses us."""

    code = "store_unavailable"


class PartFailed(PeerError):
    """A process of the stack (server, worker, Flower) ended or never became ready."""

    code = "part_failed"
    exit_code = EXIT_NO_SERVICE


class BadTaskMessage(PeerError):
    """A task message whose arguments aren't what the task takes."""

    code = "bad_task_message"


class RunFailed(PeerError):
    """A run ended in failure; what Flower shows as the exception."""

    code = "run_failed"


class InternalError(PlushError):
    """Our own mistake."""

    code = "internal"


class WorkerStopping(PlushError):
    """The worker is on its way out (or not yet up) and takes nothing on."""

    code = "worker_stopping"
    retryable = True


class PublisherOverloaded(PlushError):
    """More waits to be published than the publisher's bound: the broker doesn't take it."""

    code = "publisher_overloaded"
    retryable = True


class CallTimeout(PlushError):
    """The mesh thread didn't answer a pool thread in time."""

    code = "call_timeout"
    retryable = True
