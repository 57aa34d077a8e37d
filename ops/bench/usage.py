"""What a command and everything below it used: wall time, CPU time, memory. Linux only."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ops.bench import process
from plush_api.local_hosts_guard import descendants

SAMPLE_S = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Used:
    """A command that ended, or was ended at its time limit."""

    wall_s: float
    cpu_s: float  # its own and that of what it waited for
    code: int
    stdout: str
    stderr: str
    in_time: bool


def run(command: Sequence[str], environ: Mapping[str, str], limit_s: float, standard_input: str = "") -> Used:
    """Run a command in a session of its own; at the limit its process group is killed.

    Its output goes to files: what it leaves running may hold on to a pipe for ever.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(standard_input.encode())
        given.seek(0)
        began = time.perf_counter()
        child = subprocess.Popen(
            command, stdin=given, stdout=out, stderr=err, env=dict(environ), start_new_session=True
        )  # fmt: skip
        in_time = wait_until(child.pid, limit_s)
        if not in_time:
            os.killpg(child.pid, signal.SIGKILL)
        _, status, used = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu_s = used.ru_utime + used.ru_stime
        return Used(wall_s, cpu_s, child.returncode, _text(out), _text(err), in_time)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def wait_until(pid: int, limit_s: float) -> bool:
    """Wait for the end of a child, which is not reaped; False at the limit."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))
    finally:
        os.close(descriptor)


def cpu_below_s(root: int) -> float:
    """CPU time so far of everything below a process, and of what that has waited for; in steps of 10 ms each."""
    total = 0
    for pid in descendants(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        total += sum(int(ticks) for ticks in fields[11:15])
    return total / _TICKS_PER_S


def cpu_of_children_s() -> float:
    """CPU time of every process that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Peak:
    """The greatest sum seen, in MiB."""

    def __init__(self) -> None:
        self.mib = 0.0


@contextmanager
def memory_below(root: int, *, sample_s: float = SAMPLE_S) -> Iterator[Peak]:
    """Sample the memory of everything below a process while the block runs, shared pages divided among their users.

    It slows down what it watches: don't take times meanwhile.
    """
    peak, ended = Peak(), threading.Event()

    def sample() -> None:
        while not ended.wait(sample_s):
            peak.mib = max(peak.mib, _memory_below_mib(root))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peak
    finally:
        ended.set()
        sampler.join()


def _memory_below_mib(root: int) -> float:
    total = 0.0
    for pid in descendants(root):
        try:
            total += process.proportional_mib(pid)
        except OSError:
            continue  # it ended meanwhile, or is a zombie
    return total
