"""Requests to a real API process: who may do what, what is refused and how, submissions that come twice."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from plush_api.api_settings import ApiSettings
from plush_worker.store import keys
from plush_worker.store.tokens import new_token
from tests.api_service import LIMIT_S, ApiService, RedisServer, until, write_directory

EXPERIMENT = {"name": "hello", "slice": "lab", "hosts": "node[1-2]", "command": "date"}
BLOB_LIMIT_BYTES = 3_000_000


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
    environ = {
        "PLUSH_API_DIRECTORY": str(write_directory(folder)),
        "PLUSH_API_OPEN_RUNS_PER_OWNER": "5",
        "PLUSH_API_BLOB_LIMIT_BYTES": str(BLOB_LIMIT_BYTES),
        "PLUSH_API_RATE_BURST": "1000",
        "PLUSH_API_FLOWER_URL": "http://flower.example/",
    }
    with ApiService(folder, redis_server.url, folder / "state", environ) as service:
        yield service


@pytest.fixture(autouse=True)
def no_runs(redis_server: RedisServer) -> Iterator[None]:
    """No test meets the runs or keys of another."""
    yield
    with redis_server.store() as store:
        for run in store.runs(1000):
            store.remove_run(run["run_id"])
        for key in store._wire.call("KEYS", "plush:open-runs:*"):
            store._wire.call("DEL", key)


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of an answer that must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert (document["status"], document["code"]) == (status, code), document
    assert document["type"] == f"urn:plush:problem:{code}" and document["title"] and document["detail"]
    assert document["instance"] == answer.request.url.raw_path.partition(b"?")[0].decode()
    return document


def submit(client: httpx.Client, **changes: Any) -> httpx.Response:
    return client.post("/runs", json={**EXPERIMENT, **changes})


# Who may do what


def test_health_needs_no_token_and_everything_else_does(api: ApiService) -> None:
    with api.client("") as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{api.url}/healthz").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready", "workers": 0}
        assert client.get("/metrics").status_code == 200, "from this machine"
        for method, path in (
            ("GET", "/runs"), ("POST", "/runs"), ("GET", "/runs/x/events"), ("GET", "/tokens"), ("POST", "/tokens"),
            ("PUT", "/blobs/x"), ("GET", "/slices"), ("GET", "/workers"), ("GET", "/nowhere"), ("DELETE", "/meshes/x"),
        ):  # fmt: skip
            answer = client.request(method, path)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer ", "Bearer x", "Basic cm9vdDo=", "Bearer plush_0000000000_" + "0" * 48, "Bearer \xff", "\x01"],
)
def test_a_wrong_token_is_refused(api: ApiService, header: str) -> None:
    connection = http.client.HTTPConnection(api.url.removeprefix("http://"), timeout=LIMIT_S)
    connection.putrequest("GET", "/v1/runs")
    connection.putheader("Authorization", header.encode("latin-1"))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status in (400, 401), answer.read()
    connection.close()


def test_a_token_with_one_wrong_digit_an_expired_and_a_revoked_one_are_refused(api: ApiService) -> None:
    good = api.token("ada")
    with api.client(good) as client:
        assert client.get("/runs").status_code == 200
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    with api.client(wrong) as client:
        problem(client.get("/runs"), 401, "unauthorized")
    with api.client(api.token("ada", expires_s=1)) as client:
        until(lambda: client.get("/runs").status_code == 401, "its end")
        assert "expired" in problem(client.get("/runs"), 401, "unauthorized")["detail"]
    with api.client() as admin, api.client(good) as client:
        assert admin.delete(f"/tokens/{good.split('_')[1]}").status_code == 204
        problem(client.get("/runs"), 401, "unauthorized")
        problem(admin.delete(f"/tokens/{good.split('_')[1]}"), 404, "token_not_found")


def test_scopes_say_what_a_token_may_do(api: ApiService) -> None:
    with api.client(api.token("ada", "read")) as reader, api.client(api.token("ada", "run")) as runner:
        problem(submit(reader), 403, "missing_scope")
        run_id = submit(runner).json()["id"]
        assert reader.get(f"/runs/{run_id}").status_code == 200
        for method, path in (
            ("POST", f"/runs/{run_id}/kill"), ("DELETE", f"/runs/{run_id}"), ("PUT", f"/blobs/{'0' * 64}"),
            ("DELETE", "/meshes/x"),
        ):  # fmt: skip
            problem(reader.request(method, path), 403, "missing_scope")
        problem(reader.patch(f"/runs/{run_id}", json={"keep_s": 1}), 403, "missing_scope")
        for method, path in (("GET", "/tokens"), ("POST", "/tokens"), ("DELETE", "/tokens/x")):
            answer = runner.request(method, path, json={"owner": "ada", "scopes": ["admin"]})
            problem(answer, 403, "missing_scope")


def test_others_runs_look_as_if_they_did_not_exist(api: ApiService) -> None:
    with api.client(api.token("ada")) as ada, api.client(api.token("bob")) as bob, api.client() as admin:
        run_id = submit(ada).json()["id"]
        unknown = problem(bob.get("/runs/nothing"), 404, "run_not_found")["detail"].replace("nothing", run_id)
        for method, path in (
            ("GET", ""), ("GET", "/hosts"), ("GET", "/events"), ("GET", "/output"), ("GET", "/segments"),
            ("GET", "/segments/x"), ("POST", "/kill"), ("DELETE", ""),
        ):  # fmt: skip
            assert problem(bob.request(method, f"/runs/{run_id}{path}"), 404, "run_not_found")["detail"] == unknown
        problem(bob.patch(f"/runs/{run_id}", json={"keep_s": 1}), 404, "run_not_found")
        problem(bob.post(f"/runs/{run_id}/lease", json={"ttl_s": 60}), 404, "run_not_found")
        assert bob.get("/runs").json()["runs"] == []
        assert bob.get("/runs", params={"owner": "ada"}).json()["runs"] == []
        assert [run["id"] for run in ada.get("/runs").json()["runs"]] == [run_id]
        assert [run["id"] for run in admin.get("/runs", params={"owner": "ada"}).json()["runs"]] == [run_id]
        assert admin.get(f"/runs/{run_id}").json()["owner"] == "ada"


def test_a_token_uses_its_slices_only_and_logs_in_as_they_say(api: ApiService) -> None:
    with api.client(api.token("ada", slices=["lab"])) as client:
        assert submit(client).status_code == 201
        problem(submit(client, slice="attic", hosts="other"), 403, "slice_forbidden")
        problem(client.post("/runs", json={"hosts": "other", "command": "date"}), 403, "slice_forbidden")
        assert submit(client, hosts="other").status_code == 422, "a host of another slice"
        problem(submit(client, login="root"), 403, "login_forbidden")
        problem(submit(client, hosts="root@node1"), 403, "login_forbidden")
        assert client.get("/slices").json() == {"slices": [{"name": "lab", "hosts": 4}]}
        assert len(client.get("/slices/lab/hosts").json()["hosts"]) == 4
        problem(client.get("/slices/attic/hosts"), 404, "slice_not_found")
        secret = problem(client.post("/runs", json={"slice": "attik", "command": "date"}), 403, "slice_forbidden")
        assert "attic" not in json.dumps(secret), "names of slices that the token may not use"


def test_the_admin_token_is_in_a_file_for_its_user_only_and_stays_the_same(api: ApiService, folder: Path) -> None:
    path = folder / "admin.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = api.admin_token
    api.stop()
    api.start()
    assert api.admin_token == before
    with api.client() as client:
        listed = client.get("/tokens").json()["tokens"]
        assert before.split("_")[2] not in json.dumps(listed)
        assert [t["scopes"] for t in listed if t["name"] == "first admin"] == [["admin"]]


# Submitting


def test_an_experiment_as_json_and_as_yaml_is_a_run(api: ApiService) -> None:
    with api.client(api.token("ada")) as client:
        answer = submit(client)
        assert answer.status_code == 201, answer.text
        run = answer.json()
        assert answer.headers["location"] == run["links"]["self"] == f"{api.url}/v1/runs/{run['id']}"
        assert (run["owner"], run["name"], run["slice"], run["state"]) == ("ada", "hello", "lab", "waiting")
        assert run["counts"]["hosts"] == 2
        assert run["links"]["flower"] == f"http://flower.example/task/{run['id']}"
        text = "name: hello\nslice: lab\ncommand: date\n"
        answer = client.post("/runs", content=text, headers={"Content-Type": "application/yaml; charset=utf-8"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["counts"]["hosts"] == 4
        hosts = client.get(f"/runs/{run['id']}/hosts").json()
        assert [(h["name"], h["index"], h["state"]) for h in hosts["hosts"]] == [
            ("node1", 0, "waiting"), ("node2", 1, "waiting"),
        ]  # fmt: skip


def test_the_run_goes_to_the_workers_with_its_owner_and_without_anything_of_the_client(
    api: ApiService, redis_server: RedisServer
) -> None:
    with api.client(api.token("ada")) as client, redis_server.store() as store:
        before = store._wire.call("LLEN", "plush")
        run_id = submit(client).json()["id"]
        spec = store.load_run(run_id)
        assert store._wire.call("LLEN", "plush") == before + 1
        assert (spec.owner, spec.command, spec.submitter_uid) == ("ada", "date", os.getuid())
        assert [host["name"] for host in spec.hosts] == ["node1", "node2"]
        for smuggled in ({"hosts": [{"name": "x", "proxy_command": "touch /tmp/x"}]}, {"proxy_command": "x"}):
            assert submit(client, **smuggled).status_code == 422


def test_every_mistake_of_an_experiment_is_told_with_its_place(api: ApiService) -> None:
    text = "name: hello\nslice: lab\ncomand: date\ncount: many\nprocesses:\n  - command: date\n    timeot: 3\n"
    with api.client(api.token("ada")) as client:
        answer = client.post("/runs", content=text, headers={"Content-Type": "application/yaml"})
        errors = {error["path"]: error for error in problem(answer, 422, "bad_experiment")["errors"]}
        assert errors["comand"]["line"] == 3 and "command" in errors["comand"]["message"]
        assert errors["count"]["line"] == 4
        assert errors["processes.0.timeot"]["line"] == 7


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 422),
        (b'{"command": NaN}', "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"command": "' + b"\xff" + b'"}', "application/json", 400),
        (b"command: date", "text/plain", 415),
        (b"command: date", "", 415),
        (b"", "application/yaml", 422),
        (b"\xff\xfe", "application/yaml", 422),
        (b"a: &a [*a]", "application/yaml", 422),
        (b"a: !!python/object/apply:os.system ['true']", "application/yaml", 422),
        (b"[" * 50_000, "application/yaml", 422),
        (b"hosts: ['-oProxyCommand=touch /tmp/x']\ncommand: date", "application/yaml", 422),
        (b"hosts: 'node1;id'\ncommand: date", "application/yaml", 422),
        (b"hosts: '^/etc/passwd'\ncommand: date", "application/yaml", 422),
        (b"hosts: node1\ncommand: date\nfiles: [{src: ../../etc/passwd, dest: x}]", "application/yaml", 422),
        (b"hosts: node1\ncommand: date\nfiles: [{src: x, dest: x}]", "application/yaml", 422),
        (b"hosts: 'node[1-99999999]'\ncommand: date", "application/yaml", 422),
    ],
)
def test_bad_experiments_are_refused(api: ApiService, content: bytes, media_type: str, status: int) -> None:
    with api.client(api.token("ada")) as client:
        answer = client.post("/runs", content=content, headers={"Content-Type": media_type} if media_type else {})
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"]
        assert client.get("/runs").json()["runs"] == []


def test_a_yaml_bomb_is_refused_quickly(api: ApiService) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with api.client(
        api.token("ada"),
    ) as client:
        answer = client.post("/runs", content="\n".join(lines), headers={"Content-Type": "application/yaml"})
        problem(answer, 422, "bad_experiment")
        assert answer.elapsed.total_seconds() < 5


def test_an_experiment_of_ten_megabytes_is_refused_unread(api: ApiService) -> None:
    with api.client(api.token("ada")) as client:
        answer = client.post("/runs", content=b"#" * 10_000_000, headers={"Content-Type": "application/yaml"})
        problem(answer, 413, "too_large")
        assert answer.elapsed.total_seconds() < 2

    host, port = api.url.removeprefix("http://").split(":")
    request = f"POST /v1/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.admin_token}\r\n"
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
        connection.sendall(f"{request}Content-Length: 10000000\r\n\r\n".encode())
        assert b" 413 " in connection.recv(100), "it waits for a body that it won't take"

    def pieces() -> Iterator[bytes]:
        for _ in range(160):
            yield b"#" * 65536

    token = api.token("ada")
    with api.client(token) as client:  # without a Content-Length
        try:
            problem(
                client.post("/runs", content=pieces(), headers={"Content-Type": "application/yaml"}), 413, "too_large"
            )
        except httpx.WriteError:
            pass  # the API hung up while we were still sending


def test_the_same_key_and_body_make_one_run(api: ApiService) -> None:
    with api.client(api.token("ada")) as client, api.client(api.token("bob")) as bob:
        first = client.post("/runs", json=EXPERIMENT, headers={"Idempotency-Key": "once"})
        again = client.post("/runs", json=EXPERIMENT, headers={"Idempotency-Key": "once"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert again.headers["location"] == first.headers["location"]
        other = client.post("/runs", json={**EXPERIMENT, "command": "id"}, headers={"Idempotency-Key": "once"})
        problem(other, 422, "idempotency_key_reused")
        assert bob.post("/runs", json=EXPERIMENT, headers={"Idempotency-Key": "once"}).status_code == 201
        assert len(client.get("/runs").json()["runs"]) == 1


def test_twenty_submissions_at_once_with_one_key_make_one_run(api: ApiService) -> None:
    with api.client(api.token("ada")) as client, ThreadPoolExecutor(20) as pool:
        post = lambda n: client.post(  # noqa: E731
            "/runs", json={**EXPERIMENT, "command": f"echo {n % 2}"}, headers={"Idempotency-Key": "race"}
        )
        answers = list(pool.map(post, range(20)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses.count(201) == 1 and set(statuses) <= {200, 201, 422}, statuses
        assert len({a.json()["id"] for a in answers if a.status_code < 400}) == 1
        assert len(client.get("/runs").json()["runs"]) == 1


def test_a_key_of_a_failed_submission_is_free_and_that_of_a_removed_run_is_not(
    api: ApiService, redis_server: RedisServer
) -> None:
    with api.client(api.token("ada")) as client:
        key = {"Idempotency-Key": "again"}
        assert client.post("/runs", json={**EXPERIMENT, "hosts": "nobody"}, headers=key).status_code == 422
        run_id = client.post("/runs", json=EXPERIMENT, headers=key).json()["id"]
        with redis_server.store() as store:
            store.remove_run(run_id)
        problem(client.post("/runs", json=EXPERIMENT, headers=key), 409, "run_removed")
        bad = client.post("/runs", json=EXPERIMENT, headers={"Idempotency-Key": "has spaces"})
        problem(bad, 422, "bad_request")


def test_an_owner_has_only_so_many_open_runs(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client:
        runs = [submit(client).json()["id"] for _ in range(5)]
        refused = submit(client)
        assert problem(refused, 429, "too_many_runs")["retryable"]
        assert refused.headers["retry-after"]
        with api.client(api.token("bob")) as bob:
            assert submit(bob).status_code == 201
        end(redis_server, runs[0])
        assert submit(client).status_code == 201


# Looking and changing


def end(redis_server: RedisServer, run_id: str, state: str = "succeeded") -> None:
    """As the coordinator ends a run."""
    with redis_server.store() as store:
        store._wire.call("HSET", keys.run(run_id), "state", state, "finished", "1763841234.5")
        summary = {"hosts": 2, "ok": 2, "nonzero": 0, "failed": 0, "unreachable": 0, "killed": 0, "unknown": 0}
        store._wire.call("HSET", keys.run(run_id), "summary", json.dumps(summary))
        store.append(run_id, {"type": "run_finished", "state": state, "summary": summary})


def test_runs_are_listed_by_state_and_page(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client:
        ids = [submit(client, name=f"n{n}").json()["id"] for n in range(4)]
        end(redis_server, ids[0])
        end(redis_server, ids[1], "failed")

        def listed(**wanted: object) -> list[str]:
            return [run["id"] for run in client.get("/runs", params=wanted).json()["runs"]]

        assert listed() == ids[::-1]
        assert listed(state="open") == listed(state="waiting") == [ids[3], ids[2]]
        assert listed(state="ended") == [ids[1], ids[0]]
        assert listed(state="failed") == [ids[1]]
        assert listed(state="running") == []
        assert listed(name="n2") == [ids[2]]
        seen: list[str] = []
        cursor = ""
        while cursor is not None:
            page = client.get("/runs", params={"limit": 1, "cursor": cursor}).json()
            seen += [run["id"] for run in page["runs"]]
            cursor = page["next"]
        assert seen == ids[::-1]
        ended = client.get(f"/runs/{ids[0]}").json()
        assert (ended["state"], ended["finished_at"], ended["counts"]["ok"]) == ("succeeded", 1763841234.5, 2)
        problem(client.get("/runs", params={"cursor": "x"}), 422, "bad_request")
        problem(client.get("/runs", params={"limit": 0}), 422, "bad_request")


def test_a_kill_is_an_event_of_the_run_and_of_an_ended_one_nothing(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client, redis_server.store() as store:
        run_id = submit(client).json()["id"]
        answer = client.post(f"/runs/{run_id}/kill", json={"signal": 2, "grace_ms": 100})
        assert (answer.status_code, answer.json()["state"]) == (202, "stopping")
        assert client.post(f"/runs/{run_id}/kill").status_code == 202, "without a body"
        kills = [event for _, event in store.events(run_id, "0") if event["type"] == "kill_requested"]
        assert [(k["signal"], k["grace_ms"]) for k in kills] == [(2, 100), (15, 5000)]
        assert "ada" in kills[0]["by"]
        for body in ({"signal": 0}, {"signal": 65}, {"signal": "TERM"}, {"grace_ms": -1}, {"signl": 9}, [], 1):
            problem(client.post(f"/runs/{run_id}/kill", json=body), 422, "bad_request")
        end(redis_server, run_id)
        assert client.post(f"/runs/{run_id}/kill").json()["state"] == "succeeded"
        assert len([1 for _, e in store.events(run_id, "0") if e["type"] == "kill_requested"]) == 2


def test_only_an_ended_run_is_removed(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client:
        run_id = submit(client).json()["id"]
        problem(client.delete(f"/runs/{run_id}"), 409, "run_not_ended")
        end(redis_server, run_id)
        assert client.delete(f"/runs/{run_id}").status_code == 204
        problem(client.get(f"/runs/{run_id}"), 404, "run_not_found")
        problem(client.delete(f"/runs/{run_id}"), 404, "run_not_found")


def test_force_kills_waits_for_the_end_and_removes(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client, ThreadPoolExecutor(1) as pool, redis_server.store() as store:
        run_id = submit(client).json()["id"]
        removing = pool.submit(client.delete, f"/runs/{run_id}", params={"force": 1})
        until(lambda: any(e["type"] == "kill_requested" for _, e in store.events(run_id, "0")), "the kill")
        assert store.run_fields(run_id), "removed before its end"
        end(redis_server, run_id, "killed")
        assert removing.result(LIMIT_S).status_code == 204
        assert not store.run_fields(run_id)


def test_retention_and_lease_are_stored(api: ApiService, redis_server: RedisServer) -> None:
    with api.client(api.token("ada")) as client, redis_server.store() as store:
        run = submit(client).json()
        assert run["keep_s"] == 7 * 86400
        answer = client.patch(f"/runs/{run['id']}", json={"keep_s": 3600})
        assert (answer.status_code, answer.json()["keep_s"]) == (200, 3600)
        assert store.run_fields(run["id"])["keep_s"] == "3600"
        assert client.post(f"/runs/{run['id']}/lease", json={"ttl_s": 60}).status_code == 204
        assert 0 < store._wire.call("PTTL", keys.run_client(run["id"])) <= 60_000
        problem(client.patch(f"/runs/{run['id']}", json={"keep_s": -1}), 422, "bad_request")


# Blobs


def test_a_blob_is_kept_when_it_is_what_its_name_says(api: ApiService, folder: Path) -> None:
    content = os.urandom(2_000_000)
    digest = hashlib.sha256(content).hexdigest()
    with api.client(api.token("ada")) as client:
        assert client.head(f"/blobs/{digest}").status_code == 404
        answer = client.put(f"/blobs/{digest}", content=content)
        assert (answer.status_code, answer.json()) == (201, {"sha256": digest, "size_bytes": len(content)})
        assert client.put(f"/blobs/{digest}", content=content).status_code == 200
        found = client.head(f"/blobs/{digest}")
        assert (found.status_code, found.headers["plush-size-bytes"]) == (200, str(len(content)))
        path = folder / "state" / "blobs" / digest[:2] / digest
        assert path.read_bytes() == content and stat.S_IMODE(path.stat().st_mode) == 0o600
        problem(client.put(f"/blobs/{'0' * 64}", content=content), 422, "blob_refused")
        problem(client.put("/blobs/..%2f..%2fx", content=b"x"), 404, "not_found")
        problem(client.put(f"/blobs/{'g' * 64}", content=b"x"), 422, "bad_request")
        assert list((folder / "state" / "blobs").glob("*.part")) == []


def test_a_blob_beyond_the_limit_is_refused_and_nothing_of_it_stays(api: ApiService, folder: Path) -> None:
    content = b"x" * (BLOB_LIMIT_BYTES + 1)
    digest = hashlib.sha256(content).hexdigest()
    with api.client(api.token("ada")) as client:
        problem(client.put(f"/blobs/{digest}", content=content), 413, "too_large")

        def pieces() -> Iterator[bytes]:
            for at in range(0, len(content), 65536):
                yield content[at : at + 65536]

        try:
            problem(client.put(f"/blobs/{digest}", content=pieces()), 413, "too_large")
        except httpx.WriteError:
            pass
        assert client.head(f"/blobs/{digest}").status_code == 404
    until(lambda: not list((folder / "state" / "blobs").glob("*.part")), "the end of what was half written")


def test_a_client_that_hangs_up_in_a_blob_leaves_nothing(api: ApiService, folder: Path) -> None:
    blobs = folder / "state" / "blobs"
    host, port = api.url.removeprefix("http://").split(":")
    request = f"PUT /v1/blobs/{'1' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.admin_token}\r\n"
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as connection:
        connection.sendall(f"{request}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
        until(lambda: list(blobs.glob("*.part")), "the beginning of the blob")
    until(lambda: not list(blobs.glob("*.part")), "its removal")
    assert "Traceback" not in api.log()


# What doesn't fit anywhere


def test_errors_of_paths_and_methods_are_problems_too(api: ApiService) -> None:
    with api.client() as client:
        problem(client.get("/nowhere"), 404, "not_found")
        problem(client.put("/runs"), 405, "method_not_allowed")
        problem(client.get("/runs/"), 404, "not_found")
        problem(client.get("/runs/" + "x" * 5000), 404, "run_not_found")
        problem(client.get("/runs/%00%0a"), 404, "run_not_found")


def test_one_token_asks_only_so_often_and_health_stays(folder: Path, redis_server: RedisServer) -> None:
    environ = {"PLUSH_API_RATE_PER_S": "0.5", "PLUSH_API_RATE_BURST": "5"}
    small = folder / "small"
    small.mkdir()
    with ApiService(small, redis_server.url, folder / "state", environ) as service, service.client() as client:
        good = service.token("ada")
        answers = [client.get("/workers") for _ in range(6)]
        assert [a.status_code for a in answers[:4]] == [200] * 4
        problem(answers[5], 429, "rate_limited")
        assert int(answers[5].headers["retry-after"]) >= 1
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        with service.client(good) as ada, service.client(new_token().text()) as stranger:
            assert ada.get("/runs").status_code == 200
            assert stranger.get("/runs").status_code == 401
            until(lambda: stranger.get("/runs").status_code == 429, "an end of trying tokens")
            assert ada.get("/runs").status_code == 200, "others at the same address are locked out"


def test_the_document_describes_every_path_and_has_examples(api: ApiService) -> None:
    document = httpx.get(f"{api.url}/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path in ("/v1/runs", "/v1/runs/{run_id}/events", "/v1/blobs/{sha256}", "/v1/tokens", "/v1/slices/{name}/hosts"):
        assert path in document["paths"]
    body = document["paths"]["/v1/runs"]["post"]["requestBody"]["content"]
    with api.client(api.token("ada")) as client:
        for media_type, content in body.items():
            example = content["example"]
            text = example if isinstance(example, str) else json.dumps(example)
            answer = client.post("/runs", content=text, headers={"Content-Type": media_type})
            assert answer.status_code == 201, f"the example isn't valid: {answer.text}"


def test_metrics_count_requests_by_route_and_not_by_run(api: ApiService) -> None:
    with api.client() as client:
        run_id = submit(client).json()["id"]
        client.get(f"/runs/{run_id}")
        text = client.get("/metrics").text
        assert 'plush_api_requests_total{method="GET",route="/runs/{run_id}",status="200"}' in text
        assert run_id not in text
        assert "plush_redis_up 1.0" in text and "plush_workers 0.0" in text and "plush_queued_runs" in text


def test_a_port_that_is_taken_is_an_error_when_it_was_insisted_on(folder: Path, redis_server: RedisServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environ = {"PLUSH_API_PORT": port, "PLUSH_API_PORT_FIXED": "1"}
        service = ApiService(folder, redis_server.url, folder / "state", environ)
        with pytest.raises(AssertionError, match="didn't start"):
            service.start()
        assert service.process.returncode == 69
        service.environ.pop("PLUSH_API_PORT_FIXED")
        with service:
            assert not service.url.endswith(f":{port}"), "a free one is taken instead"


def test_the_page_about_the_api_names_every_endpoint_setting_and_code_of_a_problem(api: ApiService) -> None:
    checkout = Path(__file__).parents[2]
    page = (checkout / "docs" / "api.md").read_text()
    for path in httpx.get(f"{api.url}/v1/openapi.json").json()["paths"]:
        short = path.removeprefix("/v1")
        for name, shown in (
            ("{run_id}", "ID"), ("{name}", "NAME"), ("{mesh_id}", "MESH"), ("{token_id}", "TOKEN"),
            ("{sha256}", "SHA256"),
        ):  # fmt: skip
            short = short.replace(name, shown)
        assert f" {short}`" in page or f" {short}?" in page or f" {short}` `" in page, f"{path} isn't on the page"
    for name in ApiSettings.model_fields:
        assert f"`{name}`" in page, f"the setting {name} isn't on the page"
    sources = [*(checkout / "plush_api" / "routes").glob("*.py"), checkout / "plush_api" / "gate.py"]
    codes = {code for path in sources for code in re.findall(r'Problem\(\s*\d+,\s*"(\w+)"', path.read_text())}
    assert len(codes) > 15
    assert not [code for code in codes if f"`{code}`" not in page]
