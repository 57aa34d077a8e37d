"""Local processes: how long N of them take, and how far apart N of them start when told one instant.

``python spawns.py COUNT stamp|exec`` forks COUNT processes that wait for one instant and then print the time, by
themselves or through ``date``. Standard library only; runs with ``-I -S``, so that a fork copies little.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

LEAD_S = 0.5  # until the instant, and LEAD_EACH_S more for each process
LEAD_EACH_S = 0.004


def spawn_all_s(argv: tuple[str, ...], count: int) -> float:
    """Start ``count`` processes as fast as it goes, without output, and wait for them all; how long that took."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    began = time.perf_counter()
    pids = [os.posix_spawnp(argv[0], argv, os.environ, file_actions=quiet) for _ in range(count)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    took_s = time.perf_counter() - began
    if any(codes):
        raise OSError(f"{' '.join(argv)} ended with {max(codes)}")
    return took_s


def release_spread_s(count: int, how: str) -> float:
    """From the first to the last stamp of ``count`` processes that were told one instant; ``how``: stamp or exec.

    Raises ChildProcessError when one gave no stamp.
    """
    command = [sys.executable, "-I", "-S", __file__, str(count), how]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    stamps = [float(word) for word in ran.stdout.split()]
    if ran.returncode or len(stamps) != count:
        raise ChildProcessError(f"{len(stamps)} of {count} processes gave a stamp: {ran.stderr[-500:]}")
    return max(stamps) - min(stamps)


def main() -> int:
    """Fork, wait, let the processes print; exit code 1 when one failed."""
    count, how = int(sys.argv[1]), sys.argv[2]
    instant = time.monotonic() + LEAD_S + count * LEAD_EACH_S
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            _stamp_at(instant, how)
        pids.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    return int(any(codes))


def _stamp_at(instant: float, how: str) -> None:
    try:
        left_s = instant - time.monotonic()
        if left_s <= 0:
            os.write(2, b"the instant had passed before the last process was there: raise LEAD_EACH_S\n")
            os._exit(1)
        time.sleep(left_s)
        if how == "exec":
            os.execvp("date", ("date", "+%s.%N"))
        os.write(1, f"{time.time():.9f}\n".encode())
        os._exit(0)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
