"""Performs what the mesh state asks for: one MeshDriver for each mesh of this worker, all on the mesh thread's loop.

Owns the links, the order in which effects are performed, and the cycle that makes output durable before anything is
reported or acknowledged. Decides nothing about hosts or ops: that is ``state.py``.

Effects of two kinds: those that touch the store wait their turn in one queue (an outage of Redis holds them up, and
nothing else), the rest is done at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plush_worker.blobs import BlobStore
from plush_worker.errors import PlushError, StoreUnavailable
from plush_worker.mesh import host_keys
from plush_worker.mesh.effects import (
    AskOp,
    CloseLink,
    DrawOrder,
    Effect,
    Emit,
    FeedStdin,
    Log,
    OpenLink,
    Reassign,
    SaveUp,
    Send,
    StoreOutput,
)
from plush_worker.mesh.outputs import RunSegments
from plush_worker.mesh.root_link import RootLink
from plush_worker.mesh.state import MeshState
from plush_worker.mesh.stdin_sender import StdinSender
from plush_worker.model import HostEntry, OpRecord, SliceSettings, SubtreeRecord
from plush_worker.node import frames, hostset, messages
from plush_worker.store.errors import SegmentError

if TYPE_CHECKING:
    from plush_worker.store.store import Store

logger = logging.getLogger(__name__)

TICK_S = 0.25
BEAT_S = 10.0
STORE_RETRY_S = 0.5
WRITE_PAUSE_S = 0.01  # between two writes while no host has just ended
DISK_RETRY_S = 1.0
QUIT_WAIT_S = 2.0
CLOSE_AFTER_S = 0.1
RUNS_SEARCHED = 1000
EVENTS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What a driver needs of its worker."""

    store: Store
    worker: str
    incarnation: str
    runs_folder: Path
    run_blocking: Callable[[Callable[[], Any]], Awaitable[Any]]  # one thread for files


class MeshDriver:
    """One mesh on this worker. All methods are to be called on the mesh loop."""

    def __init__(self, context: DriverContext, mesh: str, settings: SliceSettings) -> None:
        self._context = context
        self.mesh = mesh
        self.settings = settings
        self.state = MeshState(mesh, settings)
        self._segments = RunSegments(context.runs_folder, f"{context.worker}-{context.incarnation}")
        self.last_used_s = time.monotonic()
        self._links: dict[int, RootLink] = {}
        self._stored: asyncio.Queue[Effect] = asyncio.Queue()
        self._put_back: list[Effect] = []
        self._output_due = asyncio.Event()
        self._stdin = StdinSender(self.state, self._links, BlobStore(context.runs_folder.parent))
        self._credits: dict[RootLink, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closes: list[Effect] = []  # of reported ops, for all hosts that ended in the last moment
        self._close_timer: asyncio.TimerHandle | None = None
        self._last_beat_s = 0.0
        self._logins = asyncio.Semaphore(max(1, settings.worker_logins_at_once))
        self._spawn(self._perform_stored())
        self._spawn(self._write_output())
        self._spawn(self._stdin.run())
        self._spawn(self._keep_time())

    # ---- orders of the coordinator

    def use_settings(self, settings: SliceSettings) -> None:
        """For links opened from now on."""
        self.settings = self.state.linking.settings = settings

    def open_subtrees(
        self, run_id: str, records: Sequence[SubtreeRecord], entries: Mapping[int, HostEntry], hosts: int
    ) -> None:
        """See MeshState.open_subtrees."""
        self._used()
        self.perform(self.state.open_subtrees(run_id, records, entries, hosts))

    def apply_ops(self, records: Iterable[OpRecord]) -> None:
        """Orders every op of ``records`` that isn't known yet, in the order of their numbers."""
        self._used()
        for record in sorted(records, key=lambda r: r.op):
            self._order(record)

    def _order(self, record: OpRecord) -> None:
        if record.op in self.state.traffic.ops:
            return
        try:
            size_bytes, refused = self._stdin.sources.open(record), ""
        except PlushError as error:
            size_bytes, refused = None, str(error)
        self.perform(self.state.op_ordered(record, size_bytes, refused))

    def forget_run(self, run_id: str) -> None:
        """The run is over."""
        self._used()
        self.perform(self.state.run_over(run_id))
        self._stdin.sources.keep(self.state.traffic.ops)
        self._segments.close(run_id)

    def close_subtrees(self, roots: Sequence[int], kill: bool) -> None:
        """See MeshState.close_subtrees."""
        self._send_closes()
        self.perform(self.state.close_subtrees(roots, kill))

    def beat(self) -> None:
        """The owner's beat."""
        self._last_beat_s = time.monotonic()
        self.perform(self.state.beat())

    async def stop(self, grace_s: float) -> None:
        """Quits every subtree and waits at most ``grace_s`` for the node programs to leave."""
        self._send_closes()
        links, self._links = list(self._links.values()), {}
        quits = [e for e in self.state.close_subtrees(list(self.state.table.epochs), kill=True) if isinstance(e, Send)]
        by_root = {link.root: link for link in links}
        for effect in quits:
            if effect.root in by_root:
                by_root[effect.root].send(effect.frame)
        await asyncio.gather(*(link.finish(grace_s) for link in links))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._segments.close_all()

    def idle_s(self) -> float:
        """For how long nothing has used the mesh; 0 while a run does."""
        return 0.0 if self.state.busy() else time.monotonic() - self.last_used_s

    # ---- reports of the links

    def link_frame(self, link: RootLink, kind: int, hosts: bytes, body: bytes, size_bytes: int) -> None:
        """A frame from below; see LinkOwner."""
        if size_bytes:
            self._credits[link] = self._credits.get(link, 0) + size_bytes
        try:
            effects = self.state.frame_received(link.root, kind, hostset.decode(hosts), body, time.monotonic())
        except (hostset.HostSetError, messages.MessageError) as error:
            logger.warning("%s sent a bad %s: %s: dropped", link.entry.name, frames.NAMES[kind], error)
            effects = []
        self.perform(effects)
        if size_bytes or kind == frames.STATE:
            self._output_due.set()

    def link_has_room(self, link: RootLink) -> None:
        """Bulk may be sent again; see LinkOwner."""
        self._stdin.due.set()

    def link_ended(self, link: RootLink, code: str, detail: str, reached: bool) -> None:
        """A link failed or ended; see LinkOwner."""
        self._credits.pop(link, None)
        if self._links.get(link.root) is link:
            del self._links[link.root]
            self.perform(self.state.link_lost(link.root, code, detail, reached, time.monotonic()))

    # ---- performing effects

    def perform(self, effects: Iterable[Effect]) -> None:
        """Performs effects in order; those that need the store take their turn in its queue."""
        for effect in effects:
            match effect:
                case Send(root, frame):
                    link = self._links.get(root)
                    if link is not None:
                        link.send(frame)
                case StoreOutput(run_id, frame):
                    self._segments.append(run_id, frame)
                case OpenLink():
                    self._open_link(effect)
                case CloseLink(root):
                    link = self._links.pop(root, None)
                    if link is not None:
                        self._credits.pop(link, None)
                        self._spawn(link.finish(QUIT_WAIT_S))
                case FeedStdin():
                    self._stdin.due.set()
                case Log(text):
                    logger.warning("mesh %s: %s", self.mesh, text)
                case _:
                    self._stored.put_nowait(effect)

    def _open_link(self, effect: OpenLink) -> None:
        old = self._links.pop(effect.root, None)
        if old is not None:
            old.close()
        entry = self.state.table.hosts[effect.root].entry
        link = self._links[effect.root] = RootLink(self, effect.root, entry, self.settings, effect.frames)
        self._spawn(self._log_in(link))

    async def _log_in(self, link: RootLink) -> None:
        async with self._logins:
            await link.open(host_keys.record_host_key)

    async def _perform_stored(self) -> None:
        while True:
            batch = await self._next_batch()
            while True:
                try:
                    await self._perform_batch(batch)
                    break
                except StoreUnavailable as error:
                    logger.warning("mesh %s: %s: tried again in %s s", self.mesh, error, STORE_RETRY_S)
                    await asyncio.sleep(STORE_RETRY_S)
                except PlushError as error:
                    logger.error("mesh %s: %s is dropped: %s", self.mesh, type(batch[0]).__name__, error)
                    break

    async def _next_batch(self) -> list[Effect]:
        """One effect, or all events of one run that wait next to each other: they cost one round trip."""
        if self._put_back:
            first = self._put_back.pop()
        else:
            first = await self._stored.get()
        batch = [first]
        while isinstance(first, Emit) and len(batch) < EVENTS_AT_ONCE and not self._stored.empty():
            following = self._stored.get_nowait()
            if not isinstance(following, Emit) or following.run_id != first.run_id:
                self._put_back.append(following)
                break
            batch.append(following)
        return batch

    async def _perform_batch(self, batch: Sequence[Effect]) -> None:
        store = self._context.store
        match batch[0]:
            case Emit(run_id):
                emits = [effect for effect in batch if isinstance(effect, Emit)]
                await store.append_worker(run_id, self.mesh, [emit.event for emit in emits])
                for emit in emits:
                    self.perform(emit.then)
            case DrawOrder(hosts):
                order = await store.draw(self.mesh)
                self.perform(self.state.order_drawn(order, hosts))
            case SaveUp(root, up):
                await self._save_up(root, up)
            case Reassign(members):
                await self._reassign(members)
            case AskOp(op):
                await self._find_op(op)

    async def _save_up(self, root: int, up: int) -> None:
        epoch = self.state.table.epochs.get(root)
        if epoch is None:
            return
        store, text = self._context.store, hostset.to_text(up)
        if await store.update_subtree(self.mesh, root, epoch, up=text):
            return
        record = (await store.subtrees(self.mesh))[0].get(root)
        ours = record if record is not None and record.incarnation == self._context.incarnation else None
        # If it is still ours it grew, under a new epoch, and the task that tells us is on its way.
        if ours is not None and await store.update_subtree(self.mesh, root, ours.epoch, up=text):
            return
        logger.warning("mesh %s: the subtree under %s has another owner now: let go", self.mesh, root)
        self.perform(self.state.close_subtrees([root], kill=False))

    async def _reassign(self, members: dict[int, int]) -> None:
        """The hosts of a root that was given up become subtrees of their own, under a new epoch."""
        context, state = self._context, self.state
        moved = 0
        for hosts in members.values():
            moved |= hosts
        old, _alive = await context.store.subtrees(self.mesh)
        for root, record in old.items():
            kept = hostset.from_text(record.members) & ~moved
            if record.incarnation == context.incarnation and kept != hostset.from_text(record.members):
                parents = {c: p for c, p in record.parents.items() if kept >> int(c) & 1 and kept >> p & 1}
                await context.store.update_subtree(
                    self.mesh, root, record.epoch, members=hostset.to_text(kept), parents=parents
                )
        wanted = [
            SubtreeRecord(
                root=root,
                owner=context.worker,
                incarnation=context.incarnation,
                epoch=0,
                members=hostset.to_text(hosts),
                parents={
                    str(n): p
                    for n in hostset.members(hosts)
                    if n != root and (p := state.table.hosts[n].parent) is not None
                },
                settings=asdict(self.settings),
            )
            for root, hosts in members.items()
        ]
        assigned = await context.store.assign_subtrees(self.mesh, wanted)
        entries = {n: state.table.hosts[n].entry for hosts in members.values() for n in hostset.members(hosts)}
        self.perform(state.open_subtrees("", assigned, entries, moved))

    async def _find_op(self, op: int) -> None:
        """Looks for an op that hosts hold from before this worker's time among the runs that go on."""
        store = self._context.store
        for run in await store.list_runs(RUNS_SEARCHED):
            if run.get("mesh") == self.mesh and not run.get("finished"):
                for record in await store.ops(run["run_id"]):
                    if record.op == op:
                        self._order(record)
                        return
        self.perform(self.state.op_forgotten(op))

    # ---- output

    async def _write_output(self) -> None:
        while True:
            await self._output_due.wait()
            self._output_due.clear()
            points = self.state.sync_points()
            credited, self._credits = self._credits, {}
            lengths = await self._write(self._segments.take())
            for link, size_bytes in credited.items():
                link.credit(size_bytes)
            ended: dict[str, list[Emit]] = {run_id: [] for run_id in lengths}
            for effect in self.state.synced(points):
                if isinstance(effect, Emit):
                    ended.setdefault(effect.run_id, []).append(effect)
                else:
                    self.perform((effect,))
            for run_id, emits in ended.items():
                await self._commit(run_id, lengths.get(run_id, 0), emits)
            if lengths and not any(ended.values()):
                await asyncio.sleep(WRITE_PAUSE_S)

    async def _write(self, pending: dict[str, deque[bytes]]) -> dict[str, int]:
        while pending:
            try:
                lengths: dict[str, int] = await self._context.run_blocking(lambda: self._segments.write(pending))
                return lengths
            except (SegmentError, OSError) as error:
                logger.error("output can't be stored: %s: hosts wait, tried again in %s s", error, DISK_RETRY_S)
                await asyncio.sleep(DISK_RETRY_S)
        return {}

    async def _commit(self, run_id: str, length_bytes: int, emits: Sequence[Emit]) -> None:
        """Indexes what is on disk and reports what rests on it in one step; then the hosts may forget it."""
        store, name = self._context.store, self._segments.segment_name
        events = [emit.event for emit in emits]
        if length_bytes:
            events.insert(0, {"type": "output", "segment": name, "bytes": length_bytes})
        while True:
            try:
                if length_bytes:
                    await store.commit_output(run_id, name, length_bytes, self._context.incarnation, events)
                else:
                    await store.append_worker(run_id, self.mesh, events)
                break
            except StoreUnavailable as error:
                logger.warning("run %s: output can't be indexed: %s: tried again", run_id, error)
                await asyncio.sleep(STORE_RETRY_S)
            except PlushError as error:
                logger.error("run %s: its output is not indexed: %s", run_id, error)
                break
        self._closes += [effect for emit in emits for effect in emit.then]
        if self._closes and self._close_timer is None:
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_AFTER_S, self._send_closes)

    def _send_closes(self) -> None:
        """Hosts may forget what is reported. Not at once: others may still be at work on the same op, and forgetting
        takes processor time too."""
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        closes, self._closes = self._closes, []
        self.perform(closes)

    # ---- time

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.monotonic()
            self.perform(self.state.tick(now_s))
            for link in list(self._links.values()):
                link.keep_alive(now_s)
            if now_s - self._last_beat_s >= BEAT_S:
                self.beat()

    def _used(self) -> None:
        self.last_used_s = time.monotonic()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("mesh %s: a task of its driver failed", self.mesh, exc_info=task.exception())
