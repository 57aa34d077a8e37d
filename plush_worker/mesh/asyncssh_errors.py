"""What went wrong with a login by asyncssh, in words: exception and progress -> LinkError. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import asyncssh

from plush_worker.mesh.dial import error_of_os_error
from plush_worker.mesh.first_link import LOGIN_LIMIT_S, LinkError, Tail
from plush_worker.mesh.host_keys import Trust, Verdict
from plush_worker.mesh.identities import Report
from plush_worker.model import HostEntry

_USE_OPENSSH = (
    "Plush can't answer its questions: set `first_link: openssh` for the slice, which uses your own ssh, and keep a "
    "ControlMaster connection to the host open"
)
_SHUT_OUT = (
    "a server that drops logins so has too many at once (MaxStartups), penalises this address (PerSourcePenalties), "
    "or a firewall stands before it: lower worker_logins_at_once, or wait"
)
_CHANNEL_ERRORS = {
    1: "refuses to forward connections (AllowTcpForwarding)",
    3: "doesn't know how to forward connections",
}


class _Proxy(Protocol):
    stderr: Tail


@dataclass(slots=True)
class Progress:
    """How far a login has come."""

    greeting: bytes = b""  # what came before and with the SSH banner
    connected: bool = False
    banner: bool = False
    key_exchanged: bool = False
    logged_in: bool = False
    established: bool = False
    through_tunnel: bool = False
    proxy: _Proxy | None = None
    user: str = ""
    login_banner: str = ""
    methods: list[str] = field(default_factory=list)  # that the server offered
    keys: Report = field(default_factory=Report)

    def note_method(self, name: str) -> None:
        """The server would take this way of logging in."""
        if name not in self.methods:
            self.methods.append(name)


def explain(error: Exception, entry: HostEntry, progress: Progress, timeout_s: float) -> LinkError:
    """The LinkError for a failed login. ``timeout_s``: what was granted up to the end of the key exchange."""
    place = f"{entry.address} port {entry.port}"
    if isinstance(error, TimeoutError):
        return _timed_out(place, progress, timeout_s)
    if isinstance(error, asyncssh.ChannelOpenError) and not progress.connected:
        return _not_forwarded(error, place)
    if isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error).lower():
        return _denied(error, entry, progress)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        code = "host_key" if "host key" in str(error) else "protocol"
        return LinkError(code, f"key exchange with {place}: {error}")
    if isinstance(error, (asyncssh.ConnectionLost, ConnectionError, BrokenPipeError)):
        return _lost(error, place, progress)
    if isinstance(error, OSError):
        return error_of_os_error(error, f"connecting to {place}")
    if isinstance(error, asyncssh.ProtocolNotSupported) or (isinstance(error, asyncssh.Error) and not progress.banner):
        return LinkError("protocol", f"{place} is no SSH 2 server: {error}{_said(progress)}")
    if isinstance(error, asyncssh.DisconnectError):
        return LinkError("eof", f"{place} ended the login: {error}{_said(progress)}")
    return LinkError("protocol", f"logging in to {place}: {error}")


def host_key_error(entry: HostEntry, verdict: Verdict) -> LinkError:
    """For a host key that isn't accepted."""
    if verdict.trust is Trust.UNKNOWN:
        advice = f"check the fingerprint and record the key: plush hosts trust -w {entry.name}"
    elif verdict.trust is Trust.CHANGED:
        advice = (
            "the host was reinstalled, or someone is in between. If the new key is right, remove the old one "
            f"and record it: plush hosts trust -w {entry.name}"
        )
    else:
        advice = "ask whoever runs the host"
    return LinkError("host_key", f"{entry.address} port {entry.port}: {verdict.why}; {advice}")


def link_error_of_loss(error: Exception | None, stderr: str) -> LinkError | None:
    """For the end of an open link; None when it ended in order."""
    if error is None:
        return None
    said = f"; its stderr: {stderr[-500:]}" if stderr.strip() else ""
    if isinstance(error, TimeoutError):
        return LinkError("timeout", f"the connection broke: {error}{said}")
    if isinstance(error, (asyncssh.ConnectionLost, OSError)):
        return LinkError("eof", f"the connection broke: {error}{said}")
    return LinkError("protocol", f"the connection broke: {type(error).__name__}: {error}{said}")


def _timed_out(place: str, progress: Progress, timeout_s: float) -> LinkError:
    if progress.key_exchanged:
        return LinkError("timeout", f"{place}: login not done within {LOGIN_LIMIT_S} s; is the host overloaded?")
    if progress.banner:
        return LinkError(
            "timeout", f"{place}: the key exchange was not done within {timeout_s:g} s; is the host overloaded?"
        )
    if progress.connected:
        return LinkError(
            "timeout", f"{place}: connected, but no SSH banner came within {timeout_s:g} s{_said(progress)}"
        )
    where = "through the jump host " if progress.through_tunnel else ""
    return LinkError(
        "timeout", f"connecting {where}to {place}: no answer within {timeout_s:g} s; is the host up, the port right?"
    )


def _not_forwarded(error: asyncssh.ChannelOpenError, place: str) -> LinkError:
    reason = str(error.reason or error)
    lower = reason.lower()
    if error.code in _CHANNEL_ERRORS:
        return LinkError("unreachable", f"the jump host {_CHANNEL_ERRORS[error.code]}: {reason}")
    for code, words in (("refused", "refused"), ("timeout", "timed out"), ("name", "name"), ("name", "resolve")):
        if words in lower:
            return LinkError(code, f"from the jump host to {place}: {reason}")
    if lower in ("", "connect failed", "open failed"):
        reason = "connect failed (the jump host doesn't say why)"
    return LinkError("unreachable", f"from the jump host to {place}: {reason}")


def _denied(error: Exception, entry: HostEntry, progress: Progress) -> LinkError:
    keys = progress.keys
    offered = "; ".join(keys.offered) or "no key"
    skipped = f"; not offered: {'; '.join(keys.skipped)}" if keys.skipped else ""
    methods = ", ".join(progress.methods) or "nothing that Plush can do"
    tried = f"logging in to {entry.address} port {entry.port} as {progress.user or entry.user}"
    if "publickey" not in progress.methods and progress.methods:
        return LinkError("auth", f"{tried}: the server takes only {methods}. {_USE_OPENSSH}")
    if "keyboard-interactive" in progress.methods or "password" in progress.methods:
        advice = f"put the public key into the account there; or, as the server also takes other ways: {_USE_OPENSSH}"
    else:
        advice = "put the public key into the account there, or name the right key (IdentityFile) and user"
    return LinkError("auth", f"{tried}: {error}. The server takes {methods}; offered: {offered}{skipped}; {advice}")


def _lost(error: Exception, place: str, progress: Progress) -> LinkError:
    if progress.logged_in:
        return LinkError("eof", f"{place}: the connection was lost after login: {error}{_said(progress)}")
    if progress.key_exchanged:
        return LinkError("eof", f"{place}: closed during login: {error}{_said(progress)}; {_SHUT_OUT}")
    if progress.banner:
        return LinkError("eof", f"{place}: closed during the key exchange: {error}{_said(progress)}; {_SHUT_OUT}")
    if progress.proxy is not None:
        return LinkError("eof", f"{place}: the proxy command ended before an SSH banner came{_said(progress)}")
    if progress.connected:
        return LinkError("eof", f"{place}: closed before an SSH banner: {error}{_said(progress)}; {_SHUT_OUT}")
    return LinkError("eof", f"connecting to {place}: {error}; {_SHUT_OUT}")


def _said(progress: Progress) -> str:
    said = ""
    if not progress.banner and progress.greeting.strip():
        said = f"; it said: {progress.greeting.decode('utf-8', 'replace').strip()!r}"
    if progress.login_banner.strip():
        said += f"; its banner: {progress.login_banner.strip()[-500:]!r}"
    if progress.proxy is not None and progress.proxy.stderr.text().strip():
        said += f"; the proxy command said: {progress.proxy.stderr.text().strip()[-500:]!r}"
    return said
