"""Every limit of the wire protocol and of the node program, in one place; both sides import it, and it imports nothing.
What comes from the other side is checked against these before anything is allocated for it."""

PROTOCOL_VERSION = OLDEST_PROTOCOL_VERSION = 1

MAX_FRAME_BYTES = 1 << 20  # what follows the length field
MAX_HOSTS_FIELD_BYTES = 0xFFFF
MAX_HOST_NUMBER = (1 << 17) - 1
MAX_DEPTH = 8  # nesting of one message
MAX_ITEMS = 200_000  # values in one message
MAX_LINK_ENTRIES = 1000  # hosts in one LINK message; larger plans are sent as several

OUTPUT_CUT_BYTES = 32768  # output is cut at multiples of this offset, so that equal output merges; input too
OUTPUT_SILENCE_MS = 20  # ... or after this silence, or at the end
OUTPUT_LATEST_MS = 200  # ... or when its first byte is this old and the process prints on without a pause
BULK_WINDOW_BYTES = 1 << 20  # bulk bytes on one link that the receiver has not yet taken in
STDIN_WINDOW_BYTES = 2 << 20  # of standard input that one process has not yet read
MERGE_HOLD_MS, MERGE_TABLE_BYTES = 20, 1 << 20

MAX_PAYLOAD_BYTES = 1 << 20  # the compressed node program, as a loader accepts it
LOADER_S = 300  # from the loader's start to HELLO; then it ends itself
MAX_PRELUDE_BYTES = 16 << 20  # banners and start-up files may print this much before the marker
PRELUDE_QUOTE_BYTES = MAX_DETAIL_CHARS = 2000  # ... of which an error quotes the last, and is no longer
MAX_CONTROL_QUEUE_BYTES = 16 << 20

LOGINS_AT_ONCE = 8  # children that one node program connects to at a time
BOOTSTRAP_S = 20  # from the connection's time-out to the marker
STDERR_BYTES = 4000  # of ssh's, kept for the error
CHILDREN_WINDOW_BYTES = 8 << 20  # bulk on the way to one node program, over all its children
MIN_WINDOW_BYTES = 96 << 10  # ... but each may always send two pieces of output

SPOOL_MEMORY_BYTES = 1 << 20  # unacknowledged output of one op that is kept in memory
SPOOL_DISK_BYTES = 8 << 20  # unacknowledged output of one stream; an orphan's may keep as much again of its end
SPOOL_PIECE_BYTES = 256  # what keeping one piece costs beside its bytes; counted against both
ORPHAN_BLOCKS_S = 30  # an orphan's full spool slows its processes so long, so that a link soon back costs no byte

MAX_OPS_HELD = 1000  # ops of one node program that aren't closed
JOURNAL_KEPT_COUNT = 256  # closed ops that a journal still lists after it was compacted
STOP_GRACE_S = 5  # between SIGTERM and SIGKILL, where nobody said otherwise
DEFAULT_TTL_S = 86400  # where an op says 0

HEARTBEAT_S, HEARTBEATS_MISSED = 5, 4
LOG_LINES = 200
