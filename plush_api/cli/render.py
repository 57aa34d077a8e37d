"""Output as lines: ``host: line``, each stream to its own; live, or in the order of the hosts (``-L``).

A line of one host is never cut by another host: it is kept back until its newline comes (``pieces``), in a temporary
file where it is long, so that a line of 50 MB needs no memory. With a single host nothing can come between, so
everything is passed on at once. Bytes go through unchanged, whatever their encoding.
"""

from __future__ import annotations

from collections.abc import Callable

from plush_worker.node import hostset
from plush_worker.node.messages import STDERR, STDOUT

from .console import Console
from .output import Renderer
from .pieces import Track, Tracks
from .view import Outcome

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

NameOf = Callable[[int], str]


def prefix_of(name: str, number: int, coloured: bool) -> bytes:
    """``host: ``, in the host's colour on a terminal."""
    text = name.encode("utf-8", "surrogateescape")
    return b"\x1b[%dm%s\x1b[0m: " % (_COLOURS[number % len(_COLOURS)], text) if coloured else text + b": "


class LineRenderer:
    """Shows lines as they come. ``streams``: those it shows, others are ignored. ``alone``: the run has one host."""

    def __init__(
        self,
        console: Console,
        name_of: NameOf,
        *,
        prefixed: bool = True,
        alone: bool = False,
        streams: tuple[int, ...] = (STDOUT, STDERR),
    ) -> None:
        self._console = console
        self._name_of = name_of
        self._prefixed = prefixed
        self._alone = alone
        self._kept = {stream: Tracks() for stream in streams}
        self._line_is_open = dict.fromkeys(streams, False)
        self._prefixes: dict[tuple[int, int], bytes] = {}

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Show the lines that are complete and keep the rest."""
        if stream not in self._kept:
            return
        if self._alone:
            self._pass_on(hostset.lowest(hosts), stream, data)
            return
        cut = data.rfind(b"\n") + 1
        lines, rest = data[:cut], data[cut:]
        kept = self._kept[stream]
        for track in kept.cover(hosts):
            if lines:
                self._show(track, stream, lines)
                kept.clear(track)
            if rest:
                kept.extend(track, rest)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Say what is missing where it is missing."""
        if stream in self._kept:
            names = [self._name_of(number) for number in hostset.members(hosts)]
            self._console.say(gap_text(names, stream, lost_bytes), always=True)

    def ended(self, outcome: Outcome) -> None:
        """Show the last lines of hosts that ended without a newline."""
        for stream, kept in self._kept.items():
            if self._line_is_open[stream] and outcome.hosts:
                self._line_is_open[stream] = False
                if self._prefixed:
                    self._console.write(stream, b"\n")
            for track in kept.cover(outcome.hosts):
                if track.size_bytes:
                    self._show(track, stream, b"\n")
            kept.drop(outcome.hosts)

    def finish(self) -> None:
        """Give the temporary files back."""
        for kept in self._kept.values():
            kept.close()

    def _show(self, track: Track, stream: int, lines: bytes) -> None:
        """What was kept of an unfinished line, then ``lines``, for each host of the track."""
        kept = self._kept[stream]
        for number in hostset.members(track.hosts):
            prefix = self._prefix(number, stream)
            self._console.write(stream, prefix)
            for chunk in kept.chunks(track):
                self._console.write(stream, chunk)
            self._console.write(stream, _prefixed(lines, prefix))

    def _pass_on(self, number: int, stream: int, data: bytes) -> None:
        prefix = self._prefix(number, stream)
        start = b"" if self._line_is_open[stream] else prefix
        self._line_is_open[stream] = not data.endswith(b"\n")
        lines = data.replace(b"\n", b"\n" + prefix) if self._line_is_open[stream] else _prefixed(data, prefix)
        self._console.write(stream, start + lines)

    def _prefix(self, number: int, stream: int) -> bytes:
        if not self._prefixed:
            return b""
        found = self._prefixes.get((number, stream))
        if found is None:
            found = prefix_of(self._name_of(number), number, self._console.colours(stream))
            self._prefixes[number, stream] = found
        return found


class OrderedRenderer:
    """Keeps all output and hands each host's to a line renderer when those before it have ended (``-L``)."""

    def __init__(self, lines: LineRenderer, order: Callable[[], list[int]]) -> None:
        self._lines = lines
        self._order = order
        self._kept = {STDOUT: Tracks(), STDERR: Tracks()}
        self._outcomes: dict[int, Outcome] = {}
        self._next = 0

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Keep it."""
        self._kept[stream].append(hosts, data)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Said at once; the order is that of lines."""
        self._lines.gap(hosts, stream, lost_bytes)

    def ended(self, outcome: Outcome) -> None:
        """Show every host whose turn has come."""
        for number in hostset.members(outcome.hosts):
            self._outcomes[number] = outcome
        order = self._order()
        while self._next < len(order) and order[self._next] in self._outcomes:
            self._release(order[self._next])
            self._next += 1

    def finish(self) -> None:
        """Show what is left, hosts without an end included."""
        for number in self._order()[self._next :]:
            self._release(number)
        for kept in self._kept.values():
            kept.close()
        self._lines.finish()

    def _release(self, number: int) -> None:
        host = 1 << number
        for stream, kept in self._kept.items():
            for track in kept.cover(host):
                for chunk in kept.chunks(track):
                    self._lines.output(host, stream, chunk)
            kept.drop(host)
        outcome = self._outcomes.get(number)
        if outcome:
            self._lines.ended(Outcome(host, outcome.state, outcome.code, outcome.signal, outcome.error))


class Tee:
    """Gives everything to several renderers, in their order."""

    def __init__(self, *renderers: Renderer) -> None:
        self._renderers = renderers

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """See Renderer."""
        for renderer in self._renderers:
            renderer.output(hosts, stream, data)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """See Renderer."""
        for renderer in self._renderers:
            renderer.gap(hosts, stream, lost_bytes)

    def ended(self, outcome: Outcome) -> None:
        """See Renderer."""
        for renderer in self._renderers:
            renderer.ended(outcome)

    def finish(self) -> None:
        """See Renderer."""
        for renderer in self._renderers:
            renderer.finish()


def gap_text(names: list[str], stream: int, lost_bytes: int) -> str:
    """``node[1-3]: 4096 bytes of stdout were lost``."""
    from plush_worker.experiment.host_ranges import fold

    return f"{fold(names)}: {lost_bytes} bytes of {'stdout' if stream == STDOUT else 'stderr'} were lost"


def _prefixed(lines: bytes, prefix: bytes) -> bytes:
    """A prefix for every line but the first, which has its own already. ``lines`` ends with a newline."""
    if not prefix:
        return lines
    count = lines.count(b"\n")
    return lines.replace(b"\n", b"\n" + prefix, count - 1) if count > 1 else lines
