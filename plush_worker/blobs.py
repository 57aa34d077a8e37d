"""Blobs: the contents of files and standard inputs, kept by their SHA-256 in the state folder until no run needs them.

Owns ``<state_dir>/blobs``: ``ab/<sha256>`` for each blob, 0600, never changed once it is there. Who submits puts blobs
here, workers read them from here, so both need the same folder: one machine, or a volume that they share.
Entry point: ``BlobStore``. Blocks: call it off a loop.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from plush_worker.errors import PeerError, UserError

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobMissing(PeerError):
    """A blob that a run needs isn't in this state folder."""

    code = "blob_missing"


class BlobRefused(UserError):
    """What was sent as a blob isn't what it was called, or is too large."""

    code = "blob_refused"


class BlobTooLarge(BlobRefused):
    """Larger than the limit."""

    code = "blob_too_large"


class BlobStore:
    """The blobs of one state folder; any number of processes may use it at once."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self._folder = Path(state_dir) / "blobs"

    def put_file(self, path: str | os.PathLike[str]) -> str:
        """Copies a file in and returns its digest. Raises OSError, naming the file that can't be read or written."""
        with open(path, "rb") as file:
            return self._put(iter(lambda: file.read(CHUNK_BYTES), b""), "", 0)

    def put_stream(self, chunks: Iterable[bytes], digest: str, limit_bytes: int = 0) -> int:
        """Takes in the blob called ``digest``, of at most ``limit_bytes`` (0: no limit). Returns its size in bytes.

        Nothing stays when it isn't that blob. Raises BlobRefused, BlobTooLarge, OSError, and what ``chunks`` raises.
        """
        _check(digest)
        self._put(iter(chunks), digest, limit_bytes)
        return self.size(digest)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. Raises BlobRefused for what is no digest."""
        _check(digest)
        return self._folder / digest[:2] / digest

    def size(self, digest: str) -> int:
        """Its size in bytes. Raises BlobMissing."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise BlobMissing(
                f"blob {digest} isn't in {self._folder} on {os.uname().nodename}: workers and whoever submits need the "
                "same state folder (one machine, or PLUSH_STATE_DIR on a shared volume)"
            ) from error

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that aren't here, each once, in their order; the others count as used now. Raises BlobRefused."""
        return [digest for digest in dict.fromkeys(digests) if not self._touch(digest)]

    def prune(self, keep: set[str], older_than_s: float) -> int:
        """Removes blobs that aren't in ``keep`` and were not put or asked for within ``older_than_s``; how many."""
        removed, oldest = 0, time.time() - older_than_s
        for path in list(self._folder.glob("*/*")) + list(self._folder.glob("*.part")):
            try:
                if path.name not in keep and path.stat().st_mtime < oldest:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:
                continue  # somebody else is pruning
        return removed

    def _put(self, chunks: Iterator[bytes], digest: str, limit_bytes: int) -> str:
        from hashlib import sha256

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self._folder / f"{secrets.token_hex(8)}.part"
        found, size_bytes = sha256(), 0
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                for chunk in chunks:
                    size_bytes += len(chunk)
                    if limit_bytes and size_bytes > limit_bytes:
                        raise BlobTooLarge(f"blob {digest or part.name} has more than {limit_bytes} bytes")
                    found.update(chunk)
                    file.write(chunk)
            name = found.hexdigest()
            if digest and name != digest:
                raise BlobRefused(f"what came as blob {digest} has the SHA-256 {name}: it changed, or was cut short")
            if not self._touch(name):
                target = self.path(name)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                part.rename(target)
        finally:
            part.unlink(missing_ok=True)
        return name

    def _touch(self, digest: str) -> bool:
        """Whether the blob is here; it counts as used now."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True


def _check(digest: str) -> None:
    if not _DIGEST.fullmatch(digest):
        raise BlobRefused(f"not the SHA-256 of a blob (64 hexadecimal digits): {digest[:100]!r}")
