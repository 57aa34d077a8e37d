"""Equal outputs shown once, under the folded names of their hosts (``-b``, ``-B``).

Everything is kept until the run is over (``pieces``: equal output of many hosts once, large output in a temporary
file). The header is ClusterShell's, so that what parses ``clush -b`` parses this.
"""

from __future__ import annotations

from collections.abc import Callable

from plush_worker.experiment.host_ranges import fold
from plush_worker.node import hostset
from plush_worker.node.messages import STDERR, STDOUT

from .console import Console
from .pieces import Track, Tracks
from .render import LineRenderer, gap_text
from .view import Outcome

RULE = b"-" * 15


class GatherRenderer:
    """Keeps standard output (``with_stderr``: both streams, as they came) and shows it folded at the end.

    ``live`` shows what isn't kept, that is stderr without ``with_stderr``.
    """

    def __init__(
        self, console: Console, name_of: Callable[[int], str], live: LineRenderer, *, with_stderr: bool = False
    ) -> None:
        self._console = console
        self._name_of = name_of
        self._live = live
        self._gathered = (STDOUT, STDERR) if with_stderr else (STDOUT,)
        self._kept = Tracks()

    def output(self, hosts: int, stream: int, data: bytes) -> None:
        """Keep it, or show it at once."""
        if stream in self._gathered:
            self._kept.append(hosts, data)
        else:
            self._live.output(hosts, stream, data)

    def gap(self, hosts: int, stream: int, lost_bytes: int) -> None:
        """Said at once; what is shown at the end has the hole."""
        names = [self._name_of(number) for number in hostset.members(hosts)]
        self._console.say(gap_text(names, stream, lost_bytes), always=True)

    def ended(self, outcome: Outcome) -> None:
        """Only the live stream needs to know."""
        self._live.ended(outcome)

    def finish(self) -> None:
        """Show every distinct output once."""
        for hosts, track in equal_content(self._kept):
            names = [self._name_of(number) for number in hostset.members(hosts)]
            folded = fold(names).encode("utf-8", "surrogateescape")
            count = b" (%d)" % len(names) if len(names) > 1 else b""
            self._console.write(STDOUT, b"%s\n%s%s\n%s\n" % (RULE, folded, count, RULE))
            last = b""
            for chunk in self._kept.chunks(track):
                self._console.write(STDOUT, chunk)
                last = chunk
            if not last.endswith(b"\n"):
                self._console.write(STDOUT, b"\n")
        self._kept.close()
        self._live.finish()


def equal_content(kept: Tracks) -> list[tuple[int, Track]]:
    """The distinct contents that aren't empty, by their lowest host, each with all its hosts.

    Only contents of equal length are read and hashed.
    """
    by_size: dict[int, list[Track]] = {}
    for track in kept.all():
        if track.size_bytes:
            by_size.setdefault(track.size_bytes, []).append(track)
    groups: list[tuple[int, Track]] = []
    for tracks in by_size.values():
        by_digest: dict[bytes, tuple[int, Track]] = {}
        for track in tracks:
            digest = content_digest(kept, track) if len(tracks) > 1 else b""
            hosts, first = by_digest.get(digest, (0, track))
            by_digest[digest] = (hosts | track.hosts, first)
        groups += by_digest.values()
    return sorted(groups, key=lambda group: hostset.lowest(group[0]))


def content_digest(kept: Tracks, track: Track) -> bytes:
    """A collision-free name of a track's content."""
    from hashlib import blake2b

    digest = blake2b(digest_size=32)
    for chunk in kept.chunks(track):
        digest.update(chunk)
    return digest.digest()
