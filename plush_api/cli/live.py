"""A run on a terminal, redrawn in place: how far it is, who owns what, the slowest hosts, the last output.

``panel`` is pure: a run and a size in, lines out. ``LiveConsole`` draws them; it stands where a plain console stands.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable

from plush_worker.node import hostset

from .console import STDERR, STDOUT, Console, printable, write_all
from .ps import age_text
from .run_progress import RunProgress
from .summary import counts

DRAW_EVERY_S = 0.2
TAIL_LINES = 200
LINE_CHARS = 400
BAR_CHARS = 24
SLOWEST = 4
WORKERS_SHOWN = 12
MIN_TAIL_LINES = 3
_FULL, _EMPTY = "█", "░"


def panel(progress: RunProgress, tail: list[str], now_ms: int, width: int, height: int, hint: str = "") -> list[str]:
    """At most ``height`` lines of at most ``width`` characters. ``tail``: the last lines of output, oldest first."""
    lines = [_title(progress, now_ms), *_bars(progress), *_tree(progress)]
    if progress.waiting_for and not progress.final_state:
        lines.append(f"waiting  {progress.waiting_for}")
    if slow := progress.slowest(now_ms, SLOWEST):
        lines.append("slowest  " + ", ".join(f"{s.name} {s.doing} for {age_text(s.for_s)}" for s in slow))
    room = height - len(lines) - bool(hint)
    if room < MIN_TAIL_LINES:
        lines = lines[: max(1, height - MIN_TAIL_LINES - bool(hint))]
        room = height - len(lines) - bool(hint)
    lines += [f"| {line}" for line in tail[-room:]] if room > 0 else []
    if hint:
        lines.append(hint)
    return [printable(line)[:width] for line in lines]


def _title(progress: RunProgress, now_ms: int) -> str:
    spec = progress.spec
    end_ms = progress.finished_ms or now_ms
    what = spec.name or spec.command or ("join the mesh" if not spec.processes else ", ".join(progress.processes))
    return (
        f"run {spec.run_id}  {progress.state_name}  {age_text(max(0, end_ms - progress.submitted_ms) / 1000)}  {what}"
    )


def _bars(progress: RunProgress) -> list[str]:
    total, up, done = progress.hosts_count, hostset.size(progress.up), progress.done_count
    found = counts(progress, 0.0)
    named = ("ok", "nonzero", "failed", "unreachable", "killed", "unknown")
    ends = ", ".join(f"{found[name]} {name}" for name in named if found[name])
    return [
        f"up       {bar(up, total)} {up}/{total}",
        f"done     {bar(done, total)} {done}/{total}" + (f"  {ends}" if ends else ""),
    ]


def _tree(progress: RunProgress) -> list[str]:
    """One line a worker: its subtrees, and how far their hosts are."""
    from plush_worker.experiment.host_ranges import fold

    lines = []
    shown = sorted(progress.workers.items())
    for at, (worker, owned) in enumerate(shown[:WORKERS_SHOWN]):
        branch = "└─" if at == len(shown) - 1 else "├─"
        total, up = hostset.size(owned.hosts), hostset.size(owned.hosts & progress.up)
        done = hostset.size(owned.hosts & progress.ended)
        roots = fold(progress.name_of(number) for number in hostset.members(owned.roots))
        below = total - hostset.size(owned.roots & owned.hosts)
        tree = f"{roots}" + (f" and {below} below" if below > 0 else "")
        lines.append(f"{branch} {worker}  {bar(done, total, 12)} {up}/{total} up, {done} done  {tree}")
    if len(shown) > WORKERS_SHOWN:
        lines.append(f"└─ and {len(shown) - WORKERS_SHOWN} more workers")
    return lines


def bar(part: int, whole: int, chars: int = BAR_CHARS) -> str:
    """``████░░░░``; full only when nothing is missing."""
    filled = chars * min(part, whole) // whole if whole else 0
    return _FULL * filled + _EMPTY * (chars - filled)


class LiveConsole(Console):
    """A console that shows the panel of a run on standard output instead of lines.

    Output is kept as the last lines; notes of Plush itself stand among them. ``leave`` puts the last panel down.
    """

    def __init__(self, progress: RunProgress, hint: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._run = progress
        self._hint = hint
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._partial: dict[int, bytes] = {STDOUT: b"", STDERR: b""}
        self._drawn = 0
        self._drawn_at = float("-inf")
        self._left = False

    @property
    def shows_progress(self) -> bool:
        """Always: time is shown."""
        return not self._left

    def colours(self, descriptor: int) -> bool:
        """Not in the panel."""
        return self._left and super().colours(descriptor)

    def write(self, descriptor: int, data: bytes) -> None:
        """See Console; kept as lines."""
        if self._left:
            super().write(descriptor, data)
            return
        *lines, rest = (self._partial[descriptor] + data).split(b"\n")
        self._partial[descriptor] = rest[: LINE_CHARS * 4]
        self._tail.extend(line.decode("utf-8", "replace")[:LINE_CHARS] for line in lines)

    def say(self, text: str, *, always: bool = False) -> None:
        """See Console."""
        if self._left:
            super().say(text, always=always)
        else:
            self._tail.append(f"plush: {text}")

    def flush(self) -> None:
        """See Console."""
        if self._left:
            super().flush()

    def progress(self, text: str) -> None:
        """Draw the panel again, not more often than the eye can follow."""
        now = self._clock()
        if now - self._drawn_at >= DRAW_EVERY_S:
            self._drawn_at = now
            self._draw(self._hint)

    def end_progress(self) -> None:
        """See Console: the panel stays until ``leave``."""

    def leave(self) -> None:
        """Draw the panel a last time, without the hint; from now on this is a plain console."""
        if not self._left:
            self._draw("")
            self._left = True

    def _draw(self, hint: str) -> None:
        width, height = shutil.get_terminal_size()
        lines = panel(self._run, list(self._tail), round(time.time() * 1000), width - 1, max(4, height - 1), hint)
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        write_all(STDOUT, (f"\r{up}\x1b[J" + "\n".join(lines) + "\n").encode("utf-8", "replace"))
        self._drawn = len(lines)


def is_live() -> bool:
    """Whether standard output is a terminal that a panel can be drawn on."""
    return os.isatty(STDOUT) and os.environ.get("TERM", "dumb") != "dumb"
