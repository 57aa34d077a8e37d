"""CPU time and memory of processes, from /proc; timing of commands."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def cpu_s(pid: int) -> float:
    """CPU time of all living threads so far, in nanosecond steps (/proc/PID/stat has 10 ms steps)."""
    total_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total_ns += int(path.read_text().split()[0])
        except OSError:
            continue  # a thread that ended
    return total_ns / 1e9


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory; ``VmHWM`` is its peak. Raises ProcessLookupError."""
    for line in _lines(pid, "status"):
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def proportional_mib(pid: int) -> float:
    """Memory with shared pages divided among those who share them."""
    for line in _lines(pid, "smaps_rollup"):
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)


def reset_peak(pid: int) -> None:
    """Let VmHWM begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def _lines(pid: int, name: str) -> list[str]:
    return Path(f"/proc/{pid}/{name}").read_text().splitlines()


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended."""

    wall_s: float
    code: int
    stdout: str
    stderr: str


def timed(command: Sequence[str], environ: Mapping[str, str] | None = None, timeout_s: float = 300) -> Ran:
    """Run a command with its output in pipes."""
    began = time.perf_counter()
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        env=None if environ is None else dict(environ), timeout=timeout_s, check=False,
    )  # fmt: skip
    return Ran(time.perf_counter() - began, ran.returncode, ran.stdout, ran.stderr)
