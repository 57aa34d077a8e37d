"""OpenSSH's known_hosts files: which lines speak for a host.

Understands plain, hashed, wildcard and negated names, ``[host]:port``, ``@cert-authority`` and ``@revoked`` (sshd(8),
SSH_KNOWN_HOSTS FILE FORMAT). Lines that can't be read are skipped, as ssh does. Doesn't verify keys and never writes.
Entry points: ``KnownHosts.read`` and ``lines_for``. Matching hashed names costs one HMAC per line and host, so
``ssh_entry.py`` remembers the answers for as long as the files are unchanged.
"""

from __future__ import annotations

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable

_MAX_FILE_BYTES = 64 << 20
_REVOKED = "@revoked"
_MARKERS = ("@cert-authority", _REVOKED)


class KnownHosts:
    """An index over the lines of known_hosts files, in their order."""

    def __init__(self) -> None:
        self._lines: list[str] = []  # "ssh-ed25519 AAAA...", with its marker in front
        self._plain: dict[str, list[int]] = {}  # name -> line numbers
        self._hashed: list[tuple[bytes, bytes, int]] = []  # salt, HMAC-SHA1 of the name, line number
        self._patterns: list[tuple[list[re.Pattern[str]], list[re.Pattern[str]], int]] = []  # wanted, refused, number

    @classmethod
    def read(cls, paths: Iterable[str]) -> KnownHosts:
        """The index of files; those that can't be opened are as if empty, as for ssh."""
        known = cls()
        for path in dict.fromkeys(paths):
            try:
                with open(path, "rb") as stream:
                    known.add(stream.read(_MAX_FILE_BYTES).decode("utf-8", "replace"))
            except OSError:
                continue
        return known

    def add(self, text: str) -> None:
        """Takes in the text of one file."""
        for line in text.split("\n"):
            words = line.split(None, 4)
            if len(words) < 3 or words[0].startswith("#"):
                continue
            marker = ""
            if words[0].startswith("@"):
                marker = words.pop(0)
                if marker not in _MARKERS or len(words) < 3:
                    continue
            names, key_type, key = words[0], words[1], words[2]
            if not _is_key(key_type, key):
                continue
            number = len(self._lines)
            self._lines.append(f"{marker} {key_type} {key}".lstrip())
            self._index(names.lower() if not names.startswith("|") else names, number)

    def _index(self, names: str, number: int) -> None:
        if names.startswith("|"):
            try:
                _, version, salt, digest = names.split("|")
                if version == "1":
                    self._hashed.append((a2b_base64(salt), a2b_base64(digest), number))
            except (ValueError, Base64Error):
                pass  # a bad line, skipped
        elif any(character in names for character in "*?!"):
            parts = names.split(",")
            wanted = [_compile(part) for part in parts if part and not part.startswith("!")]
            refused = [_compile(part[1:]) for part in parts if part.startswith("!")]
            self._patterns.append((wanted, refused, number))
        else:
            for name in names.split(","):
                self._plain.setdefault(name, []).append(number)

    def lines_for(self, address: str, port: int = 22, alias: str = "") -> tuple[str, ...]:
        """The keys, authorities and revocations that speak for a host, in the order of the files, each once.

        With HostKeyAlias only the alias counts. Off port 22 ssh asks for ``[address]:port`` and, when no key is
        listed under that, for the plain address (``check_host_key``); so does this.
        """
        if alias:
            numbers = self._matching(alias.lower())
        elif port == 22:
            numbers = self._matching(address.lower())
        else:
            numbers = self._matching(f"[{address.lower()}]:{port}")
            if all(self._lines[number].startswith(_REVOKED) for number in numbers):
                numbers |= self._matching(address.lower())
        return tuple(dict.fromkeys(self._lines[number] for number in sorted(numbers)))

    def _matching(self, name: str) -> set[int]:
        numbers = set(self._plain.get(name, ()))
        if self._hashed:
            from hmac import digest  # only here: it costs 4 ms

            data = name.encode("utf-8", "surrogateescape")
            numbers.update(number for salt, hashed, number in self._hashed if digest(salt, data, "sha1") == hashed)
        for wanted, refused, number in self._patterns:
            if any(p.match(name) for p in wanted) and not any(p.match(name) for p in refused):
                numbers.add(number)
        return numbers


def _is_key(key_type: str, key: str) -> bool:
    """Whether the text is a public key of the type it claims: its blob begins with that type's name."""
    prefix = len(key_type).to_bytes(4, "big") + key_type.encode("utf-8", "replace")
    try:
        return a2b_base64(key).startswith(prefix)
    except (Base64Error, ValueError):
        return False


def _compile(pattern: str) -> re.Pattern[str]:
    """OpenSSH's match_pattern: only ``*`` and ``?`` are special."""
    translated = "".join(".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.compile(translated + r"\Z", re.DOTALL)
