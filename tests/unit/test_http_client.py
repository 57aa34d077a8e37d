"""What commands get of a service over HTTP: the same as from Redis, as far as they can tell."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from plush_api.api_errors import ApiFailed, ApiUnavailable
from plush_api.cli.ps import row_of
from plush_api.cli.run_ids import find_run
from plush_api.client import OutputRecord
from plush_api.http_client import HttpClient
from plush_worker.errors import RunNotFound, UsageError
from plush_worker.model import RunSpec
from plush_worker.node import frames, hostset, messages

COUNTS = {"hosts": 3, "up": 2, "started": 2, "ended": 1, "ok": 1, "nonzero": 0}
RUN = {
    "id": "r1", "state": "running", "owner": "ada", "name": "exp", "command": "date", "slice": "lab", "counts": COUNTS,
    "submitted_at": 100.0, "finished_at": None, "links": {"flower": "http://f/task/r1"}, "deploys": True,
    "processes": [{"name": "server", "command": "s", "hosts": [0]}, {"name": "client", "command": "c", "hosts": None}],
}  # fmt: skip
HOSTS = {
    "hosts": [
        {"name": "a", "index": 0, "number": 7, "state": "running"},
        {"name": "b", "index": 1, "number": None, "state": "waiting"},
        {"name": "c", "index": 2, "number": None, "state": "unreachable", "detail": "no such name"},
    ],
    "next": None,
}


class Routes:
    """Answers by path, below /v1."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"/runs/r1": RUN, "/runs/r1/hosts": HOSTS, **answers}
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1")
        self.asked.append(f"{request.method} {path}")
        answer = self.answers.get(path)
        if isinstance(answer, bytes):
            return httpx.Response(200, content=answer)
        found = answer is not None
        return httpx.Response(200 if found else 404, json=answer if found else {"code": "run_not_found", "detail": "x"})


def client(**answers: Any) -> HttpClient:
    return HttpClient("https://p", "t", transport=httpx.MockTransport(Routes(**answers)))


def frame(hosts: int, op: int, stream: int, offset: int, data: bytes) -> bytes:
    body = messages.encode_output(op, stream, offset, data)
    return bytes(frames.encode(frames.OUTPUT, hostset.encode(hosts), body))


def test_a_run_as_the_store_has_it() -> None:
    fields = client().run("r1")
    assert json.loads(fields["hosts"]) == [[7, "a"]]
    assert json.loads(fields["rejected"]) == {"c": "no such name"}, "a host that only waits isn't rejected"
    row = row_of(client(), fields, 160.0)
    assert (row["hosts"], row["up"], row["done"], row["state"], row["age_s"]) == (3, 2, 1, "running", 60.0)
    assert (row["owner"], row["name"]) == ("ada", "exp")


def test_a_run_that_has_ended_has_its_summary() -> None:
    over = RUN | {"state": "failed", "finished_at": 150.0, "counts": COUNTS | {"unreachable": 2, "unknown": 1}}
    row = row_of(client(), client(**{"/runs/r1": over}).run("r1"), 160.0)
    assert (row["state"], row["up"], row["done"]) == ("failed", 1, 3)


def test_what_events_are_folded_by() -> None:
    """Without processes and files the fold of a multi-process run ends its hosts with the first process."""
    spec = client().spec("r1")
    assert isinstance(spec, RunSpec)
    assert [host["name"] for host in spec.hosts] == ["a", "b", "c"]
    assert [process["name"] for process in spec.processes] == ["server", "client"]
    assert spec.files and (spec.name, spec.owner, spec.slice) == ("exp", "ada", {"name": "lab"})


def test_no_run_is_no_error_where_its_absence_is_an_answer() -> None:
    assert client().run("r2") == {}
    with pytest.raises(RunNotFound):
        client().spec("r2")
    assert not client().remove("r2")


def test_a_run_is_found_by_the_beginning_of_its_id_and_the_newest_of_ones_own_by_last() -> None:
    others = {**RUN, "id": "r9", "owner": "bob"}
    answers = {"/runs": {"runs": [others, RUN], "next": None}, "/tokens/self": {"id": "t", "owner": "ada"}}
    for text in ("r1", "-", "last"):
        assert find_run(client(**answers), text) == "r1"
    assert find_run(client(**answers), "r9"[:2]) == "r9"
    with pytest.raises(UsageError):
        find_run(client(**answers), "r")
    with pytest.raises(RunNotFound):
        find_run(client(**answers), "")


def test_output_comes_as_the_records_of_its_frames() -> None:
    path = "/runs/r1/segments/w-1.seg"
    whole = frame(0b11, 5, 1, 0, b"hello\n") + frame(0b10, 5, 2, 0, b"oh\n")
    records = list(client(**{path: whole}).output("r1", "w-1.seg", 0, len(whole)))
    assert records == [OutputRecord(3, 5, 1, 0, 0, b"hello\n"), OutputRecord(2, 5, 2, 0, 0, b"oh\n")]


def test_output_that_is_cut_short_is_an_error_that_may_be_tried_again() -> None:
    """Taken for whole, the missing bytes would be skipped for good."""
    path, whole = "/runs/r1/segments/s", frame(1, 5, 1, 0, b"hello\n")
    with pytest.raises(ApiUnavailable):
        list(client(**{path: whole}).output("r1", "s", 0, len(whole) + 9))
    with pytest.raises(ApiFailed):
        list(client(**{path: b"\0\0\0\x05nonsense"}).output("r1", "s", 0, 12))


def test_a_spec_that_was_made_here_is_not_sent() -> None:
    """It names keys and proxy commands of this machine."""
    with pytest.raises(UsageError):
        client().submit(RunSpec("r", "me", "date", ()))
