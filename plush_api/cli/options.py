"""The options of ``plush run``: one table, its parser and its help text.

Not typer: importing it takes 56 ms (73 with its click) of the 150 that the command has until its first request. The
grammar is POSIX's, as of ``ssh`` and ``clush``: options end at the first word that isn't one, or at ``--``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from plush_worker.errors import UsageError

PLANNERS = ("auto", "flat", "kary", "site", "greedy")


class Option(NamedTuple):
    """One option. ``kind``: flag, text, texts (may be repeated), count (a whole number of at least 1)."""

    flags: tuple[str, ...]
    field: str
    kind: str
    metavar: str
    help: str


OPTIONS: dict[str, tuple[Option, ...]] = {
    "Hosts": (
        Option(
            ("-w",), "hosts", "texts", "HOSTS", "node[1-8],gw; user@host; @group; @all; ^FILE; - for standard input"
        ),
        Option(("-x",), "exclude", "texts", "HOSTS", "leave these out"),
        Option(("-l",), "login", "text", "USER", "log in as USER where the name says nothing else"),
        Option(("-F",), "ssh_config", "text", "FILE", "OpenSSH configuration to use"),
        Option(("--hostfile",), "hostfiles", "texts", "FILE", "hosts from a file"),
        Option(("--directory",), "directory", "text", "FILE", "host directory (hosts.yaml)"),
        Option(("--slice",), "slice", "text", "NAME", "slice of the directory: its hosts (without -w) and settings"),
    ),
    "How": (
        Option(("-t",), "connect_timeout_s", "count", "SECONDS", "connect timeout (10)"),
        Option(("-u",), "timeout_s", "count", "SECONDS", "time limit of the command"),
        Option(("-f",), "fanout", "count", "N", "run on at most N hosts at once"),
        Option(("--together",), "together", "flag", "", "start when all hosts are up or given up"),
        Option(("--planner",), "planner", "text", "P", f"tree planner: {', '.join(PLANNERS)}"),
        Option(("--workers",), "workers", "count", "N", "workers, where no service runs and one is made (1)"),
    ),
    "Output": (
        Option(("-b", "--gather"), "gather", "flag", "", "show equal outputs once, under the hosts' folded names"),
        Option(("-B",), "gather_stderr", "flag", "", "like -b, with standard error"),
        Option(("-L",), "ordered", "flag", "", "in the order of the hosts"),
        Option(("-N",), "no_prefix", "flag", "", "no 'host: ' before the lines"),
        Option(("--json",), "json", "flag", "", "one JSON object a host, then the summary"),
        Option(("--outdir",), "outdir", "text", "DIR", "write each host's output to a file of its own, too"),
        Option(("-q", "--quiet"), "quiet", "flag", "", "no progress, no notes, no list of failures"),
        Option(("-S",), "largest_code", "flag", "", "exit with the largest remote code: always so"),
        Option(("-h", "--help"), "help", "flag", "", "show this and exit"),
    ),
}

_BY_FLAG = {flag: option for group in OPTIONS.values() for option in group for flag in option.flags}


class RunOptions:
    """What was asked of ``plush run``; attributes are named by ``OPTIONS``, ``command`` is the rest, joined."""

    hosts: list[str]
    exclude: list[str]
    login: str
    ssh_config: str
    hostfiles: list[str]
    directory: str
    slice: str
    connect_timeout_s: int  # 0: as the slice says
    timeout_s: int
    fanout: int
    together: bool
    planner: str
    workers: int
    gather: bool
    gather_stderr: bool
    ordered: bool
    no_prefix: bool
    json: bool
    outdir: str
    quiet: bool
    largest_code: bool
    help: bool
    command: str

    def __init__(self) -> None:
        empty: dict[str, Any] = {"flag": False, "text": "", "count": 0}
        for group in OPTIONS.values():
            for option in group:
                setattr(self, option.field, [] if option.kind == "texts" else empty[option.kind])
        self.command = ""


def parse(words: Sequence[str]) -> RunOptions:
    """The options and the command of ``plush run WORDS``. Raises UsageError; not when help was asked for."""
    options = RunOptions()
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            _take_long(options, word, rest)
        else:
            _take_short(options, word, rest)
    options.command = " ".join(rest)
    if not options.help:
        _check(options)
    return options


def _take_long(options: RunOptions, word: str, rest: list[str]) -> None:
    flag, equals, value = word.partition("=")
    option = _find(flag)
    if option.kind == "flag":
        if equals:
            raise UsageError(f"{flag} takes no value")
        setattr(options, option.field, True)
    else:
        _store(options, option, flag, value if equals else _next(flag, option, rest))


def _take_short(options: RunOptions, word: str, rest: list[str]) -> None:
    """``-bN``, ``-wHOSTS`` and ``-w HOSTS``."""
    for at in range(1, len(word)):
        flag = "-" + word[at]
        option = _find(flag, word)
        if option.kind != "flag":
            _store(options, option, flag, word[at + 1 :] or _next(flag, option, rest))
            return
        setattr(options, option.field, True)


def _find(flag: str, word: str = "") -> Option:
    option = _BY_FLAG.get(flag)
    if option is None:
        within = f" (in {word})" if word and word != flag else ""
        raise UsageError(f"no such option: {flag}{within}; see plush run --help")
    return option


def _next(flag: str, option: Option, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"{flag} needs a value: {flag} {option.metavar}")
    return rest.pop(0)


def _store(options: RunOptions, option: Option, flag: str, value: str) -> None:
    if option.kind == "texts":
        getattr(options, option.field).append(value)
    elif option.kind == "text":
        setattr(options, option.field, value)
    else:
        if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 10**9):
            raise UsageError(f"{flag} {value}: {option.metavar} must be a whole number of at least 1")
        setattr(options, option.field, int(value))


def _check(options: RunOptions) -> None:
    if not options.command.strip():
        raise UsageError("no command: plush run -w HOSTS -- CMD")
    if "\0" in options.command:
        raise UsageError("the command has a NUL byte in it")
    check_planner(options)
    forms = {"--json": options.json, "-b": options.gather, "-B": options.gather_stderr, "-L": options.ordered}
    chosen = [flag for flag, given in forms.items() if given and not (flag == "-b" and options.gather_stderr)]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)} ask for different forms of output: choose one")
    if options.no_prefix and options.json:
        raise UsageError("-N has no meaning with --json")


def check_planner(options: RunOptions) -> None:
    """Raises UsageError when there is no such planner."""
    if options.planner and options.planner not in PLANNERS:
        raise UsageError(f"--planner {options.planner}: must be one of {', '.join(PLANNERS)}")


def help_text() -> str:
    """What ``plush run --help`` prints."""
    lines = [
        "Usage: plush run -w HOSTS [OPTIONS] [--] CMD",
        "",
        "Run CMD on many hosts over SSH. CMD is every word from the first that is no option on, joined by spaces,",
        "for the login shell of each host; its standard input is empty. Each host starts as soon as it is ready.",
    ]
    for title, group in OPTIONS.items():
        lines += ["", f"{title}:"]
        for option in group:
            usage = ", ".join(option.flags) + (f" {option.metavar}" if option.metavar else "")
            lines.append(f"  {usage:<18}  {option.help}")
    lines += [
        "",
        "Exit code: the largest of the hosts' (signal n: 128+n); 255 when a host is unreachable or its result unknown;",
        "124 for the time limit; 130 after Ctrl-C; 2 for a mistake in the command line; 69 when there is no service.",
        "Ctrl-C stops the command on all hosts, a second one at once.",
    ]
    return "\n".join(lines) + "\n"
