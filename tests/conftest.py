"""Fixtures for every kind of test: local sshd hosts, the ``plush`` command in a sandbox, and the watch over leftovers.

A program that a test needs and that is not installed skips the test on a laptop and fails it where ``CI`` is set.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from plush_api.local_hosts import LocalHosts

T = TypeVar("T")

MARK = "PLUSH_TEST_MARK"
GONE_LIMIT_S = 10.0
STARTS_PROCESSES = ("contract", "integration", "acceptance")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(StageTimes(), "stage-times")
    os.environ[MARK] = f"{os.getpid()}-{secrets.token_hex(6)}"
    for name in [n for n in os.environ if n.startswith("PLUSH_") and not n.startswith("PLUSH_TEST_")]:
        del os.environ[name]  # what the person at this machine has configured is no part of a test


class StageTimes:
    """How long the tests of each folder took, for the summary."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        stage = report.nodeid.split("/")[1] if report.nodeid.count("/") > 1 else "tests"
        self.seconds[stage] = self.seconds.get(stage, 0.0) + report.duration
        self.counts[stage] = self.counts.get(stage, 0) + (report.when == "call")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("stages")
        for name, verdict, seconds in batched3(os.environ.get("PLUSH_TEST_STAGES", "").split()):
            terminalreporter.write_line(f"{name:<12} {verdict:>11} {seconds:>6} s")
        for stage, spent_s in self.seconds.items():
            terminalreporter.write_line(f"{stage:<12} {self.counts[stage]:>5} tests {spent_s:>6.0f} s")


def batched3(words: list[str]) -> Iterator[tuple[str, str, str]]:
    """Words in threes."""
    yield from zip(words[::3], words[1::3], words[2::3], strict=True)


def skip_or_fail(reason: str) -> None:
    """Something that a test needs is not on this machine."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """``program("zsh")``: where it is; without it the test is skipped, or fails in CI."""

    def find(name: str) -> str:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if found is None:
            skip_or_fail(f"{name} is not installed")
        return str(found)

    return find


# Every Python on the machine that may run the node program


@cache
def node_pythons() -> dict[str, str]:
    """Version -> executable, for every CPython from 3.6 on that is on PATH or under pyenv."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(6, 30)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob("3.*/bin/python3"))]
    candidates += [shutil.which("python3"), sys.executable]
    ask = "import sys; print('%d.%d' % sys.version_info[:2], sys.implementation.name)"
    found: dict[str, str] = {}
    for candidate in candidates:
        if candidate is None or not os.access(candidate, os.X_OK):
            continue
        ran = subprocess.run([candidate, "-I", "-S", "-c", ask], capture_output=True, text=True, check=False)
        said = ran.stdout.split()
        if len(said) == 2 and said[1] == "cpython" and tuple(map(int, said[0].split("."))) >= (3, 6):
            found.setdefault(said[0], candidate)
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An argument ``node_python`` runs the test once with every Python."""
    if "node_python" in metafunc.fixturenames:
        metafunc.parametrize("node_python", list(node_pythons().values()), ids=list(node_pythons()), scope="module")


# Local hosts


@pytest.fixture(scope="module")
def local_hosts(program: Callable[[str], str]) -> Iterator[Callable[..., LocalHosts]]:
    """``local_hosts(16, environments=...)``: LocalHosts that are up until the module's tests are done."""
    program("sshd")
    up: list[LocalHosts] = []

    def start(count: int, **options: Any) -> LocalHosts:
        hosts = LocalHosts(count, **options)
        hosts.__enter__()
        up.append(hosts)
        return hosts

    yield start
    left = [process for hosts in up if hosts.up for process in hosts.wait_quiet(GONE_LIMIT_S)]
    for hosts in up:
        hosts.close()
    assert not left, f"still running on the local hosts after the last test: {left}"


# The command line


@dataclass
class Plush:
    """Runs ``plush`` with a home and XDG folders of its own, which are short enough for Unix sockets."""

    folder: Path
    environ: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, *args: str) -> list[str]:
        """The words that run ``plush`` with ``args``."""
        return [sys.executable, "-m", "plush_api.cli.app", *args]

    def __call__(
        self, *args: str, timeout_s: float = 50, stdin: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; output that is not UTF-8 comes as surrogates."""
        process = self.start(*args, env=env, stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL)
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate(timeout=GONE_LIMIT_S)  # parts that hold the pipes end with the command
            pytest.fail(f"plush {' '.join(args)}: no end in {timeout_s} s\n--- stdout\n{out}\n--- stderr\n{err}")
        except BaseException:  # the test's own time limit, or Ctrl-C: not to be waited for
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self, *args: str, env: Mapping[str, str] | None = None, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[str]:
        """Start it; what still runs when the fixture ends is killed."""
        process = subprocess.Popen(
            self.command(*args), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="surrogateescape", env=self.environ | dict(env or {}), cwd=self.folder,
        )  # fmt: skip
        self.started.append(process)
        return process

    def processes(self) -> list[str]:
        """``pid command`` of every process that came of commands run here, on this machine and not by a login."""
        return [f"{pid} {command}" for pid, command in marked(self.environ[MARK]).items()]


def _sandbox(mark: str) -> Iterator[Plush]:
    folder = Path(tempfile.mkdtemp(prefix="plush-t-", dir="/tmp"))
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("PLUSH_", "XDG_", "SSH_", "CELERY_"))}
    checkout = str(Path(__file__).parents[1])
    environ |= {"HOME": str(folder), "TERM": "dumb", "COLUMNS": "120", "PYTHONPATH": checkout, MARK: mark}
    for name, below in (("CONFIG", "c"), ("STATE", "s"), ("CACHE", "k"), ("RUNTIME", "r"), ("DATA", "d")):
        (folder / below).mkdir(mode=0o700)
        environ[f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}"] = str(folder / below)
    plush = Plush(folder, environ)
    try:
        yield plush
        for process in plush.started:
            _end(process)
        left = wait_unmarked(mark)
    finally:
        for pid in marked(mark):
            _kill(pid)
        shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"left running by plush: {left}"


@pytest.fixture
def plush() -> Iterator[Plush]:
    """The command line in a sandbox of its own; nothing it started may outlive the test by ten seconds."""
    yield from _sandbox(f"{os.environ[MARK]}-{secrets.token_hex(4)}")


@pytest.fixture(scope="module")
def module_plush() -> Iterator[Plush]:
    """The same sandbox for all tests of a module, such as those of one standing mesh."""
    yield from _sandbox(f"{os.environ[MARK]}-{secrets.token_hex(4)}")


def _end(process: subprocess.Popen[str]) -> None:
    """End what a test started and did not wait for: politely, then not."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GONE_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


# Leftovers


def marked(mark: str) -> dict[int, str]:
    """pid -> command of every living process whose environment began with this mark (or one that extends it)."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if not any(v.startswith(wanted) for v in (entry / "environ").read_bytes().split(b"\0")):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # it ended meanwhile, or is another user's
        found[int(entry.name)] = command
    return found


def wait_unmarked(mark: str, before: Mapping[int, str] | None = None) -> dict[int, str]:
    """Wait until no such process is left but those of ``before``; returns what stayed."""
    return wait_empty(lambda: {pid: c for pid, c in marked(mark).items() if pid not in (before or {})})


def wait_empty(look: Callable[[], T], limit_s: float = GONE_LIMIT_S) -> T:
    """Call until it returns something empty; returns the last answer."""
    deadline = time.monotonic() + limit_s
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def state_folders() -> set[str]:
    """The folders of node programs and embedded parts outside of any sandbox."""
    bases = [Path(folder) / f"{dot}plush-{os.getuid()}" for folder in ("/tmp", "/var/tmp") for dot in (".", "")]
    return {str(path) for base in bases if base.exists() for path in (base, *base.iterdir())}


def in_use() -> set[str]:
    """Every file that some process has open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue
    return found


def _left_folders(before: set[str]) -> set[str]:
    """New state folders that nobody uses; one in use belongs to somebody else at work on this machine."""
    new = state_folders() - before
    if not new:
        return set()
    used = in_use()
    return {path for path in new if not any(file.startswith(path + "/") for file in used)}


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """No module of tests leaves a process or a state folder."""
    if not any(part in STARTS_PROCESSES for part in request.path.parts):
        yield
        return
    processes, folders = marked(os.environ[MARK]), state_folders()
    yield
    left = wait_unmarked(os.environ[MARK], processes)
    for pid in left:
        _kill(pid)
    assert not left, f"left running by {request.path.name}: {left}"
    new = wait_empty(lambda: _left_folders(folders))
    assert not new, f"left by {request.path.name}: {sorted(new)}"
