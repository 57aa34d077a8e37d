"""What OpenSSH's own configuration says about hosts: ``ssh -G`` run for many names, parsed, and remembered.

``ssh`` itself interprets its configuration (Include, Match, canonical names, tokens in HostName), so that names mean
here what they mean to ssh. This module reads the configuration files only to know when remembered answers are stale,
and which names they list. Entry points: ``query`` and ``listed_names``. Turning answers into HostEntry is in
``ssh_entry.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from plush_worker.errors import ConfigurationError

from .file_cache import FileCache, FileState, look_at

_MAX_INCLUDE_DEPTH: Final = 16  # READCONF_MAX_DEPTH of OpenSSH
_MAX_CONFIG_BYTES: Final = 4 << 20
_MAX_REMEMBERED: Final = 20_000
_AT_ONCE: Final = 2 * (os.cpu_count() or 1)
_TIMEOUT_S: Final = 20  # a Match exec that hangs

_SINGLE = frozenset(
    "hostname port user identityagent identitiesonly proxyjump proxycommand userknownhostsfile globalknownhostsfile "
    "hostkeyalias hostkeyalgorithms stricthostkeychecking forwardagent addressfamily connecttimeout".split()
)
_MULTIPLE = frozenset(("identityfile", "certificatefile"))
# Their meaning depends on more than the files and the name.
_UNREMEMBERED_MATCH = frozenset(("exec", "localnetwork"))

Answer = dict[str, Any]  # option in lower case -> value; a list for identityfile and certificatefile


class SshConfigError(ConfigurationError):
    """OpenSSH's configuration can't be used; the message quotes ssh and names the file."""


class SshAnswers(NamedTuple):
    """What ``ssh -G`` said."""

    answers: dict[str, Answer]  # name as asked -> its options
    rejected: dict[str, str]  # name -> why ssh refuses it


class _ConfigFiles:
    """The files of one configuration as found by following Include."""

    def __init__(self) -> None:
        self.watched: list[str] = []  # files, and folders that wildcards of Include range over
        self.names: dict[str, None] = {}  # of Host lines, without wildcards
        self.remember = True  # False: answers depend on more than these files


def query(names: Sequence[str], *, config_file: str = "", login: str = "", cache: str | None = None) -> SshAnswers:
    """What ssh would use for each of ``names`` (``host`` or ``user@host``, checked before by ``name_problem``).

    ``config_file`` as for ``ssh -F``; ``login`` as for ``ssh -l`` (a name's own user comes first); ``cache``: its
    folder. Raises SshConfigError when ssh isn't there or refuses the configuration as a whole.
    """
    ssh = find_program("ssh")
    store = FileCache("ssh_config", (ssh, config_file, login, os.environ.get("HOME", "")), cache)
    data = store.load() or {"kinds": [], "hosts": {}}
    answers = _remembered(data, names)
    missing = [name for name in names if name not in answers]
    if not missing:
        return SshAnswers(answers, {})
    files = _scan(config_file)
    watched = look_at([ssh, *files.watched])
    if watched != store.watched or len(data["hosts"]) > _MAX_REMEMBERED:
        data, missing = {"kinds": [], "hosts": {}}, list(names)
    fresh = _ask_all(ssh, missing, config_file, login)
    if not fresh.answers and fresh.rejected:
        _raise_if_whole(fresh.rejected, config_file)
    if files.remember and fresh.answers:
        _remember(store, watched, data, fresh.answers)
    known = {**answers, **fresh.answers}
    return SshAnswers({name: known[name] for name in names if name not in fresh.rejected}, fresh.rejected)


def listed_names(config_file: str = "") -> list[str]:
    """The names that Host lines of the configuration list, wildcards left out, in the order of the files."""
    return list(_scan(config_file).names)


def find_program(name: str) -> str:
    """The absolute path of a program on PATH. Raises SshConfigError when there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder or ".", name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return os.path.abspath(path)
    raise SshConfigError(f"{name} is not on PATH: install OpenSSH's client (Debian: apt install openssh-client)")


def _remembered(data: dict[str, Any], names: Sequence[str]) -> dict[str, Answer]:
    """Answers by name. Hosts share most options: the file holds each combination once, and (its index, hostname)."""
    kinds, hosts = data["kinds"], data["hosts"]
    found = {}
    for name in names:
        if name in hosts:
            kind, hostname = hosts[name]
            found[name] = {**kinds[kind], "hostname": hostname}
    return found


def _remember(store: FileCache, watched: list[FileState], data: dict[str, Any], fresh: dict[str, Answer]) -> None:
    kinds: list[Answer] = data["kinds"]
    index = {repr(sorted(kind.items())): number for number, kind in enumerate(kinds)}
    for name, answer in fresh.items():
        kind = {option: value for option, value in answer.items() if option != "hostname"}
        number = index.setdefault(repr(sorted(kind.items())), len(kinds))
        if number == len(kinds):
            kinds.append(kind)
        data["hosts"][name] = (number, answer["hostname"])
    store.save(watched, data)


def _ask_all(ssh: str, names: Sequence[str], config_file: str, login: str) -> SshAnswers:
    """Runs ``ssh -G`` for each name, a few at once; output of one fits a pipe, so nobody waits for being read."""
    from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

    options = ["-F", config_file] if config_file else []
    usual = _usual_algorithms(ssh)
    result = SshAnswers({}, {})
    running: list[tuple[str, Popen[str]]] = []

    def finish() -> None:
        name, process = running.pop(0)
        try:
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        except TimeoutExpired:
            process.kill()
            process.communicate()
            result.rejected[name] = f"ssh -G {name} didn't end within {_TIMEOUT_S} s: does a Match exec hang?"
            return
        if process.returncode:
            result.rejected[name] = f"ssh -G {name} ended with code {process.returncode}: {_last_lines(errors)}"
        else:
            result.answers[name] = _parse(output, usual)

    try:
        for name in names:
            user, _, host = name.rpartition("@")
            user = user or login
            command = [ssh, "-G", *options, *(["-l", user] if user else []), "--", host]
            running.append((name, Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True, errors="replace")))
            if len(running) >= _AT_ONCE:
                finish()
        while running:
            finish()
    finally:
        for _, process in running:  # only after an exception: Ctrl-C
            process.kill()
            process.communicate()
    return result


def _usual_algorithms(ssh: str) -> str:
    """ssh's built-in HostKeyAlgorithms: an answer that equals them says nothing and isn't carried along."""
    from subprocess import DEVNULL, PIPE, run

    done = run([ssh, "-G", "-F", "none", "--", "x"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, text=True, check=False)
    return str(_parse(done.stdout, "").get("hostkeyalgorithms", ""))


def _parse(output: str, usual_algorithms: str) -> Answer:
    """The options that Plush uses, out of the text of ``ssh -G``."""
    answer: Answer = {}
    for line in output.split("\n"):
        option, _, value = line.partition(" ")
        option = option.lower()
        if option in _MULTIPLE:
            answer.setdefault(option, []).append(value)
        elif option in _SINGLE and not (option == "hostkeyalgorithms" and value == usual_algorithms):
            answer[option] = value
    return answer


def _raise_if_whole(rejected: dict[str, str], config_file: str) -> None:
    """One mistake in the configuration fails every name with the same words: say it once."""
    reasons = {reason.partition(": ")[2] for reason in rejected.values()}
    if len(reasons) == 1 and ("line " in (reason := reasons.pop()) or "Can't open" in reason):
        where = config_file or "OpenSSH's configuration"
        raise SshConfigError(f"{where} can't be used: {reason}; try: ssh -G {next(iter(rejected))}")


def _last_lines(text: str) -> str:
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return "; ".join(lines[-3:])[:500] or "no message"


def _scan(config_file: str) -> _ConfigFiles:
    """Finds the files of a configuration and what in them forbids remembering."""
    files = _ConfigFiles()
    if config_file:
        if config_file != "none":
            _scan_file(files, config_file, os.path.join(home_folder(), ".ssh"), 0)
    else:
        _scan_file(files, os.path.join(home_folder(), ".ssh", "config"), os.path.join(home_folder(), ".ssh"), 0)
        _scan_file(files, "/etc/ssh/ssh_config", "/etc/ssh", 0)
    return files


def _scan_file(files: _ConfigFiles, path: str, folder: str, depth: int) -> None:
    files.watched.append(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read(_MAX_CONFIG_BYTES)
    except OSError:
        return
    for line in text.split("\n"):
        words = _words(line)
        keyword = words[0].lower() if words else ""
        if "${" in line and not line.lstrip().startswith("#"):
            files.remember = False
        if keyword == "include" and depth < _MAX_INCLUDE_DEPTH:
            for pattern in words[1:]:
                _scan_include(files, pattern, folder, depth)
        elif keyword == "match":
            files.remember &= not _UNREMEMBERED_MATCH & {word.lower().lstrip("!").partition("=")[0] for word in words}
        elif keyword == "canonicalizehostname":
            files.remember &= [word.lower() for word in words[1:]] == ["no"]  # else the answer is DNS's
        elif keyword == "host":
            files.names.update((word, None) for word in words[1:] if not any(c in "*?!" for c in word))


def _scan_include(files: _ConfigFiles, pattern: str, folder: str, depth: int) -> None:
    path = os.path.join(folder, expand_home(pattern))
    if not any(character in "*?[" for character in path):
        _scan_file(files, path, folder, depth + 1)
        return
    from glob import glob

    parent = os.path.dirname(path)
    files.watched.append(parent)  # a file that comes or goes changes its folder's time
    files.remember &= not any(character in "*?[" for character in parent)
    for found in sorted(glob(path)):
        _scan_file(files, found, folder, depth + 1)


def _words(line: str) -> list[str]:
    """A line's keyword and arguments: ``Keyword arg "arg with space"`` or ``Keyword=arg``."""
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    end = next((i for i, c in enumerate(line) if c in " \t="), len(line))
    keyword, rest = line[:end], line[end:].lstrip(" \t").removeprefix("=").strip()
    words, word, quoted = [], "", False
    for character in rest:
        if character == '"':
            quoted = not quoted
        elif character in " \t" and not quoted:
            words.append(word)
            word = ""
        else:
            word += character
    return [keyword, *(w for w in [*words, word] if w)]


def home_folder() -> str:
    """The home folder as ssh finds it: the user database's, not $HOME."""
    from pwd import getpwuid

    try:
        return getpwuid(os.getuid()).pw_dir
    except KeyError:
        return os.path.expanduser("~")


def expand_home(path: str) -> str:
    """A leading ``~/`` as ssh reads it; ``~user/`` by the user database."""
    return home_folder() + path[1:] if path == "~" or path.startswith("~/") else os.path.expanduser(path)
