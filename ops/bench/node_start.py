"""Scenario: what a node program costs to start, on every Python of this machine, without any SSH."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from ops.bench import process
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_worker.mesh import orders, payload
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node import bootstrap, frames
from plush_worker.node.bootstrap import MARKER

CPU_MS = 25.0  # on 3.11
CPU_OTHERS_MS = 32.0
MEMORY_MIB = 14.0
MEMORY_NEWER_MIB = 17.0  # 3.12 and newer
PAYLOAD_KB = 60.0
CORE_LINES = 900
READY_LIMIT_S = 20.0


@scenario("node_start", "Start of the node program")
def measure(settings: Settings) -> Outcome:
    """CPU time and memory from the start of the login's command to READY; size of what is sent."""
    outcome = Outcome()
    for version, executable in pythons().items():
        cpu_ms, memory_mib = zip(*(start(executable) for _ in range(settings.repetitions * 3)), strict=True)
        origin = "the system's" if executable.startswith("/usr/bin/") else "built by pyenv"
        cpu = outcome.row(f"CPU to READY, Python {version}", "ms", cpu_ms, origin)
        memory = outcome.row(f"resident at READY, Python {version}", "MiB", memory_mib)
        minor = int(version.split(".")[1])
        outcome.at_most(f"CPU to READY, Python {version}, ms", CPU_MS if minor == 11 else CPU_OTHERS_MS, cpu.median)
        outcome.at_most(
            f"resident, Python {version}, MiB", MEMORY_NEWER_MIB if minor >= 12 else MEMORY_MIB, memory.median
        )
    size = outcome.row("payload", "KB", [len(payload.build_payload()) / 1000], "sent to each host, compressed")
    lines = outcome.row("core", "lines", [core_lines()], "modules that run before READY, without the loader")
    outcome.at_most("payload, KB", PAYLOAD_KB, size.median)
    outcome.at_most("core, lines", CORE_LINES, lines.median)
    return outcome


def core_lines() -> int:
    """Lines of the modules of the core, comments and empty lines included."""
    return sum(len((payload.NODE_FOLDER / f"{name}.py").read_text().splitlines()) for name in payload.CORE)


def start(executable: str) -> tuple[float, float]:
    """(CPU time in ms, resident MiB) of one node program at READY, then let it go."""
    with tempfile.TemporaryDirectory() as folder:
        # The search for a Python finds this one, under the name that it looks for first.
        (Path(folder) / "python3").symlink_to(executable)
        environ = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": folder}
        node = subprocess.Popen(
            ["/bin/sh", "-c", bootstrap.command_line()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        assert node.stdin
        assert node.stdout
        entry = HostEntry("bench", "127.0.0.1")
        sent = payload.build_payload()
        hello = orders.hello_frame("bench" + os.urandom(4).hex(), SliceSettings(), 1, entry, 1, 1)
        node.stdin.write(bootstrap.header(sent) + hello)
        node.stdin.flush()
        try:
            _wait_ready(node.stdout.fileno())
            return process.cpu_s(node.pid) * 1000, process.memory_mib(node.pid)
        finally:
            node.stdin.close()
            node.stdout.close()
            node.wait(READY_LIMIT_S)


def _wait_ready(fd: int) -> None:
    """Read until READY came. Raises TimeoutError with what came instead."""
    heard = b""
    deadline = time.monotonic() + READY_LIMIT_S
    while select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        data = os.read(fd, 65536)
        heard += data
        if not data:
            break
        _, found, after = heard.partition(MARKER)
        if found and any(frame[0] == frames.READY for frame in frames.Decoder().feed(after)):
            return
    raise TimeoutError(f"no READY from the node program; it said {heard[-500:]!r}")


def pythons() -> dict[str, str]:
    """Version -> executable, for every CPython from 3.6 on; the system's own before those of pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    system = [f"/usr/bin/python3.{minor}" for minor in range(6, 30)]
    candidates = [*system, *(str(path) for path in root.glob("3.*/bin/python3"))]
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    found: dict[str, str] = {}
    for candidate in filter(os.path.exists, candidates):
        ran = subprocess.run([candidate, "-I", "-S", "-c", ask], capture_output=True, text=True, check=False)
        version = ran.stdout.strip()
        if version.startswith("3.") and int(version[2:]) >= 6:
            found.setdefault(version, candidate)
    return dict(sorted(found.items(), key=lambda item: int(item[0][2:])))
