"""Events and output over a real API process: followers that come back, read slowly or go away; Redis restarted."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from plush_worker.node.messages import STDERR
from plush_worker.store import keys
from tests.api_service import LIMIT_S, ApiService, FakeRun, RedisServer, sse_events, until, write_directory

MIB = 1 << 20
FOLLOWERS = 50


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plush-api-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def redis_server(folder: Path) -> Iterator[RedisServer]:
    with RedisServer(folder) as server:
        yield server


@pytest.fixture(scope="module")
def api(folder: Path, redis_server: RedisServer) -> Iterator[ApiService]:
    environ = {"PLUSH_API_DIRECTORY": str(write_directory(folder)), "PLUSH_API_STALL_S": "2"}
    environ |= {"PLUSH_API_RATE_BURST": "100000", "PLUSH_API_FOLLOWERS": "60"}
    with ApiService(folder, redis_server.url, folder / "state", environ) as service:
        yield service


@pytest.fixture(scope="module")
def client(api: ApiService) -> Iterator[httpx.Client]:
    with api.client(api.token("ada"), limits=httpx.Limits(max_connections=None)) as client:
        yield client


@pytest.fixture
def run(redis_server: RedisServer, folder: Path) -> FakeRun:
    return FakeRun(redis_server.url, folder / "state")


def numbered(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"type": "note", "n": n} for n in range(first, first + count)]


def follow(client: httpx.Client, run: FakeRun, **options: Any) -> Any:
    return client.stream("GET", f"/runs/{run.run_id}/events", **options)


# Events


def test_a_stream_has_every_event_with_its_id_and_ends_with_the_run(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    with follow(client, run) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = sse_events(answer.iter_lines())
        assert next(found)[1] == {"type": "run_submitted"}
        run.append(*numbered(3))
        last_id = run.end()
        rest = list(found)
    assert [event["n"] for _, event in rest if event["type"] == "note"] == [0, 1, 2]
    assert rest[-1][0] == last_id and rest[-1][1]["type"] == "run_finished"


def test_a_client_that_comes_back_gets_what_it_has_not_seen(client: httpx.Client, run: FakeRun) -> None:
    run.append(*numbered(500))
    with follow(client, run) as answer:
        found = sse_events(answer.iter_lines())
        seen = [next(found) for _ in range(100)]
    run.append(*numbered(100, 500))
    run.end()
    with follow(client, run, headers={"Last-Event-ID": seen[-1][0]}) as answer:
        seen += sse_events(answer.iter_lines())
    assert [event["n"] for _, event in seen if event["type"] == "note"] == list(range(600))
    assert len({event_id for event_id, _ in seen}) == len(seen), "an event came twice"
    answer = client.get(f"/runs/{run.run_id}/events", headers={"Last-Event-ID": seen[-1][0]})
    assert (answer.status_code, answer.content) == (204, b""), "an EventSource would come back for ever"


def test_pages_hold_the_same_events_and_wait_for_new_ones(client: httpx.Client, run: FakeRun) -> None:
    run.append(*numbered(250))
    path, accept = f"/runs/{run.run_id}/events", {"Accept": "application/json"}
    seen: list[dict[str, Any]] = []
    while page := client.get(
        path, params={"after": seen[-1]["id"] if seen else "", "limit": 100}, headers=accept
    ).json():
        if not page["events"]:
            break
        assert not page["gap"] and not page["ended"]
        seen += page["events"]
    assert [item["event"].get("n") for item in seen] == [None, *range(250)]
    waiting = threading.Timer(0.2, run.end)
    waiting.start()
    page = client.get(path, params={"after": seen[-1]["id"], "wait_s": 20}, headers=accept).json()
    waiting.join()
    seen += page["events"]
    while not page["ended"]:
        page = client.get(path, params={"after": seen[-1]["id"], "wait_s": 20}, headers=accept).json()
        seen += page["events"]
    assert seen[-1]["event"]["type"] == "run_finished"
    assert client.get(path, params={"after": seen[-1]["id"], "wait_s": 20}, headers=accept).json() == {
        "events": [], "gap": False, "ended": True,
    }  # fmt: skip


@pytest.mark.parametrize("bad", ["x", "1-x", "99999999999999999999-0", "-1", "1-2-3", "$", "+"])
def test_an_id_that_is_none_is_refused(client: httpx.Client, run: FakeRun, bad: str) -> None:
    assert client.get(f"/runs/{run.run_id}/events", params={"after": bad}).status_code == 422
    assert client.get(f"/runs/{run.run_id}/events", headers={"Last-Event-ID": bad}).status_code == 422


def test_a_follower_that_does_not_read_costs_no_memory_and_is_let_go(
    api: ApiService, client: httpx.Client, run: FakeRun
) -> None:
    host, port = api.url.removeprefix("http://").split(":")
    request = f"GET /v1/runs/{run.run_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.admin_token}\r\n\r\n"
    fat = {"type": "note", "text": "x" * 100_000}
    with ExitStack() as stack:
        before = api.memory_bytes()
        for _ in range(20):
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=LIMIT_S))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request.encode())
        for _ in range(20):
            run.append(*[fat] * 50)
        grown = api.memory_bytes() - before
        assert grown < 100 * MIB, f"100 MB of events for 20 that don't read: {grown / MIB:.0f} MiB more"
        until(lambda: "plush_api_followers 0.0" in client.get("/metrics").text, "the end of those that don't read")
        assert client.get(f"/runs/{run.run_id}").json()["id"] == run.run_id


def test_a_follower_that_goes_away_leaves_nothing(client: httpx.Client, run: FakeRun) -> None:
    for _ in range(5):
        with follow(client, run) as answer:
            next(sse_events(answer.iter_lines()))
    until(lambda: "plush_api_followers 0.0" in client.get("/metrics").text, "the end of the streams")


def test_there_are_only_so_many_followers(client: httpx.Client, run: FakeRun) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            assert stack.enter_context(follow(client, run)).status_code == 200
        with follow(client, run) as answer:
            assert answer.status_code == 429
            assert json.loads(answer.read())["code"] == "too_many_followers"
        with client.stream("GET", f"/runs/{run.run_id}/output") as answer:
            assert answer.status_code == 429
    until(lambda: "plush_api_followers 0.0" in client.get("/metrics").text, "the end of the streams")


def test_fifty_followers_of_one_run_all_see_all(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    counts: list[int] = []

    def read() -> None:
        with follow(client, run) as answer:
            counts.append(sum(event["type"] == "note" for _, event in sse_events(answer.iter_lines())))

    threads = [threading.Thread(target=read) for _ in range(FOLLOWERS)]
    for thread in threads:
        thread.start()
    for first in range(0, 500, 50):
        run.append(*numbered(50, first))
        assert client.get(f"/runs/{run.run_id}").status_code == 200
    run.end()
    for thread in threads:
        thread.join(LIMIT_S)
    assert counts == [500] * FOLLOWERS


def test_a_revoked_token_and_a_removed_run_end_their_streams(
    redis_server: RedisServer, folder: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look is after each quiet quarter of a minute; here it is made sooner."""
    small = folder / "impatient"
    small.mkdir()
    starter = "import plush_api.routes.events as e, plush_api.api_part as a; e.BEAT_S = 0.3; e.LOOK_S = 0.1; a.main()"
    service = ApiService(small, redis_server.url, folder / "state")
    service.program = ("-c", starter)
    with service:
        token = service.token("ada")
        with service.client(token) as ada, service.client() as admin:
            with follow(ada, run) as answer:
                found = sse_events(answer.iter_lines())
                next(found)
                assert admin.delete(f"/tokens/{token.split('_')[1]}").status_code == 204
                assert list(found) == []
            with follow(admin, run) as answer:
                found = sse_events(answer.iter_lines())
                next(found)
                with redis_server.store() as store:
                    store.remove_run(run.run_id)
                assert list(found) == []


def test_a_stopping_server_lets_its_followers_go_at_once(redis_server: RedisServer, folder: Path, run: FakeRun) -> None:
    small = folder / "stopping"
    small.mkdir()
    with ExitStack() as stack:
        service = stack.enter_context(ApiService(small, redis_server.url, folder / "state"))
        client = stack.enter_context(service.client())
        streams = [stack.enter_context(follow(client, run)) for _ in range(3)]
        streams.append(stack.enter_context(client.stream("GET", f"/runs/{run.run_id}/output", params={"follow": 1})))
        began = time.monotonic()
        service.process.terminate()
        for answer in streams:
            answer.read()  # to its orderly end: otherwise this raises
        assert service.process.wait(LIMIT_S) == 0
        assert time.monotonic() - began < 3.0


def test_a_stream_goes_on_when_redis_was_restarted(
    api: ApiService, client: httpx.Client, redis_server: RedisServer, run: FakeRun
) -> None:
    run.append(*numbered(10))
    with follow(client, run, timeout=60) as answer:
        found = sse_events(answer.iter_lines())
        seen = [next(found) for _ in range(11)]
        with redis_server.store() as store:
            store._wire.call("WAITAOF", 1, 0, 5000)
        redis_server.stop()
        gone = client.get(f"/runs/{run.run_id}")
        assert (gone.status_code, gone.json()["code"]) == (503, "store_unavailable")
        assert gone.headers["retry-after"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        assert "plush_redis_up 0.0" in httpx.get(f"{api.url}/metrics").text
        redis_server.start()
        run.append(*numbered(10, 10))
        run.end()
        seen += found
    assert [event["n"] for _, event in seen if event["type"] == "note"] == list(range(20))
    assert len({event_id for event_id, _ in seen}) == len(seen)


def test_a_million_events_neither_hold_others_up_nor_stay_in_memory(
    api: ApiService, client: httpx.Client, redis_server: RedisServer, folder: Path
) -> None:
    big, other = FakeRun(redis_server.url, folder / "state"), FakeRun(redis_server.url, folder / "state")
    big.join()
    event = json.dumps({"type": "output", "segment": "w-1.seg", "bytes": 1}, separators=(",", ":"))
    with redis_server.store() as store:
        script = (
            "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], 'MAXLEN', '~', 100000, '*', 'e', ARGV[2], 't', '') end"
        )
        for _ in range(100):  # as Store bounds the stream; the beginning is trimmed away
            assert store._wire.call("EVAL", script, 1, keys.run_events(big.run_id), 10_000, event) is None
    before = api.memory_bytes()
    looking = threading.Thread(target=lambda: client.get(f"/runs/{big.run_id}"))
    looking.start()
    slowest = 0.0
    while looking.is_alive():
        slowest = max(slowest, client.get(f"/runs/{other.run_id}").elapsed.total_seconds())
    assert slowest < 0.5, "another run's status waited for the fold of a million events"
    shown = client.get(f"/runs/{big.run_id}").json()
    assert (shown["state"], shown["counts"]["hosts"]) == ("running", 2), "what was trimmed is in the run's fields"
    began = time.monotonic()
    client.get(f"/runs/{big.run_id}")
    assert time.monotonic() - began < 0.5, "each look folds the whole stream"
    big.end()
    page = client.get(f"/runs/{big.run_id}/events", headers={"Accept": "application/json"}).json()
    assert page["gap"], "what was trimmed was not told"
    with follow(client, big) as answer:
        count = sum(1 for _ in sse_events(answer.iter_lines()))
    assert count >= 100_000
    assert api.memory_bytes() - before < 100 * MIB


# Output


def output(client: httpx.Client, run: FakeRun, **params: object) -> bytes:
    answer = client.get(f"/runs/{run.run_id}/output", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    return answer.content


def test_output_of_all_hosts_has_their_names_and_of_one_host_its_bytes(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    run.print(b"both\n", hosts=0b11)
    run.print(b"only one\nand the ", hosts=0b01, offset=5)
    run.print(b"rest", hosts=0b01, offset=22)
    run.print(b"wrong\n", hosts=0b10, stream=STDERR)
    run.print(b"\xff\xfe\n", hosts=0b10, offset=5)
    run.end()
    assert output(client, run).splitlines() == [
        b"node1: both", b"node2: both", b"node1: only one", b"node2: \xff\xfe", b"node1: and the rest",
    ]  # fmt: skip
    assert output(client, run, host="node1") == b"both\nonly one\nand the rest"
    assert output(client, run, host="node2") == b"both\n\xff\xfe\n"
    assert output(client, run, host="node2", stream="stderr") == b"wrong\n"
    assert output(client, run, stream="both").splitlines()[3] == b"node2 (stderr): wrong"
    for params in ({"host": "node3"}, {"host": ""} | {"stream": "x"}, {"from": 3}, {"host": "node1", "from": -1}):
        assert client.get(f"/runs/{run.run_id}/output", params=params).status_code in (404, 422), params


def test_a_range_of_a_hosts_output_is_those_bytes(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    text = bytes(range(256)) * 400
    run.print(text)
    assert output(client, run, host="node1") == text
    for first, end in (
        (0, 0),
        (0, 1),
        (5, 10),
        (32767, 32769),
        (40_000, 90_000),
        (102_399, 102_400),
        (102_400, 200_000),
    ):
        assert output(client, run, host="node1", **{"from": first, "to": end}) == text[first:end], (first, end)
    assert output(client, run, host="node1", **{"from": 102_300}) == text[102_300:]


def test_following_goes_on_until_the_run_ends(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    run.print(b"one\n")
    with client.stream("GET", f"/runs/{run.run_id}/output", params={"follow": 1, "host": "node1"}) as answer:
        chunks = answer.iter_bytes()
        assert next(chunks) == b"one\n"
        run.print(b"two\n", offset=4)
        assert next(chunks) == b"two\n"
        run.print(b"three", offset=8)
        run.end()
        assert b"".join(chunks) == b"three"


def test_following_a_run_whose_hosts_have_not_joined_waits_for_them(client: httpx.Client, run: FakeRun) -> None:
    with client.stream("GET", f"/runs/{run.run_id}/output", params={"follow": 1}) as answer:
        run.join()
        run.print(b"at last\n", hosts=0b11)
        run.end()
        assert answer.read() == b"node1: at last\nnode2: at last\n"


def test_output_of_one_process_is_only_its_own(client: httpx.Client, redis_server: RedisServer, folder: Path) -> None:
    processes = tuple({"name": name, "command": name, "hosts": None} for name in ("server", "load"))
    run = FakeRun(redis_server.url, folder / "state", processes=processes)
    run.join()
    with redis_server.store() as store:
        for op, name in ((1, "server"), (2, "load")):
            record = json.dumps(
                {"op": op, "run_id": run.run_id, "mesh": "m", "kind": "exec", "hosts": "0-1", "name": name}
            )
            store._wire.call("HSET", keys.run_ops(run.run_id), op, record)
    run.print(b"serving\n", hosts=0b11, op=1)
    run.print(b"loading\n", hosts=0b11, op=2)
    assert output(client, run, process="load") == b"node1: loading\nnode2: loading\n"
    assert output(client, run, process="server", host="node2", to=5) == b"servi"
    assert client.get(f"/runs/{run.run_id}/output", params={"host": "node2", "to": 5}).status_code == 422
    assert client.get(f"/runs/{run.run_id}/output", params={"process": "nobody"}).status_code == 404


def test_output_beyond_memory_is_streamed(api: ApiService, client: httpx.Client, run: FakeRun) -> None:
    run.join()
    run.print(os.urandom(3 * MIB).replace(b"\n", b" "), hosts=0b11)
    for n in range(1, 24):
        run.print(b"y" * 3 * MIB, hosts=0b11, offset=3 * MIB * n)
    run.end()
    before = api.memory_bytes()
    with client.stream("GET", f"/runs/{run.run_id}/output") as answer:
        size = sum(len(chunk) for chunk in answer.iter_bytes())
    assert size > 144 * MIB
    assert api.memory_bytes() - before < 50 * MIB


def test_segments_are_given_out_as_they_are_committed(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    assert client.get(f"/runs/{run.run_id}/segments").json() == {"segments": []}
    run.print(b"x" * 700_000)
    content = run.path.read_bytes()
    with run.path.open("ab") as file:
        file.write(b"not committed")
    listed = client.get(f"/runs/{run.run_id}/segments").json()
    assert listed == {"segments": [{"name": "w-1.seg", "committed_bytes": len(content)}]}
    path = f"/runs/{run.run_id}/segments/w-1.seg"
    assert client.get(path).content == content
    assert client.get(path, params={"start": 100_000, "end": 100_010}).content == content[100_000:100_010]
    assert client.get(path, params={"end": 10**12}).content == content
    assert client.get(path, params={"start": 10**12}).content == b""
    for name in ("x.seg", "..%2f..%2fredis.rdb", "%2e%2e", "admin.token"):
        assert client.get(f"/runs/{run.run_id}/segments/{name}").status_code == 404, name


def test_output_that_the_api_cannot_see_is_an_error_that_says_so(client: httpx.Client, run: FakeRun) -> None:
    run.join()
    run.print(b"x")
    run.path.unlink()
    answer = client.get(f"/runs/{run.run_id}/segments/w-1.seg")
    assert (answer.status_code, answer.json()["code"]) == (503, "segment_missing")
    assert "same state folder" in answer.json()["detail"]
    answer = client.get(f"/runs/{run.run_id}/output")
    assert (answer.status_code, answer.json()["code"]) == (503, "segment_missing")


def test_hosts_show_what_has_come_of_each(client: httpx.Client, run: FakeRun) -> None:
    path = f"/runs/{run.run_id}/hosts"
    assert [(h["state"], h["number"]) for h in client.get(path).json()["hosts"]] == [("waiting", None)] * 2
    run.join()
    assert [(h["state"], h["number"]) for h in client.get(path).json()["hosts"]] == [("running", 0), ("running", 1)]
    ended = {"type": "op_ended", "op": 1, "code": 3, "signal": None, "detail": "", "state": "exited"}
    run.append({**ended, "hosts": "1"})
    page = client.get(path, params={"state": "exited"}).json()
    assert [(h["name"], h["code"]) for h in page["hosts"]] == [("node2", 3)] and page["total"] == 2
    first = client.get(path, params={"limit": 1}).json()
    assert [h["name"] for h in first["hosts"]] == ["node1"] and first["next"] == 1
    rest = client.get(path, params={"limit": 1, "start": first["next"]}).json()
    assert [h["name"] for h in rest["hosts"]] == ["node2"] and rest["next"] is None
    counts = client.get(f"/runs/{run.run_id}").json()["counts"]
    assert (counts["up"], counts["started"], counts["ended"], counts["nonzero"]) == (2, 2, 1, 1)
