"""Where output frames go on this worker: one segment file a run, written and synced off the mesh thread.

Owns the files and their names, not the order of promises: the driver appends, calls ``write`` and only then reports
and acknowledges.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from plush_worker.store.errors import SegmentError
from plush_worker.store.segments import SegmentWriter


class RunSegments:
    """The open segments of this worker incarnation. ``folder`` is the state folder's ``runs``."""

    def __init__(self, folder: Path, writer_name: str) -> None:
        self._folder = folder
        self._name = f"{writer_name}.seg"
        self._writers: dict[str, SegmentWriter] = {}
        self._pending: dict[str, deque[bytes]] = {}

    @property
    def segment_name(self) -> str:
        """The file's name in each run's folder; also its key in the index."""
        return self._name

    def append(self, run_id: str, frame: bytes) -> None:
        """Takes a frame for the next write."""
        self._pending.setdefault(run_id, deque()).append(frame)

    def take(self) -> dict[str, deque[bytes]]:
        """What waits, to be given to write(); it is no longer pending then."""
        pending, self._pending = self._pending, {}
        return pending

    def write(self, pending: dict[str, deque[bytes]]) -> dict[str, int]:
        """Writes and syncs; returns run -> length of its segment in bytes. Blocks: call it off the mesh thread.

        Raises SegmentError (SegmentFull when the disk is); nothing is lost then, ``pending`` can be written again.
        """
        lengths: dict[str, int] = {}
        for run_id, found in pending.items():
            try:
                writer = self._writer(run_id)
                while found:
                    writer.append(found[0])
                    found.popleft()
                lengths[run_id] = writer.sync()
            except SegmentError:
                self.close(run_id)  # opened anew by the next try, which cuts off what is not whole
                raise
        return lengths

    def _writer(self, run_id: str) -> SegmentWriter:
        writer = self._writers.get(run_id)
        if writer is None:
            writer = self._writers[run_id] = SegmentWriter(self._folder / run_id / self._name)
        return writer

    def close(self, run_id: str) -> None:
        """The run is over."""
        writer = self._writers.pop(run_id, None)
        if writer is not None:
            writer.close()

    def close_all(self) -> None:
        """All files."""
        for run_id in list(self._writers):
            self.close(run_id)
