"""Scenario: the HTTP API beside many followers of one busy run, and many small runs submitted at once."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ops.bench import tools
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_api.local_hosts import SLICE, LocalHosts
from plush_api.sdk import Plush

HOSTS, FOLLOWERS, WORKERS = 16, 50, 2
RUNS, HOSTS_EACH, SUBMITTERS = 200, 4, 32
GET_MS = 100.0
PAUSE_S = 0.02  # between two GETs
LIMIT_S = 120.0
# 20 lines a second on each host for ten seconds, no two alike.
BUSY = """exec python3 -c '
import os, time
for n in range(200):
    print(n, os.environ["PLUSH_HOST"], os.urandom(40).hex(), flush=True)
    time.sleep(0.05)'"""


@scenario("service", "The HTTP API: one busy run with 50 followers, and 200 runs of 4 hosts at once")
def measure(settings: Settings) -> Outcome:
    """Half of the followers read events, half read output; one more client asks for the run all the time."""
    outcome = Outcome(settings={"hosts": HOSTS, "workers": WORKERS, "followers": FOLLOWERS})
    with LocalHosts(HOSTS) as hosts, tools.sandbox() as folder, _up(folder, hosts) as (url, token):
        with Plush(url, token) as plush:
            run = plush.submit({"slice": SLICE, "hosts": hosts.names, "command": "true"})
            plush.wait(run.id, LIMIT_S)
        gets = [_gets_ms(url, token, hosts) for _ in range(settings.repetitions)]
        bursts = [_burst_s(url, token) for _ in range(settings.repetitions)]
    outcome.row("GET /runs/ID, median", "ms", [statistics.median(times) for times in gets])
    slow = outcome.row(
        "GET /runs/ID, 99th percentile", "ms", [statistics.quantiles(times, n=100)[98] for times in gets],
        f"of {min(len(times) for times in gets)} or more requests",
    )  # fmt: skip
    outcome.row(f"{RUNS} runs submitted", "s", [submitted for submitted, _ in bursts], f"by {SUBMITTERS} clients")
    outcome.row("until the last of them has ended", "s", [ended for _, ended in bursts], "every host ok")
    outcome.at_most("GET /runs/ID, 99th percentile, ms", GET_MS, slow.median)
    return outcome


@contextmanager
def _up(folder: Path, hosts: LocalHosts) -> Iterator[tuple[str, str]]:
    """``plush up``: (the API's URL, the admin's token)."""
    plush = tools.Plush(folder)
    environ = {**plush.environ(), "PLUSH_DIRECTORY": str(hosts.directory), "XDG_RUNTIME_DIR": str(folder)}
    process = subprocess.Popen(
        plush.command("up", "--workers", str(WORKERS), "--no-flower"), env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("ready"):
                break
        else:
            raise tools.MeasurementFailed(f"plush up ended with {process.wait()}: {''.join(said)}")
        service = json.loads((folder / "plush" / "service.json").read_text())
        yield service["api_url"], Path(service["token_file"]).read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT_S)


def _gets_ms(url: str, token: str, hosts: LocalHosts) -> list[float]:
    """Times of GET /runs/ID while the run prints and is followed."""
    import httpx

    with Plush(url, token) as plush:
        run = plush.submit({"slice": SLICE, "hosts": hosts.names, "command": BUSY})
    follow = [sys.executable, "-m", "ops.bench.service", url, run.id, str(FOLLOWERS)]
    followers = subprocess.Popen(follow, env={**os.environ, "PLUSH_BENCH_TOKEN": token}, stdout=subprocess.PIPE)
    times: list[float] = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=LIMIT_S) as client:
        while True:
            began = time.perf_counter()
            answer = client.get(f"/v1/runs/{run.id}")
            times.append((time.perf_counter() - began) * 1000)
            if answer.status_code != httpx.codes.OK:
                raise tools.MeasurementFailed(f"GET /runs/ID: {answer.status_code}: {answer.text[:500]}")
            if answer.json()["finished_at"]:
                break
            time.sleep(PAUSE_S)
    out, _ = followers.communicate(timeout=LIMIT_S)
    if followers.returncode or json.loads(out)["least_bytes"] == 0:
        raise tools.MeasurementFailed(f"a follower saw nothing: {out.decode()[:500]}")
    return times


def _burst_s(url: str, token: str) -> tuple[float, float]:
    """(until 200 runs are submitted, until all have ended); every one of them must be right."""
    began = time.monotonic()

    def submit(number: int) -> str:
        first = number % (HOSTS - HOSTS_EACH + 1) + 1
        spec = {"slice": SLICE, "hosts": f"node[{first}-{first + HOSTS_EACH - 1}]", "command": f"echo {number}"}
        with Plush(url, token) as plush:
            return plush.submit(spec).id

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        ids = list(pool.map(submit, range(RUNS)))
    submitted_s = time.monotonic() - began
    with Plush(url, token) as plush:
        ended = [plush.wait(run_id, LIMIT_S) for run_id in ids]
        ended_s = time.monotonic() - began
        wrong = [run.id for run in ended if run.state != "succeeded"]
        for run_id in ids:
            plush.remove(run_id)
    if wrong:
        raise tools.MeasurementFailed(f"{len(wrong)} of {RUNS} runs didn't succeed: {wrong[:3]}")
    return submitted_s, ended_s


def follow(url: str, run_id: str, count: int) -> None:
    """Be ``count`` followers, half of events and half of output; prints how little any of them got."""
    import asyncio

    import httpx

    async def one(client: httpx.AsyncClient, number: int) -> int:
        path = "events" if number % 2 else "output?follow=1"
        got_bytes = 0
        async with client.stream("GET", f"/v1/runs/{run_id}/{path}") as answer:
            async for chunk in answer.aiter_bytes():
                got_bytes += len(chunk)
        return got_bytes

    async def every() -> list[int]:
        headers = {"Authorization": f"Bearer {os.environ['PLUSH_BENCH_TOKEN']}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=None, limits=limits) as client:
            return await asyncio.gather(*(one(client, number) for number in range(count)))

    print(json.dumps({"least_bytes": min(asyncio.run(every()))}))


if __name__ == "__main__":
    follow(sys.argv[1], sys.argv[2], int(sys.argv[3]))
