"""Real ``sshd`` processes on loopback for tests: own keys, own folder, ended by their process id."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
DEADLINE_S = 20.0


def _no_penalties() -> dict[str, str]:
    """From OpenSSH 9.8 on sshd locks out an address after a few failed logins, which tests make on purpose."""
    version = re.search(r"OpenSSH_(\d+)\.(\d+)", subprocess.run(["ssh", "-V"], capture_output=True, text=True).stderr)
    return {"PerSourcePenalties": "no"} if version and (int(version[1]), int(version[2])) >= (9, 8) else {}


_NO_PENALTIES = _no_penalties() if shutil.which("ssh") else {}


def wait_until(condition: object, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Polls ``condition()`` until it is true; AssertionError naming ``what`` at the deadline."""
    end_s = time.monotonic() + deadline_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.01)


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new key pair; returns the private key's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = ["-b", "2048"] if kind == "rsa" else []
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", path.name, "-f", str(path)], check=True
    )
    return path


def sign_key(authority: Path, public: Path, *options: str) -> Path:
    """Certifies ``public`` (a ``.pub`` file); returns the certificate's path."""
    subprocess.run(["ssh-keygen", "-q", "-s", str(authority), "-I", "test", *options, str(public)], check=True)
    return public.with_name(public.name.removesuffix(".pub") + "-cert.pub")


def public_line(private: Path) -> str:
    """``key-type base64`` of a key pair."""
    return " ".join(private.with_name(private.name + ".pub").read_text().split()[:2])


def free_port(address: str) -> int:
    """A port on which nothing listens now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


class SshServer:
    """One sshd of the current user, who may log in with ``client_key``."""

    def __init__(self, folder: Path, address: str = "127.0.0.1", **options: str) -> None:
        self.folder = folder
        self.address = address
        self.port = free_port(address)
        self.user = getpass.getuser()
        self.host_key = make_key(folder / "host_key")
        self.client_key = make_key(folder / "client_key")
        self.authorized_keys = folder / "authorized_keys"
        self.authorized_keys.write_text(public_line(self.client_key) + "\n")
        self.log = folder / "sshd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_config(options)

    def _write_config(self, options: Mapping[str, str]) -> None:
        settings = {
            "ListenAddress": self.address if ":" not in self.address else f"[{self.address}]",
            "Port": str(self.port),
            "HostKey": str(self.host_key),
            "AuthorizedKeysFile": str(self.authorized_keys),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "MaxStartups": "1000",
            "LogLevel": "VERBOSE",
            # Not the tester's start-up files: pyenv's, for one, waits up to 60 s for a lock when many shells start.
            "SetEnv": f"HOME={self.folder}",
            **_NO_PENALTIES,
            **options,
        }
        (self.folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))

    @property
    def known_hosts(self) -> tuple[str, ...]:
        """What pins this server's key."""
        return (public_line(self.host_key),)

    def start(self) -> None:
        """Starts it and waits until it listens."""
        assert SSHD is not None, "needs sshd: apt-get install openssh-server"
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._process = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        wait_until(self._listens, f"sshd listening on {self.address}:{self.port}")

    def _listens(self) -> bool:
        assert self._process is not None and self._process.poll() is None, f"sshd ended: {self.log.read_text()}"
        return self.log.exists() and "Server listening" in self.log.read_text()

    def stop(self) -> None:
        """Ends it and the logins below it."""
        if self._process is None:
            return
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        for child in children:
            try:
                os.kill(int(child), signal.SIGTERM)
            except ProcessLookupError:
                pass
        self._process = None


@contextmanager
def ssh_server(folder: Path, address: str = "127.0.0.1", **options: str) -> Iterator[SshServer]:
    """A running sshd."""
    folder.mkdir(parents=True, exist_ok=True)
    server = SshServer(folder, address, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def ssh_agent(folder: Path, *keys: Path) -> Iterator[str]:
    """A running ssh-agent that holds ``keys``; gives its socket's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "agent.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "ssh-agent's socket")
        if keys:
            environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", *map(str, keys)], env=environment, check=True)
        yield str(path)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
