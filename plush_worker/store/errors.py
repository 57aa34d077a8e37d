"""What can go wrong with the store. Raised by Store, LightStore, segments and server alike; ``code`` is stable."""

from __future__ import annotations

from ..errors import ConfigurationError, PeerError, RunNotFound, StoreUnavailable

__all__ = [
    "BadStoreURL",
    "Fenced",
    "MeshClosing",
    "NoSuchMesh",
    "NoSuchRun",
    "SegmentError",
    "SegmentFull",
    "StoreError",
    "StoreFull",
    "StoreUnavailable",
    "TooLarge",
]


class BadStoreURL(ConfigurationError):
    """What was given is no URL of a Redis server."""

    code = "store_url"


class NoSuchRun(RunNotFound):
    """The run was removed or never submitted."""


class StoreError(PeerError):
    """The store refuses a request (no answer at all is StoreUnavailable)."""

    code = "store"


class StoreFull(StoreError):
    """The Redis server can't store more: memory or disk."""

    code = "store_full"
    retryable = True


class Fenced(StoreError):
    """Somebody else has taken over what the caller believed to hold: it must stop acting."""

    code = "fenced"


class NoSuchMesh(StoreError):
    """The mesh was removed; open it again."""

    code = "no_such_mesh"
    retryable = True


class MeshClosing(StoreError):
    """The mesh is being closed; wait until it is gone, then open it again."""

    code = "mesh_closing"
    retryable = True


class TooLarge(StoreError):
    """A limit of the store was reached (limits.py)."""

    code = "too_large"


class SegmentError(StoreError):
    """A segment file that can't be used: busy, damaged or shorter than what was committed."""

    code = "segment"


class SegmentFull(SegmentError):
    """The disk (or the limit) of a segment file is full; what was appended before is intact."""

    code = "segment_full"
    retryable = True
