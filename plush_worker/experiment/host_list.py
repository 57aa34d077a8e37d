"""The host list people write for ``-w``, ``-x`` and ``--hostfile``: text to names, with every bad name refused.

Syntax: names and ranges separated by commas or spaces; ``user@host``; ``@group`` and ``@all`` (looked up by the
caller's function); ``-`` for standard input; ``^FILE``; NodeSet's operators ``!`` (without), ``&`` (in both) and
``^`` (in one of both) between two operands, evaluated from left to right. Knows nothing of the host directory or of
OpenSSH's configuration. Entry point: ``read_host_list``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from plush_worker.errors import UsageError

from .host_ranges import MAX_HOSTS, RangeSyntaxError, expand, fold

__all__ = [
    "HostList",
    "HostListError",
    "NoHostsError",
    "bare_host",
    "fold",
    "name_problem",
    "read_host_list",
    "split_login",
]

MAX_LIST_BYTES = 16 << 20  # of a host file or of standard input

# Texts, not compiled here: most commands use one of them, and re keeps what it has compiled.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*\Z"
_IPV6 = r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?\Z"
_LOGIN = r"[A-Za-z0-9_][A-Za-z0-9._@+-]*\Z"
_GROUP = r"[A-Za-z0-9_][A-Za-z0-9._:-]*\Z"
_SHELL = "'`\"$\\;&<>|(){}*?~!#=/"


class HostListError(UsageError):
    """A host list that can't be read; the message names every bad name with its place."""


class NoHostsError(HostListError):
    """A host list that can be read and names nobody."""


class HostList(NamedTuple):
    """The names of a host list, each once, in the order they were written."""

    names: tuple[str, ...]  # "host" or "user@host"
    notes: tuple[str, ...] = ()  # what was done to the list without being asked: duplicates folded


def read_host_list(
    texts: Sequence[str],
    *,
    exclude: Sequence[str] = (),
    hostfiles: Sequence[str] = (),
    group: Callable[[str], Iterable[str]] | None = None,
    read_stdin: Callable[[], str] | None = None,
) -> HostList:
    """The names of ``-w`` texts and host files less those of ``-x`` texts.

    ``group`` maps a group's name (without ``@``) to host names and raises LookupError with a sentence when there is
    none. ``-x host`` excludes every login on that host, ``-x user@host`` only that one. Raises HostListError when
    anything is wrong (all that is wrong in one message) or nothing is left.
    """
    reader = _Reader(group, read_stdin)
    found: dict[str, int] = {}
    for text in texts:
        _count(found, reader.evaluate(text, "-w"))
    for path in hostfiles:
        _count(found, reader.file(path))
    excluded = {name for text in exclude for name in reader.evaluate(text, "-x")}
    if reader.problems:
        raise HostListError("\n".join(dict.fromkeys(reader.problems)))
    if not found:
        raise NoHostsError("no hosts: name some with -w, --hostfile or --slice")
    names = tuple(name for name in found if name not in excluded and bare_host(name) not in excluded)
    if not names:
        raise NoHostsError(f"no hosts are left: -x excludes all of {fold(found)}")
    if len(names) > MAX_HOSTS:
        raise HostListError(f"{len(names)} hosts; at most {MAX_HOSTS} can be named at once")
    doubles = [name for name in names if found[name] > 1]
    notes = (f"named more than once, used once: {fold(doubles)}",) if doubles else ()
    return HostList(names, notes)


def split_login(name: str) -> tuple[str, str]:
    """``user@host`` to (user, host); the user is empty when there is none. The last ``@`` counts, as for ssh."""
    user, _, host = name.rpartition("@")
    return user, host


def bare_host(name: str) -> str:
    """The name without a login."""
    return name.rpartition("@")[2]


def name_problem(name: str) -> str:
    """Why a name (``host`` or ``user@host``) is refused, in words; empty when it is fine.

    Strict on purpose: the name reaches command lines of ssh here and on every inner host, and ProxyCommands through
    a shell. OpenSSH refuses leading dashes and shell metacharacters alike (``valid_hostname``, ``valid_ruser``).
    """
    user, host = split_login(name)
    if "@" in name and not re.match(_LOGIN, user):
        return _describe(user, "login")
    if len(name) > 255:
        return "is longer than 255 characters"
    if re.match(_NAME, host) or re.match(_IPV6, host):
        return ""
    if host.count(":") == 1 and host.rpartition(":")[2].isdigit():
        return "has a port; ports belong in the host directory (port:) or in the OpenSSH configuration (Port)"
    return _describe(host, "name")


def _describe(text: str, what: str) -> str:
    if not text:
        return f"has an empty {what}"
    if text.startswith("-"):
        return f"begins with '-', which ssh would take for an option (to exclude hosts, use -x): no {what} may"
    for character in text:
        if not character.isprintable():
            return f"has the control or unprintable character {character!r}"
        if character.isspace():
            return "has a space in it"
        if character in _SHELL:
            return f"has {character!r}, which means something to a shell or to a host list"
    odd = next((c for c in text if not (c.isascii() and (c.isalnum() or c in "._-:"))), text[0])
    hint = "; write internationalised names in their xn-- form" if not odd.isascii() else ""
    return f"has {odd!r} where no {what} can have it{hint}"


def _count(found: dict[str, int], names: Iterable[str]) -> None:
    for name in names:
        found[name] = found.get(name, 0) + 1


class _Reader:
    """Evaluates texts; collects what is wrong instead of stopping at the first."""

    __slots__ = ("group", "problems", "read_stdin")

    def __init__(self, group: Callable[[str], Iterable[str]] | None, read_stdin: Callable[[], str] | None) -> None:
        self.group, self.read_stdin = group, read_stdin
        self.problems: list[str] = []

    def evaluate(self, text: str, where: str, *, nested: bool = False) -> list[str]:
        """All names of one text, doubles included as long as no operator but the comma is used."""
        names: list[str] = []
        try:
            for operator, operand in _operands(text):
                more = self.operand(operand, where, nested)
                names = _combine(names, operator, more)
        except RangeSyntaxError as error:
            self.problems.append(f"{where}: {error}")
        if len(names) > 2 * MAX_HOSTS:
            self.problems.append(f"{where}: more than {MAX_HOSTS} hosts")
            return []
        return names

    def operand(self, operand: str, where: str, nested: bool) -> list[str]:
        if operand == "-" or operand.startswith("^"):
            if nested:
                self.problems.append(f"{where}: {operand!r}: a host file can't take in another file or standard input")
                return []
            return self.stdin() if operand == "-" else self.file(operand[1:])
        if operand.startswith("@"):
            return self.members(operand[1:], where)
        if operand.rpartition("@")[2].startswith("[") and ":" in operand:
            operand = operand.replace("[", "", 1).removesuffix("]")  # [::1] as in a URL
        names = []
        for name in expand(operand):
            problem = name_problem(name)
            if problem:
                self.problems.append(f"{where}: host {name[:300]!r} {problem}")
                break  # the others of a range would say the same
            names.append(name)
        return names

    def members(self, name: str, where: str) -> list[str]:
        if not re.match(_GROUP, name):
            self.problems.append(f"{where}: '@{name[:300]}' is no group name: write @group, or user@host")
            return []
        if self.group is None:
            self.problems.append(f"{where}: @{name}: there is no host directory that could define groups")
            return []
        try:
            return list(self.group(name))
        except LookupError as error:
            self.problems.append(f"{where}: @{name}: {error.args[0] if error.args else 'no such group'}")
            return []

    def stdin(self) -> list[str]:
        if self.read_stdin is None:
            self.problems.append("-w -: standard input can't be read here")
            return []
        return self.lines(self.read_stdin(), "standard input")

    def file(self, path: str) -> list[str]:
        """A host file: names in the syntax of -w on each line; ``#`` begins a comment."""
        try:
            with open(path, encoding="utf-8") as stream:
                text = stream.read(MAX_LIST_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            self.problems.append(f"host file {path!r} can't be read: {reason}")
            return []
        return self.lines(text, path)

    def lines(self, text: str, where: str) -> list[str]:
        if len(text) > MAX_LIST_BYTES:
            self.problems.append(f"{where}: longer than {MAX_LIST_BYTES >> 20} MiB, so it is no host list")
            return []
        names: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            content = line.partition("#")[0].strip()
            if content:
                names += self.evaluate(content, f"{where} line {number}", nested=True)
                if len(self.problems) >= 20:
                    self.problems.append(f"{where}: not read any further")
                    break
        return names


def _combine(names: list[str], operator: str, more: list[str]) -> list[str]:
    if operator == ",":
        return names + more
    have, other = set(names), set(more)
    if operator == "!":
        return [name for name in dict.fromkeys(names) if name not in other]
    if operator == "&":
        return [name for name in dict.fromkeys(names) if name in other]
    return [n for n in dict.fromkeys(names) if n not in other] + [n for n in dict.fromkeys(more) if n not in have]


def _operands(text: str) -> list[tuple[str, str]]:
    """(operator, operand) pairs; the operator before the first operand is the comma.

    Outside brackets commas and white space separate; ``!``, ``&`` and ``^`` right behind an operand are operators,
    ``^`` in front of one begins a file's name, which ends at the next comma or white space.
    """
    found: list[tuple[str, str]] = []
    operator, operand, depth = ",", "", 0
    for character in text + ",":
        if not operand and found and operator == "," and character in "!&":
            operator = character  # after white space: "a !b"
            continue
        ends = not depth and (character in ", \t\n" or (character in "!&^" and operand and operand[0] != "^"))
        if not ends:
            depth += (character == "[") - (character == "]")
            depth = max(depth, 0)
            operand += character
            continue
        if operand:
            found.append((operator, operand))
            operator, operand = ",", ""
        if character in "!&^":
            operator = character
    if operand:  # an open bracket swallowed the comma that was added at the end
        found.append((operator, operand[:-1]))
    elif operator != ",":
        found.append((operator, operator))  # nothing follows it: refused as a name
    return found
