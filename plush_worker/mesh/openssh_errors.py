"""What OpenSSH's client says about its progress and its failures: log lines -> LinkError. Pure. Tested with 8.4 to 9.x.

The lines come from ``ssh -o LogLevel=DEBUG1 -E``, so that they never mix with the remote command's stderr.
"""

from __future__ import annotations

import re

from plush_worker.mesh.first_link import LinkError

_LOGGED_IN = re.compile(r"Authenticated to |mux_client_request_session: master session id|Entering interactive session")
# The first that any line matches decides: several may appear.
_CODES = {
    "host_key": r"IDENTIFICATION HAS CHANGED|Host key verification failed|REVOKED HOST KEY|no matching host key type",
    "name": r"Could not resolve hostname",
    "auth": r"Permission denied|Too many authentication failures|No more authentication methods|Authentication failed",
    "refused": r"Connection refused",
    "timeout": r"timed out",
    "unreachable": r"No route to host|Network is unreachable|Host is down|administratively prohibited|open failed",
    "protocol": r"no matching \w[\w ]* found|Protocol major versions differ|Bad packet length|ad configuration option",
    "eof": r"Connection (closed|reset)|kex_exchange_identification|Broken pipe|Connection to .* closed|not responding",
}
_COMPILED = tuple((code, re.compile(pattern)) for code, pattern in _CODES.items())
_NOISE = re.compile(
    r"^(debug\d: |OpenSSH_|Authenticated to |Transferred: |Bytes per second: |Warning: Permanently added )"
)
_METHODS = re.compile(r"Authentications that can continue: (\S+)")
_OFFERED = re.compile(r"Offering public key: (.*)")


def has_logged_in(log: str) -> bool:
    """Whether the log so far says that login is done (or that a ControlMaster's connection is used)."""
    return _LOGGED_IN.search(log) is not None


def names_failure(log: str) -> bool:
    """Whether ssh itself reports a failure (else status 255 was the remote command's own)."""
    return any(pattern.search(line) for line in log.splitlines() if not _NOISE.match(line) for _, pattern in _COMPILED)


def explain(log: str, stderr: str, status: int | None, name: str) -> LinkError:
    """The LinkError for an ``ssh`` that ended before its session did. ``name``: the host as people write it."""
    said = [line.strip() for line in (log + "\n" + stderr).splitlines() if line.strip() and not _NOISE.match(line)]
    quote = "; ".join(dict.fromkeys(line for line in said if not set(line) <= {"@"}))[-900:]
    text = "\n".join(said)
    code = next((code for code, pattern in _COMPILED if pattern.search(text)), "eof")
    ended = f"ssh ended with status {status}" if status is not None else "ssh was killed"
    return LinkError(code, f"{ended}: {quote or 'it gave no reason'}{_advice(code, log, name)}")


def _advice(code: str, log: str, name: str) -> str:
    if code == "host_key":
        return f"; check the key, then record it: plush hosts trust -w {name}"
    if code != "auth":
        return ""
    methods = _METHODS.findall(log)
    offered = "; ".join(_OFFERED.findall(log)) or "no key"
    advice = (
        f"; the server takes {methods[-1] if methods else 'no method that works without questions'}; offered: {offered}"
    )
    if methods and ("keyboard-interactive" in methods[-1] or "password" in methods[-1]):
        advice += (
            f"; to answer its questions once, open a ControlMaster connection (ssh {name} with ControlMaster auto)"
        )
    return advice
