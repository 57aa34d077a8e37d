"""Every limit of the store, in one place: Redis must never fill. Pure, no imports."""

from __future__ import annotations

MAX_EVENT_BYTES = 256 << 10  # JSON of one event
MAX_STREAM_EVENTS = 100_000  # about; the oldest are trimmed
MAX_READ_EVENTS = 1000  # in one answer
MAX_SPEC_BYTES = 64 << 20
MAX_SNAPSHOT_BYTES = 64 << 20
KEEP_S = 7 * 86400  # a run that doesn't say so itself, after its end
MAX_FIELD_BYTES = 16 << 20  # one field of a run
MAX_OPS = 10_000  # of one run
MAX_SEGMENTS = 10_000  # of one run
MAX_REMOVED_RUNS = 20_000  # remembered, so that every worker removes their files
RUNS_IN_PAGE = 500  # so that no script holds the server up
JOIN_BATCH = 1000  # hosts in one call, so that no script holds the server up
MAX_ASSIGNMENTS = 10_000  # subtrees in one call

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 5.0
MAX_BLOCK_MS = 10_000  # one blocking read; callers loop
MAX_CONNECTIONS = 16
MAX_BLOCKED_READS = 64  # connections that wait for events; more readers than that poll
POLL_S = 0.25  # ... this often
RETRIES = 3
RETRY_PAUSE_S = 0.1  # before the first repetition; twice as long before each next
