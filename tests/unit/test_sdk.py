"""The client for programs: what it repeats, where it goes on, and what it makes of answers. No socket: httpx's mock."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plush_api import sdk, sdk_async
from plush_api.api_errors import ApiFailed, ApiRefused, ApiUnavailable, Unauthorized
from plush_api.backing_off import Patience
from plush_api.client import AsyncPlush, Plush
from plush_worker.errors import ConfigurationError, PlushError, RunNotFound
from plush_worker.experiment.spec import SpecErrors

URL = "https://plush.example.org"
RUN = {"id": "r1", "state": "running", "last_event": "5-0", "counts": {"hosts": 2}, "new_field": 1}
SSE = {"content-type": "text/event-stream"}

Answer = Callable[[httpx.Request], httpx.Response]


class Service:
    """Plays answers, one a request; raises those that are exceptions. Remembers the requests."""

    def __init__(self, *answers: httpx.Response | Exception | Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def plush(self, **more: Any) -> Plush:
        return Plush(URL, "plush_t", transport=httpx.MockTransport(self), **more)


@pytest.fixture(autouse=True)
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes only by waiting."""
    taken: list[float] = []

    async def nap(wait_s: float) -> None:
        taken.append(wait_s)

    monkeypatch.setattr(sdk.time, "sleep", taken.append)
    monkeypatch.setattr(sdk.time, "monotonic", lambda: sum(taken))
    monkeypatch.setattr(sdk_async.asyncio, "sleep", nap)
    return taken


def good(values: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=values)


def problem(status: int, code: str = "", **more: Any) -> httpx.Response:
    body = {"type": f"urn:plush:problem:{code}", "code": code, "detail": f"about {code}", **more}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        raise httpx.ReadError("connection reset")

    async def __aiter__(self) -> Any:
        for part in self.parts:
            yield part
        raise httpx.ReadError("connection reset")


def event(number: int, kind: str = "hosts_up") -> bytes:
    return f'id: {number}-0\ndata: {{"type":"{kind}"}}\n\n'.encode()


# What is sent


def test_a_request_carries_the_token_and_nothing_else_does() -> None:
    service = Service(good(RUN))
    run = service.plush().run("a/../b")
    (request,) = service.requests
    assert str(request.url) == f"{URL}/v1/runs/a%2F..%2Fb", "an id must not become another path"
    assert request.headers["authorization"] == "Bearer plush_t"
    assert (run.id, run.ended, run.counts["hosts"]) == ("r1", False, 2)


def test_a_submission_is_repeated_as_the_same_request(naps: list[float]) -> None:
    """Else an answer that was lost makes two runs of one experiment."""
    service = Service(httpx.ReadError("reset"), problem(503, "store_unavailable"), good(RUN, 201))
    assert service.plush().submit({"hosts": "a", "command": "date"}).id == "r1"
    keys = {request.headers["idempotency-key"] for request in service.requests}
    assert len(service.requests) == 3 and len(keys) == 1 and "" not in keys
    assert len({request.content for request in service.requests}) == 1
    assert json.loads(service.requests[0].content) == {"hosts": ["a"], "command": "date"}
    assert len(naps) == 2


def test_files_are_sent_before_their_experiment_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_text("hosts: a\ncommand: ./x\nfiles: [{src: x, dest: x}, {src: y, dest: y}]\n")
    (tmp_path / "x").write_bytes(b"here")
    (tmp_path / "y").write_bytes(b"there")
    digests = {hashlib.sha256(text).hexdigest(): text for text in (b"here", b"there")}
    known = hashlib.sha256(b"there").hexdigest()

    def look(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.url.path.endswith(known) else 404)

    def take(request: httpx.Request) -> httpx.Response:
        assert digests[request.url.path.rpartition("/")[2]] == request.content == b"here"
        return good({}, 201)

    service = Service(*([look, take, look] if next(iter(digests)) != known else [look, look, take]), good(RUN, 201))
    service.plush().submit(tmp_path / "exp.yaml")
    assert [request.method for request in service.requests] == ["HEAD", "PUT", "HEAD", "POST"]
    body = json.loads(service.requests[-1].content)
    assert {entry["sha256"] for entry in body["files"]} == set(digests)
    assert "src" not in body["files"][0]


# What becomes of errors


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(404, "run_not_found"), RunNotFound),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, "missing_scope"), Unauthorized),
        (problem(409, "run_not_ended"), ApiRefused),
        (problem(422, "bad_experiment", errors=[{"path": "hosts", "line": 3, "message": "no"}]), SpecErrors),
        (problem(500, "internal"), ApiFailed),
        (httpx.Response(502, text="<html>bad gateway"), ApiUnavailable),
        (httpx.Response(302, headers={"location": "https://other/"}), ApiFailed),
        (httpx.Response(200, text="<html>welcome"), ApiFailed),
        (good([1]), ApiFailed),
        (good({"id": "r"}), ApiFailed),
        (httpx.ConnectError("refused"), ApiUnavailable),
    ],
)
def test_answers_become_typed_errors(answer: httpx.Response | Exception, kind: type[PlushError]) -> None:
    with pytest.raises(kind) as caught:
        Service(answer).plush(patience_s=0).run("r1")
    assert type(caught.value) is kind
    assert "about" in str(caught.value) or kind in (SpecErrors, ApiFailed, ApiUnavailable)


def test_every_mistake_in_an_experiment_is_told_with_its_place() -> None:
    errors = [{"path": "hosts", "line": 3, "message": "no"}, {"path": "x", "line": 0, "message": "unknown"}]
    with pytest.raises(SpecErrors) as caught:
        Service(problem(422, "bad_experiment", errors=errors)).plush().run("r")
    assert str(caught.value) == "experiment:3: hosts: no\nexperiment: x: unknown"


def test_patience_ends_and_retry_after_is_obeyed(naps: list[float]) -> None:
    away = httpx.Response(429, json={"code": "rate_limited", "detail": "slow"}, headers={"retry-after": "7"})
    service = Service(away, good(RUN))
    service.plush().run("r1")
    assert naps == [7.0]
    service = Service(*[httpx.ConnectError("refused")] * 100)
    with pytest.raises(ApiUnavailable, match="can't be reached: refused"):
        service.plush(patience_s=20).run("r1")
    assert 20 >= sum(naps) - 7 > 10


def test_a_token_is_not_made_twice() -> None:
    """Repeating that after a lost answer would leave a token that nobody knows."""
    service = Service(httpx.ReadError("reset"))
    with pytest.raises(ApiUnavailable):
        service.plush().create_token("ada")
    assert len(service.requests) == 1


def test_patience_starts_anew_after_a_success() -> None:
    now = [0.0]
    patience = Patience(10, lambda: now[0], lambda: 0.0)
    assert [patience.wait_s() for _ in range(3)] == [0.2, 0.4, 0.8]
    now[0] = 9.9
    assert patience.wait_s() is None
    patience.succeeded()
    assert patience.wait_s() == 0.2
    assert patience.wait_s(11) is None, "a wait that is asked for counts too"


def test_a_service_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for url, token in (("https://x", ""), ("", "plush_t"), ("", ""), ("ftp://x", "t"), ("http://me:pw@x", "t")):
        with pytest.raises(ConfigurationError):
            Plush(url, token)
    monkeypatch.setenv("PLUSH_URL", URL + "/")
    monkeypatch.setenv("PLUSH_TOKEN", " plush_t\n")
    service = Service(good(RUN))
    Plush(transport=httpx.MockTransport(service)).run("r1")
    assert str(service.requests[0].url).startswith(URL + "/v1/")


# Lists


def test_lists_are_read_to_their_end() -> None:
    pages = [
        good({"runs": [RUN, RUN], "next": "c"}),
        good({"runs": [], "next": "d"}),
        good({"runs": [RUN], "next": None}),
    ]
    service = Service(*pages)
    assert len(service.plush().runs(state="open")) == 3
    assert [dict(r.url.params).get("cursor") for r in service.requests] == [None, "c", "d"]
    hosts = [good({"hosts": [{"name": "a", "index": 0, "state": "up"}], "next": 1}), good({"hosts": [], "next": None})]
    service = Service(*hosts)
    assert [host.name for host in service.plush().hosts("r1")] == ["a"]
    assert dict(service.requests[1].url.params)["start"] == "1"


# Following


def test_events_are_followed_through_breaks_without_a_hole_or_a_double() -> None:
    service = Service(
        httpx.Response(200, headers=SSE, stream=Broken(b"retry: 1\n\n", event(1), event(2)[:9])),
        httpx.ConnectError("refused"),
        problem(503, "store_unavailable"),
        httpx.Response(200, headers=SSE, content=event(2)),  # a server that stops ends its streams
        httpx.Response(200, headers=SSE, content=event(3) + event(4, "run_finished") + event(5)),
    )
    assert [e.id for e in service.plush().events("r1")][:4] == ["1-0", "2-0", "3-0", "4-0"]
    asked = [request.headers.get("last-event-id") for request in service.requests]
    assert asked == [None, "1-0", "1-0", "1-0", "2-0"]


def test_events_of_a_run_that_is_over_and_seen_end_at_once() -> None:
    assert list(Service(httpx.Response(204)).plush().events("r1", "9-0")) == []


def test_following_ends_with_an_error_that_does_not_go_away() -> None:
    with pytest.raises(RunNotFound):
        list(Service(problem(404, "run_not_found")).plush().events("r1"))
    with pytest.raises(ApiUnavailable):
        list(Service(*[httpx.ConnectError("refused")] * 100).plush(patience_s=5).events("r1"))


def test_a_hosts_output_goes_on_at_the_byte_where_it_broke_off() -> None:
    service = Service(httpx.Response(200, stream=Broken(b"abc", b"de")), httpx.Response(200, content=b"fgh"))
    assert b"".join(service.plush().output("r1", "a", start_bytes=10)) == b"abcdefgh"
    assert [dict(r.url.params)["from"] for r in service.requests] == ["10", "15"]


def test_output_of_all_hosts_that_breaks_off_is_not_taken_for_whole() -> None:
    service = Service(httpx.Response(200, stream=Broken(b"a: x\n")), httpx.Response(200, content=b"a: x\n"))
    with pytest.raises(ApiUnavailable):
        list(service.plush().output("r1"))


def test_waiting_for_the_end() -> None:
    over = {**RUN, "state": "failed"}
    pages = [
        good({"events": [], "ended": False}),
        good({"events": [{"id": "6-0", "event": {"type": "x"}}], "ended": True}),
    ]
    service = Service(good(RUN), *pages, good(over))
    assert service.plush().wait("r1").state == "failed"
    assert [dict(r.url.params).get("after") for r in service.requests] == [None, "5-0", "5-0", None]


# The asynchronous twin


def test_the_asynchronous_client_does_the_same(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"here")
    service = Service(
        httpx.Response(404),
        httpx.ReadError("reset"),
        good({}, 201),
        good(RUN, 201),
        httpx.Response(200, headers=SSE, stream=Broken(event(1))),
        httpx.Response(200, headers=SSE, content=event(2, "run_finished")),
        httpx.Response(200, stream=Broken(b"ab")),
        httpx.Response(200, content=b"c"),
        good({**RUN, "state": "succeeded"}),
        problem(404, "run_not_found"),
    )

    async def use() -> None:
        async with AsyncPlush(URL, "plush_t", transport=httpx.MockTransport(service)) as plush:
            experiment = {"hosts": "a", "command": "./x", "files": [{"src": "x", "dest": "x"}]}
            run = await plush.submit(experiment, base_dir=str(tmp_path))
            assert [e.id async for e in plush.events(run.id)] == ["1-0", "2-0"]
            assert [part async for part in plush.output(run.id, "a")] == [b"ab", b"c"]
            assert (await plush.wait(run.id)).succeeded
            assert not await plush.remove(run.id)

    asyncio.run(use())
    assert not service.answers
    assert service.requests[2].content == b"here"


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Plush) - {"stream"} == public(AsyncPlush)
