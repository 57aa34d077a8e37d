"""Scenario: every host prints 100 MB at once: memory of worker and server, and how long a kill takes meanwhile."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ops.bench import process, tools
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_api.local_hosts import LocalHosts
from plush_worker.store.light import LightStore

EACH_BYTES = 100_000_000
MEMORY_MIB = 300.0
KILL_S = 1.0
SAMPLE_S = 0.2
FLOWING_LIMIT_S = 60.0
RUN_LIMIT_S = 1800.0
# A line of its own for each host, so that nothing merges.
PRINT = f'yes "$$ $SSH_CONNECTION" | head -c {EACH_BYTES}'
PRINT_ON = 'yes "$$ $SSH_CONNECTION"'


@scenario("flood", "100 MB from each of 64 hosts at once, and a kill meanwhile")
def measure(settings: Settings) -> Outcome:
    """All output is stored by the worker; the peak of its and the server's memory is sampled."""
    outcome = Outcome(settings={"hosts": settings.host_count, "bytes each": EACH_BYTES, "workers": 1})
    with LocalHosts(settings.host_count) as hosts, tools.standing(1) as plush:
        plush.run(hosts, "true")
        with sampled(plush) as peaks:
            ran, _ = plush.run(hosts, PRINT, "-q", "--outdir", str(plush.folder / "out"), timeout_s=RUN_LIMIT_S)
        _check_sizes(plush, hosts)
        total_mib = settings.host_count * EACH_BYTES / (1 << 20)
        outcome.row(
            "whole run",
            "s",
            [ran.wall_s],
            f"{total_mib / ran.wall_s:.0f} MiB/s, hosts, worker and disk on the same cores",
        )
        worker = outcome.row("worker, greatest resident memory", "MiB", [peaks["worker"]])
        server = outcome.row("Redis server, greatest resident memory", "MiB", [peaks["server"]])
        kills = outcome.row(
            "kill while all print", "s", [_kill_s(plush, hosts) for _ in range(min(3, settings.repetitions))],
            "from SIGINT at plush run until no process of the command is left on any host",
        )  # fmt: skip
        outcome.at_most("worker, MiB", MEMORY_MIB, worker.median)
        outcome.at_most("Redis server, MiB", MEMORY_MIB, server.median)
        outcome.at_most("kill, s", KILL_S, kills.median)
        plush.mesh_down()
    return outcome


def _check_sizes(plush: tools.Plush, hosts: LocalHosts) -> None:
    """Raises MeasurementFailed when a host's output isn't all there."""
    sizes = {name: (plush.folder / "out" / name).stat().st_size for name in hosts.hosts}
    wrong = {name: size for name, size in sizes.items() if size != EACH_BYTES}
    if wrong:
        raise tools.MeasurementFailed(f"output is not {EACH_BYTES} bytes: {wrong}")


@contextmanager
def sampled(plush: tools.Plush) -> Iterator[dict[str, float]]:
    """Peaks of the memory of the worker and of the server, in MiB, filled while the block runs."""
    pids = {"worker": plush.workers()[0].pid, "server": _server_pid(plush)}
    peaks = dict.fromkeys(pids, 0.0)
    ended = threading.Event()

    def sample() -> None:
        while True:
            for name, pid in pids.items():
                peaks[name] = max(peaks[name], process.memory_mib(pid))
            if ended.wait(SAMPLE_S):
                return

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield peaks
    finally:
        ended.set()
        sampler.join()


def _server_pid(plush: tools.Plush) -> int:
    from plush_worker.store.address import parse_url
    from plush_worker.store.wire import Wire

    with Wire(parse_url(plush.redis_url)) as wire:
        said = bytes(wire.call("INFO", "server")).decode()
    return int(said.partition("process_id:")[2].split()[0])


def _kill_s(plush: tools.Plush, hosts: LocalHosts) -> float:
    """Start an endless flood, interrupt the command once output flows, and wait for the hosts to be rid of it."""
    words = plush.command("run", *tools.choice(hosts), "-q", "--outdir", str(plush.folder / "killed"), "--", PRINT_ON)
    running = subprocess.Popen(words, env=plush.environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_flowing(plush, hosts)
        began = time.perf_counter()
        running.send_signal(signal.SIGINT)
        while _printers(hosts):
            time.sleep(0.01)
        took_s = time.perf_counter() - began
        running.wait(FLOWING_LIMIT_S)
        return took_s
    finally:
        running.kill()
        running.wait()


def _printers(hosts: LocalHosts) -> bool:
    return any(p.command.startswith("yes ") for p in hosts.processes())


def _wait_flowing(plush: tools.Plush, hosts: LocalHosts) -> None:
    """Until every host has printed and some output is stored. Raises MeasurementFailed."""
    deadline = time.monotonic() + FLOWING_LIMIT_S
    with LightStore.connect(plush.redis_url) as store:
        while time.monotonic() < deadline:
            run_id = store.runs(1)[0]["run_id"]
            printing = sum(p.command.startswith("yes ") for p in hosts.processes())
            if printing >= len(hosts.hosts) and sum(store.committed(run_id).values()) > len(hosts.hosts) * 100_000:
                return
            time.sleep(0.1)
    raise tools.MeasurementFailed("the flood didn't begin")
