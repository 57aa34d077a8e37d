"""How a node program gets onto a host: the command line to run there, the bytes to send, and what comes back first.

Pure; used by every upper end, a worker or a node program. ``docs/protocol.md``, "Starting a node program".
"""

from .frames import FAIL, MARKER
from .limits import LOADER_S, MAX_PAYLOAD_BYTES, MAX_PRELUDE_BYTES, PRELUDE_QUOTE_BYTES

MAGIC = b"PLU1"

# Three scripts, one in the arguments of another. The login shell may be any of sh, bash, zsh, csh and fish, so none
# of them holds a single quote, a backslash, a newline or an exclamation mark; nor MARKER or FAIL, since some shells
# echo what they run. $0 is the loader, $1 the search. python3 is exec'd at once, the search runs only where that fails.
_FIRST = 'command -v python3 >/dev/null 2>&1 && exec python3 -I -S -c "$0" "$0" "$1"; exec sh -c "$1" "$0"'

_SEARCH = (
    "f=; for p in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python3.7 python3.6"
    " python /usr/libexec/platform-python; do"
    ' v=$("$p" -E -S -c "import sys; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 6))"'
    ' </dev/null 2>/dev/null) && exec "$p" -I -S -c "$0" "$0";'
    ' test -n "$v" && f="$f $p is $v,"; done; m=PLUSH;'
    ' if test -n "$f"; then echo "$m-FAIL old_python$f 3.6 or newer is needed";'
    ' else echo "$m-FAIL no_python python3 is not in PATH=$PATH"; fi; exit 3'
)

# Runs under Python 2 too, as far as the version check. Newlines are sent as ~.
_LOADER = """import sys,os
if sys.version_info<(3,6):os.execvp("sh",["sh","-c",sys.argv[2],sys.argv[1]])
def fail(text):
 os.write(1,("PLUSH"+"-FAIL payload "+text+chr(10)).encode());os._exit(3)
import _signal
_signal.alarm(DEADLINE)
def read(n):
 b=b""
 while len(b)<n:
  d=os.read(0,n-len(b))
  if not d:fail("stdin ended after %d of %d bytes"%(len(b),n))
  b+=d
 return b
h=read(40)
n=int.from_bytes(h[4:8],"big")
if not h[:4]==b"PLU1" or n>MAX:fail("stdin does not begin with it; does a start-up file read stdin?")
p=read(n)
try:from _sha2 import sha256
except ImportError:
 try:from _sha256 import sha256
 except ImportError:from hashlib import sha256
if not sha256(p).digest()==h[8:]:fail("its digest is wrong; does a start-up file read stdin?")
import zlib
z=zlib.decompressobj()
s,_,c=z.decompress(p).partition(bytes(1))
exec(s,{"wire":h+p,"bundle":c,"packed":z.unused_data})
"""


def command_line():
    """The one line to run on a host, as text for its login shell."""
    lines = _LOADER.replace("MAX", str(MAX_PAYLOAD_BYTES)).replace("DEADLINE", str(LOADER_S)).replace("\n", "~")
    loader = 'exec("""%s""".replace("~",chr(10)))' % lines
    return "exec sh -c '%s' '%s' '%s'" % (_FIRST, loader, _SEARCH)


def header(payload):
    """What the upper end writes before its first frame: magic, length, digest, payload. Raises ValueError."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ValueError("payload of %d bytes, at most %d" % (len(payload), MAX_PAYLOAD_BYTES))
    from hashlib import sha256  # dear; node programs pass on the header they got

    return MAGIC + len(payload).to_bytes(4, "big") + sha256(payload).digest() + payload


class Prelude:
    """Finds the marker, or a failure line, in what a host prints first.

    ``state`` is WAITING until feed() or finish() found one; then FOUND (``rest`` holds the bytes behind the marker)
    or FAILED (``code`` and ``text`` say why; code ``bootstrap`` when neither line came).
    """

    WAITING, FOUND, FAILED = range(3)

    def __init__(self):
        self.state, self.rest, self.code, self.text = self.WAITING, b"", "", ""
        self._tail = bytearray()
        self._skipped_bytes = 0

    def feed(self, data):
        """Take in what came; return the state. Memory stays within a few thousand bytes beyond ``data``."""
        tail = self._tail
        tail += data
        marker, failure = tail.find(MARKER), tail.find(FAIL)
        if marker >= 0 and not 0 <= failure < marker:
            self.state, self.rest = self.FOUND, bytes(tail[marker + len(MARKER) :])
            del tail[marker:]
        elif failure >= 0:
            end = tail.find(b"\n", failure)
            if end >= 0 or len(tail) - failure > PRELUDE_QUOTE_BYTES:
                self._fail_with_line(bytes(tail[failure : end if end >= 0 else len(tail)]))
        else:
            surplus = len(tail) - PRELUDE_QUOTE_BYTES
            if surplus > 0:
                self._skipped_bytes += surplus
                del tail[:surplus]
            if self._skipped_bytes > MAX_PRELUDE_BYTES:
                self._fail("more than %d bytes came before the node program" % MAX_PRELUDE_BYTES)
        return self.state

    def finish(self):
        """The stream ended; return the state, which is no longer WAITING."""
        if self.state == self.WAITING:
            failure = self._tail.find(FAIL)
            if failure >= 0:
                self._fail_with_line(bytes(self._tail[failure:]))
            else:
                self._fail("the node program did not start")
        return self.state

    def quote(self):
        """The last of what was printed before the marker, as text."""
        return bytes(self._tail[-PRELUDE_QUOTE_BYTES:]).decode("utf-8", "replace").strip()

    def _fail_with_line(self, line):
        words = line[len(FAIL) : PRELUDE_QUOTE_BYTES].decode("utf-8", "replace").strip().split(" ", 1)
        self.state, self.code, self.text = self.FAILED, words[0], words[-1]

    def _fail(self, text):
        quote = self.quote()
        self.state, self.code = self.FAILED, "bootstrap"
        self.text = text + ("; it printed: " + quote if quote else " and nothing was printed")
