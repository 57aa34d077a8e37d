"""Links to children: the host's own ssh, started for each, watched until the marker comes, and its end explained.

Carries out what routing.Tree orders (open, close, pause) and tells it how a link ended; decides nothing about the tree.
Unpacked at the first LINK.
"""

import os
from _signal import SIGKILL, SIGTERM

from .bootstrap import Prelude, command_line
from .limits import BOOTSTRAP_S, LOGINS_AT_ONCE, MAX_DETAIL_CHARS, STDERR_BYTES
from .loop import Channel
from .pulse import is_silent

CLOSING_S = 2  # from the end of the stream to the end of ssh, or the other way round
NO_SSH = "cannot run ssh: "

# What ssh (or the host's login) printed -> LOST code, the first that is found
_CAUSES = (
    (NO_SSH, "no_ssh"),
    ("Could not resolve hostname", "name"),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "host_key"),
    ("Host key verification failed", "host_key"),
    ("host key is known for", "host_key"),
    ("Permission denied", "auth"),
    ("Too many authentication failures", "auth"),
    ("o supported authentication methods", "auth"),
    ("Connection refused", "refused"),
    ("timed out", "timeout"),
    ("Timeout", "timeout"),
    ("No route to host", "unreachable"),
    ("etwork is unreachable", "unreachable"),
    ("Host is down", "unreachable"),
    ("Connection closed by", "refused"),  # MaxStartups, PerSourcePenalties, TCP wrappers
    ("Connection reset", "refused"),
    ("kex_exchange_identification", "refused"),
)


def classify(text):
    """The LOST code for what a failed ssh printed; ``bootstrap`` when nothing is recognised."""
    for words, code in _CAUSES:
        if words in text:
            return code
    return "bootstrap"


def known_hosts(number, lines):
    """(file content, HostKeyAlias or empty) for the keys accepted of host ``number``; ``lines`` are bytes.

    A certificate is checked against the alias too, and no certificate names ``plush-7``: where an authority is
    accepted there is no alias, the name is the address, and every line is for any name (the file serves one host).
    """
    found = [line.split() for line in lines.splitlines() if line.strip()]
    has_authority = any(words[0] == b"@cert-authority" for words in found)
    name = b"*" if has_authority else b"plush-%d" % number
    out = []
    for words in found:
        mark = [words.pop(0)] if words[0].startswith(b"@") else []
        out.append(b" ".join(mark + [b"*" if mark == [b"@revoked"] else name] + words[:2]) + b"\n")
    return b"".join(out), "" if has_authority else "plush-%d" % number


def ssh_arguments(child, options, alias, keys_path, connect_s):
    """The argument vector for a child. ssh takes the first value of an option: how the host is checked isn't the
    entry's to choose, the rest is. Raises ValueError for an address that ssh would take for an option."""
    destination = child.user + "@" + child.address if child.user else child.address
    bad = [part for part in (child.address, child.user) if part.startswith("-") or part != "".join(part.split())]
    if bad or not child.address:
        raise ValueError("not an address to connect to: %r" % destination)
    fixed = ["BatchMode=yes", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "UpdateHostKeys=no"]
    fixed.append('UserKnownHostsFile="%s"' % keys_path.replace("%", "%%"))
    if alias:
        fixed.append("HostKeyAlias=" + alias)
    default = ["ConnectTimeout=%d" % connect_s, "ControlMaster=no", "ControlPath=none", "ClearAllForwardings=yes"]
    default += ["PermitLocalCommand=no", "LogLevel=ERROR", "CheckHostIP=no", "VerifyHostKeyDNS=no", "ForwardX11=no"]
    words = ["ssh", "-T", "-p", "%d" % child.port]
    for option in fixed:
        words += ["-o", option]
    words += options
    for option in default:
        words += ["-o", option]
    return words + ["--", destination, command_line()]


class Links:
    """The ssh processes of one node program."""

    def __init__(self, session):
        self.session = session
        self.logging_in = set()
        self._waiting = []  # until fewer than LOGINS_AT_ONCE log in
        self._open = {}  # child -> _Ssh

    def open(self, child, options):
        """Start ssh for ``child``, now or when fewer logins are under way."""
        ssh = self._open[child] = _Ssh(self, child, options)
        self._waiting.append(ssh)
        self.start_next()

    def start_next(self):
        """Start those that wait, within the limit."""
        while self._waiting and len(self.logging_in) < LOGINS_AT_ONCE:
            ssh = self._waiting.pop(0)
            self.logging_in.add(ssh)
            ssh.start()

    def close(self, child):
        """End the link, without a word to the tree."""
        ssh = self._open.get(child)
        if ssh is not None:
            ssh.report = None
            ssh.end("eof", "")
            ssh.kill(SIGTERM)

    def pause(self, child, paused):
        """Stop reading from a child, or go on."""
        ssh = self._open.get(child)
        if ssh is not None and ssh.channel is not None:
            ssh.channel.pause(paused)
            ssh.paused = paused

    def beat(self):
        """Once in beat_s: keep links alive and find the silent ones."""
        now = self.session.loop.now()
        for ssh in [ssh for ssh in self._open.values() if ssh.child.reached]:
            if ssh.paused:
                ssh.child.link.heard_at = now
            if is_silent(ssh.child.link, now, self.session.hello["beat_s"]):
                ssh.end("silent", "nothing was heard for %d s" % (now - ssh.child.link.heard_at))

    def forget(self, ssh):
        """``ssh`` is over: its place in the queue of logins is free."""
        self._open.pop(ssh.child, None)
        if ssh in self._waiting:
            self._waiting.remove(ssh)
        self.logged_in(ssh)

    def logged_in(self, ssh):
        """``ssh`` is past its login."""
        self.logging_in.discard(ssh)
        self.start_next()


class _Ssh:
    """One ssh process: start -> marker -> frames -> both its stream and the process at their end -> report."""

    def __init__(self, links, child, options):
        self.links, self.child, self.options = links, child, options
        self.loop = links.session.loop
        self.report = links.session.tree.on_child_end
        self.keys_path = "%s/kh-%d" % (links.session.state_dir, child.number)
        self.prelude = Prelude()
        self.paused = False
        self.channel = self.pid = self.status = self.cause = self.timer = None
        self.stderr_fd, self.stderr = None, b""

    def start(self):
        hello = self.links.session.hello
        try:
            keys, alias = known_hosts(self.child.number, self.child.known_hosts)
            words = ssh_arguments(self.child, self.options, alias, self.keys_path, hello["connect_s"])
            with open(self.keys_path, "wb") as file:
                file.write(keys)
            self.pid, write_fd, read_fd, self.stderr_fd = _spawn(words)
        except ValueError as error:
            return self._over("name", str(error))
        except OSError as error:
            return self._over("limit", "starting ssh: %s" % error.strerror)
        os.set_blocking(self.stderr_fd, False)
        self.loop.watch(self.stderr_fd, self._read_stderr)
        tree, child = self.links.session.tree, self.child
        self.channel = Channel(
            self.loop, child.link, read_fd, write_fd,
            lambda *frame: tree.on_child_frame(child, *frame), self.end,
        )  # fmt: skip
        self.channel.receive = self._receive_prelude
        self.loop.on_child_exit(self.pid, self._on_exit)
        self.timer = self.loop.call_later(hello["connect_s"] + BOOTSTRAP_S, self._on_timeout)

    def _receive_prelude(self, data):
        state = self.prelude.feed(data)
        if state == Prelude.FAILED:
            return self.channel.end(self.prelude.code, self.prelude.text)
        if state == Prelude.FOUND:
            self.loop.cancel(self.timer)
            self.child.reached = True
            self.child.link.heard_at = self.loop.now()
            self._remove_keys()
            self.channel.receive = self.channel.receive_frames
            self.links.logged_in(self)
            self.channel.receive_frames(self.prelude.rest)

    def _on_timeout(self):
        seconds = self.links.session.hello["connect_s"] + BOOTSTRAP_S
        quote = self.prelude.quote() or self._stderr_text()
        text = "not ready %d s after ssh was started" % seconds + ("; it printed: " + quote if quote else "")
        self.end("timeout", text)

    def _read_stderr(self):
        try:
            data = os.read(self.stderr_fd, 65536)
        except BlockingIOError:
            return
        self.stderr = (self.stderr + data)[-STDERR_BYTES:]
        if not data:
            self._close_stderr()

    def _close_stderr(self):
        if self.stderr_fd is not None:
            self.loop.unwatch(self.stderr_fd)
            os.close(self.stderr_fd)
            self.stderr_fd = None

    def _on_exit(self, status):
        self.status = status
        if self.stderr_fd is not None:
            self._read_stderr()
        self._end_when_both()

    def end(self, code, detail):
        """The stream ended, or must. Called by the channel, or to end it."""
        if self.cause is None:
            self.cause = code, detail
            if self.channel is not None:
                self.channel.end(code, detail)
            if code != "eof":
                self.kill(SIGTERM)
            self._end_when_both()

    def _end_when_both(self):
        self.loop.cancel(self.timer)
        if self.pid is None or (self.cause is not None and self.status is not None):
            self._over(*self._explain())
        else:
            self.timer = self.loop.call_later(CLOSING_S, self._force)

    def _force(self):
        self.kill(SIGKILL)
        if self.cause is None:
            self.end("eof", "")
        self._over(*self._explain())

    def _explain(self):
        """(LOST code, detail) from how the stream ended, how ssh exited and what was printed."""
        code, detail = self.cause
        if code != "eof":
            return code, detail
        printed = self._stderr_text()
        if self.child.reached:
            return "eof", printed or detail or "the stream ended"
        if self.prelude.finish() == Prelude.FAILED and self.prelude.code != "bootstrap":
            return self.prelude.code, self.prelude.text
        is_ssh_error = (self.status is not None and self.status >> 8 == 255) or NO_SSH in printed
        code = classify(printed) if is_ssh_error else "bootstrap"
        if code == "bootstrap":
            return code, "%s; ssh: %s" % (self.prelude.text, printed or self._status_text())
        return code, printed

    def _stderr_text(self):
        return self.stderr.decode("utf-8", "replace").strip()[-MAX_DETAIL_CHARS:]

    def _status_text(self):
        if self.status is None or self.status < 0:
            return "did not end"
        return "signal %d" % (self.status & 127) if self.status & 127 else "exit code %d" % (self.status >> 8)

    def _over(self, code, detail):
        self.loop.cancel(self.timer)
        self._close_stderr()
        self._remove_keys()
        self.links.forget(self)
        report, self.report = self.report, None
        if report is not None:
            report(self.child, code, detail)

    def _remove_keys(self):
        try:
            os.unlink(self.keys_path)
        except OSError:
            pass  # gone with the marker

    def kill(self, number):
        """Signal ssh, unless it has been waited for."""
        if self.pid is not None and self.status is None:
            os.kill(self.pid, number)


def _spawn(words):
    """Start a program; (pid, its stdin, its stdout, its stderr). Raises OSError; a failed exec is told on stderr."""
    fds = []
    try:
        for _ in range(3):
            fds += os.pipe()
        pid = os.fork()
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    if pid == 0:
        try:
            for target, fd in enumerate((fds[0], fds[3], fds[5])):
                os.dup2(fd, target)
            os.execvp(words[0], words)
        except OSError as error:
            os.write(2, (NO_SSH + error.strerror).encode())
        finally:
            os._exit(127)
    for fd in (fds[0], fds[3], fds[5]):
        os.close(fd)
    return pid, fds[1], fds[2], fds[4]
