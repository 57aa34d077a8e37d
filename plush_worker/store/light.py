"""``LightStore``: what the command line needs of the store, blocking, without redis-py, Celery or asyncio.

The same keys and the same scripts as ``Store``; importing it costs a few milliseconds. Not for several threads at once.
"""

from __future__ import annotations

import hiredis

from . import keys, limits, records, scripts
from .address import parse_url
from .celery_message import close_message
from .errors import NoSuchRun
from .submission import creation, removal
from .wire import Wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from ..model import RunSpec, WorkerInfo
    from .wire import Argument


class LightStore:
    """One connection to the store. Every method raises StoreUnavailable, with what to do, when nobody answers.

    A connection that broke while idle (the server was restarted) is opened again by the next request; a request whose
    answer was lost is not repeated.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @classmethod
    def connect(
        cls,
        url: str,
        connect_timeout_s: float = limits.CONNECT_TIMEOUT_S,
        answer_timeout_s: float = limits.ANSWER_TIMEOUT_S,
    ) -> Self:
        """A store at ``url``; connected by the first request. Raises BadStoreURL."""
        return cls(Wire(parse_url(url), connect_timeout_s, answer_timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._wire.close()

    def ping(self) -> None:
        """Returns when the server answers and takes our password. Raises StoreUnavailable."""
        self._command("PING")

    # Runs

    def submit(self, spec: RunSpec, queue: str = "plush") -> bool:
        """Stores the run and sends its plush.coordinate to ``queue``, in one round trip; False when it is there.

        Raises TooLarge, StoreFull.
        """
        names, arguments = creation(spec, queue)
        return bool(self._run("create_run", names, arguments, f"submitting run {spec.run_id}"))

    def run_fields(self, run_id: str) -> dict[str, str]:
        """All fields of the run as text; empty when there is no such run."""
        return records.decode_pairs(self._command("HGETALL", keys.run(run_id)))

    def runs(self, limit: int = 100) -> list[dict[str, str]]:
        """The newest runs, newest first: their short fields and ``run_id``."""
        arguments = [limit, records.FIELD_CHARS_IN_LIST]
        return records.decode_runs(self._run("list_runs", [keys.RUNS, keys.run("")], arguments, "listing runs"))

    def events(
        self, run_id: str, after: str, block_ms: int = 0, count: int = limits.MAX_READ_EVENTS
    ) -> list[tuple[str, dict[str, Any]]]:
        """Up to ``count`` (id, event) behind id ``after`` ("0": from the first); waits up to block_ms for the first."""
        block: tuple[Argument, ...] = ("BLOCK", min(block_ms, limits.MAX_BLOCK_MS)) if block_ms > 0 else ()
        command = ("XREAD", "COUNT", count, *block, "STREAMS", keys.run_events(run_id), after)
        reply = self._command(*command, wait_s=max(block_ms, 0) / 1000)
        return records.decode_events(reply[0][1]) if reply else []

    def request_kill(self, run_id: str, signal: int = 15, grace_ms: int = 5000, by: str = "") -> str:
        """Asks the run's coordinator to end it: the id of the event kill_requested. Raises NoSuchRun."""
        event = {"type": "kill_requested", "signal": signal, "grace_ms": grace_ms, "by": by}
        return self.append(run_id, event)

    def append(self, run_id: str, event: Mapping[str, Any]) -> str:
        """The id of the event, now the last of the run's stream. Raises NoSuchRun, TooLarge."""
        reply = self._run(
            "append",
            [keys.run(run_id), keys.run_events(run_id), keys.subtree("", "")],
            [records.token(), 0, limits.MAX_STREAM_EVENTS, "", 1, records.encode_event(event)],
            f"appending to run {run_id}",
        )
        return records.text_of(reply)

    def renew_client(self, run_id: str, ttl_s: float) -> bool:
        """This client lives for another ttl_s; False when the run is gone."""
        names = [keys.run(run_id), keys.run_client(run_id)]
        return bool(self._run("renew_client", names, [records.milliseconds(ttl_s)], f"renewing run {run_id}"))

    def committed(self, run_id: str) -> dict[str, int]:
        """segment -> committed bytes."""
        pairs = records.decode_pairs(self._command("HGETALL", keys.run_output(run_id)))
        return {segment: int(length) for segment, length in pairs.items()}

    def load_run(self, run_id: str) -> RunSpec:
        """The spec as submitted. Raises NoSuchRun."""
        from ..model import RunSpec

        text = self._command("GET", keys.run_spec(run_id))
        if text is None:
            raise NoSuchRun(f"there is no run {run_id}; 'plush ps' lists those that there are")
        return RunSpec.from_json(text)

    def remove_run(self, run_id: str) -> bool:
        """Forgets everything about the run; False when there was nothing. Its files go when workers look next."""
        names, arguments = removal(run_id)
        return bool(self._run("remove_run", names, arguments, f"removing run {run_id}"))

    # Workers and meshes

    def live_workers(self) -> list[WorkerInfo]:
        """The workers whose lease lives, by name."""
        from ..model import WorkerInfo

        reply = self._run("live_workers", [keys.WORKERS, keys.worker("")], (), "listing the workers")
        return [WorkerInfo.from_json(info) for info in reply]

    def meshes(self) -> list[dict[str, Any]]:
        """All meshes, last used first, as records.decode_meshes describes them."""
        families = [keys.mesh(""), keys.mesh_hosts(""), keys.mesh_roots(""), keys.subtree_family(), keys.worker("")]
        return records.decode_meshes(self._run("list_meshes", [keys.MESHES, *families], (), "listing meshes"))

    def close_mesh(self, mesh: str, kill: bool = False) -> int:
        """Asks the live owners of the mesh's subtrees to close them; how many owners. ``kill``: ops are ended first."""
        from ..node import hostset

        names = [keys.mesh_roots(mesh), keys.subtree(mesh, ""), keys.worker("")]
        queues = {worker.incarnation: worker.queue for worker in self.live_workers()}
        roots: dict[str, int] = {}
        for pairs, _alive in self._run("list_subtrees", names, (), f"listing subtrees of mesh {mesh}"):
            fields = records.decode_pairs(pairs)
            if fields["incarnation"] in queues:
                roots[fields["incarnation"]] = roots.get(fields["incarnation"], 0) | 1 << int(fields["root"])
        commands = []
        for incarnation, owned in roots.items():
            queue = queues[incarnation]
            commands.append(("LPUSH", queue, close_message(mesh, incarnation, hostset.to_text(owned), kill, queue)))
        for reply in self._wire.pipeline(commands) if commands else ():
            self._checked(reply, f"closing mesh {mesh}")
        return len(roots)

    def _run(self, script: str, names: Sequence[str], arguments: Sequence[Argument], what: str) -> Any:
        """The result of a script. Its text is sent (1 to 3 KB): a digest could cost a second round trip."""
        return self._checked(self._wire.call("EVAL", scripts.text(script), len(names), *names, *arguments), what)

    def _command(self, *command: Argument, wait_s: float = 0.0) -> Any:
        return self._checked(self._wire.call(*command, wait_s=wait_s), str(command[0]))

    def _checked(self, reply: Any, what: str) -> Any:
        if isinstance(reply, hiredis.ReplyError):
            raise scripts.refusal(str(reply), what)
        return reply
