"""A full disk where workers keep output: nothing is lost, and the run goes on when there is room again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts

LIMIT_S = 50.0
PRINTED_BYTES = 3_000_000


@pytest.fixture
def small_store(plush: Any) -> Iterator[Path]:
    """The folder of runs on a file system of one MiB."""
    if os.getuid():
        pytest.skip("only root can mount a small file system")
    folder = Path(plush.environ["XDG_STATE_HOME"]) / "plush" / "runs"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_output_waits_for_room(small_store: Path, local_hosts: Callable[..., LocalHosts], plush: Any) -> None:
    hosts = local_hosts(2)
    up = plush.start("up", "--no-flower", "--no-api")
    try:
        for line in up.stdout:
            if line.startswith("ready"):
                break
        run = plush.start(
            "run", "-w", "node1", "--directory", str(hosts.directory), "--slice", "local", "--json", "--",
            f"head -c {PRINTED_BYTES} /dev/zero | tr '\\0' x",
        )  # fmt: skip
        (log,) = (small_store.parent / "service").glob("worker*.log")
        deadline = time.monotonic() + LIMIT_S
        while "free some space" not in log.read_text():
            assert run.poll() is None, "it ended although its output had no room"
            assert time.monotonic() < deadline, f"nobody says that the disk is full: {log.read_text()[-2000:]}"
            time.sleep(0.05)
        subprocess.run(["mount", "-o", "remount,size=64m", small_store], check=True)
        out, err = run.communicate(timeout=LIMIT_S)
        assert run.returncode == 0, err
        assert out.count("x") >= PRINTED_BYTES or f'"stdout_bytes": {PRINTED_BYTES}' in out, "output was lost"
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(LIMIT_S)
