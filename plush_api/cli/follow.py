"""From submission to the end of a run: events in, output and notes out.

Owns the loop of ``plush run``: reads events, folds them (``view``), performs the effects with a client, an assembler
and a renderer. Everything it touches is passed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from plush_worker.errors import PlushError, ServiceUnavailable

from .output import Assembler, Renderer
from .render import Tee
from .view import AskForHosts, Effect, HostsEnded, Notice, ReadOutput, RunView, numbers_and_rejected

if TYPE_CHECKING:
    from plush_api.client import Client

    from .console import Console
    from .process_output import Records

T = TypeVar("T")

BLOCK_MS = 5000
TICK_MS = 1000  # while something depends on time: a missing worker, an end that was asked for, the progress line
NO_WORKER_AFTER_S = 1.0
RETRY_AFTER_S = 0.5


class Control(Protocol):
    """What a follower asks of whoever may end the run meanwhile: ``control.RunControl``, or nobody."""

    interrupted_by: int
    trouble: str

    def should_leave(self, *, coordinated: bool) -> bool:
        """Whether the end was asked for and has been waited for long enough."""


class NoControl:
    """Of a command that only looks on."""

    def __init__(self) -> None:
        self.interrupted_by = 0
        self.trouble = ""

    def should_leave(self, *, coordinated: bool) -> bool:
        """Never: the run's end is waited for."""
        return False


class Follower:
    """Follows one run that has been submitted. ``failure`` says why a service of the command's own has ended.

    ``records`` takes the output in; without it all of the run's output goes to the renderer, whatever its process.
    """

    def __init__(
        self,
        client: Client,
        run_id: str,
        view: RunView,
        renderer: Renderer,
        console: Console,
        control: Control,
        *,
        records: Records | None = None,
        failure: Callable[[], str | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._run_id = run_id
        self._view = view
        self._renderer = renderer
        self._records: Records = records or Assembler(renderer)
        self._console = console
        self._control = control
        self._failure = failure
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._after = ""
        self._read: dict[str, int] = {}  # segment -> bytes read
        self._worker_checked = False
        self._following = False
        self._lost_service = False
        self._muted = False

    def follow(self) -> None:
        """Return when the run is over, or when its end was asked for and nobody confirms it.

        Raises PlushError when following makes no sense any more, OSError when output can't be kept, OutputClosed.
        """
        view = self._view
        self._following = True
        while not view.finished and not self._control.should_leave(coordinated=view.coordinated):
            self._take(self._events())
            self._console.progress(view.progress_text)
            if not view.coordinated:
                self._look_for_workers()
        if not view.finished:
            self._console.say(f"run {self._run_id} has not confirmed its end{self._trouble()}", always=True)
            self.perform(view.abandon("its end was not confirmed"))
        self._console.end_progress()

    def catch_up(self) -> None:
        """Take in all that has happened so far, without waiting. Raises PlushError, OSError, OutputClosed."""
        while not self._view.finished:
            events = self._client.events(self._run_id, self._after, 0)
            if not events:
                return
            self._take(events)

    def mute(self) -> None:
        """From now on output is neither read nor shown; the states of the hosts still count."""
        self._renderer = Tee()
        self._muted = True

    def perform(self, effects: list[Effect]) -> None:
        """Carry out what the view asks for."""
        for effect in effects:
            if isinstance(effect, ReadOutput):
                if not self._muted:
                    self._insist(partial(self._read_output, effect))
            elif isinstance(effect, HostsEnded):
                if not self._muted:
                    self._records.flush(effect.outcome.hosts)
                self._renderer.ended(effect.outcome)
            elif isinstance(effect, AskForHosts):
                self.perform(self._ask_for_hosts())
            elif isinstance(effect, Notice):
                self._console.say(effect.text)

    def _take(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        if events and not self._after and events[0][1]["type"] != "run_submitted":
            fields = self._insist(partial(self._client.run, self._run_id))
            self.perform(self._view.begin_late(fields))
        for event_id, event in events:
            self._after = event_id
            self.perform(self._view.fold(event_id, event))
        self._console.flush()

    def _events(self) -> list[tuple[str, dict[str, Any]]]:
        self._check_own_service()
        waits_for_time = (
            self._failure or not self._view.coordinated or self._control.interrupted_by or self._console.shows_progress
        )
        try:
            events = self._client.events(self._run_id, self._after, TICK_MS if waits_for_time else BLOCK_MS)
        except PlushError as error:
            self._bear(error)
            return []
        self._is_back()
        return events

    def _insist(self, ask: Callable[[], T]) -> T:
        """What ``ask`` returns once the service is there: while it follows, an outage is waited out."""
        while True:
            try:
                answer = ask()
            except PlushError as error:
                if not self._following or self._control.should_leave(coordinated=self._view.coordinated):
                    raise
                self._bear(error)
                self._check_own_service()
            else:
                self._is_back()
                return answer

    def _bear(self, error: PlushError) -> None:
        """Say, once, that the service is away, and wait a little. Raises what isn't to be tried again."""
        if not error.retryable:
            raise error
        if not self._lost_service:
            self._lost_service = True
            self._console.say(f"{error}; the run goes on, waiting for the service to come back", always=True)
        self._sleep(RETRY_AFTER_S)

    def _is_back(self) -> None:
        if self._lost_service:
            self._lost_service = False
            self._console.say("the service is back", always=True)

    def _check_own_service(self) -> None:
        if self._failure and (why := self._failure()):
            raise ServiceUnavailable(f"the service of this command has failed: {why}")

    def _read_output(self, effect: ReadOutput) -> None:
        """Show what is new in a segment; what a broken reading has shown already is dropped as doubled."""
        start = self._read.get(effect.segment, 0)
        if effect.committed_bytes <= start:
            return
        for record in self._client.output(self._run_id, effect.segment, start, effect.committed_bytes):
            self._records.record(*record)
        self._read[effect.segment] = effect.committed_bytes

    def _ask_for_hosts(self) -> list[Effect]:
        fields = self._insist(partial(self._client.run, self._run_id))
        numbered, rejected = numbers_and_rejected(fields)
        return self._view.learn_hosts(numbered, rejected)

    def _look_for_workers(self) -> None:
        """Say so once when nobody is there to take the run, or nobody who can."""
        if self._failure or self._worker_checked or self._clock() - self._began < NO_WORKER_AFTER_S:
            return
        self._worker_checked = True
        try:
            workers = self._client.workers()
        except PlushError:
            return  # reading events says what is wrong
        from plush_worker.placement import usable_workers

        self.perform(self._view.wait(usable_workers(workers, self._view.spec)[1]))

    def _trouble(self) -> str:
        if self._control.trouble:
            return f" ({self._control.trouble}); its hosts stop what it started within a minute or two"
        if not self._view.coordinated:
            return ": no worker had taken it"
        return "; its hosts stop what it started within a minute or two"
