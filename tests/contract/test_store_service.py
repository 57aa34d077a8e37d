"""What only the API keeps in the store: tokens, idempotency keys, open runs, pages of runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from plush_worker.model import RunSpec
from plush_worker.store import idempotency, run_pages, tokens
from plush_worker.store.errors import TooLarge
from plush_worker.store.idempotency import TooManyRuns
from plush_worker.store.service import ServiceStore
from plush_worker.store.tokens import new_token

from .conftest import Server, until


def run(server: Server, scenario: Callable[[ServiceStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = await ServiceStore.connect(server.url)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


def spec(run_id: str, owner: str = "ada", **changes: object) -> RunSpec:
    values = {"run_id": run_id, "owner": owner, "command": "true", "hosts": ({"name": "a", "address": "a"},)}
    return RunSpec(**{**values, **changes})  # type: ignore[arg-type]


async def create(store: ServiceStore, *ids: str, owner: str = "ada") -> None:
    for run_id in ids:
        await store.create_run(spec(run_id, owner))


# Tokens


def test_a_token_is_found_and_its_secret_is_stored_nowhere(server: Server) -> None:
    token = new_token()

    async def scenario(store: ServiceStore) -> None:
        assert await store.find_token(token.token_id) is None
        assert await store.create_token(token, owner="ada", scopes=("run",), slices=("lab", "b"), name="laptop")
        found = await store.find_token(token.token_id)
        assert found is not None
        record, now_s = found
        assert (record.owner, record.scopes, record.slices, record.name) == ("ada", ("run",), ("lab", "b"), "laptop")
        assert record.accepts(token.secret) and not record.expired(now_s)
        assert abs(record.created_at - now_s) < 10

    run(server, scenario)
    for key in server.call("KEYS", "*"):
        kind = server.call("TYPE", key).decode()
        values = server.call(*{"hash": ("HGETALL", key), "zset": ("ZRANGE", key, 0, -1)}.get(kind, ("GET", key)))
        assert token.secret not in str(values), key


def test_the_use_of_a_token_is_noted_coarsely(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(store: ServiceStore) -> None:
        token = new_token()
        await store.create_token(token, owner="ada", scopes=("read",), slices=("*",))
        await store.find_token(token.token_id)
        (first,) = await store.tokens()
        assert first.last_used_at > 0
        await asyncio.sleep(0.002)
        await store.find_token(token.token_id)
        assert (await store.tokens())[0].last_used_at == first.last_used_at, "each request would be a write"
        monkeypatch.setattr(tokens, "TOUCH_EVERY_S", 0.001)
        await store.find_token(token.token_id)
        assert (await store.tokens())[0].last_used_at > first.last_used_at

    run(server, scenario)


def test_tokens_are_listed_without_their_digests_and_a_revoked_one_is_gone(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        one, two = new_token(), new_token()
        for token in (one, two):
            await store.create_token(token, owner="ada", scopes=("read",), slices=("*",))
            await asyncio.sleep(0.002)
        assert [(t.token_id, t.digest) for t in await store.tokens()] == [(one.token_id, ""), (two.token_id, "")]
        assert await store.revoke_token(one.token_id)
        assert not await store.revoke_token(one.token_id)
        assert await store.find_token(one.token_id) is None
        assert [t.token_id for t in await store.tokens()] == [two.token_id]

    run(server, scenario)


def test_a_token_expires_by_the_clock_of_redis_and_is_forgotten_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_KEPT_EXPIRED_S", 0.2)

    async def scenario(store: ServiceStore) -> None:
        token = new_token()
        await store.create_token(token, owner="ada", scopes=("read",), slices=("*",), expires_s=0.05)

        async def expired() -> bool:
            found = await store.find_token(token.token_id)
            assert found is not None
            return found[0].expired(found[1])

        assert not await expired()
        await until(expired)
        assert len(await store.tokens()) == 1, "an expired token is listed for a while"

        async def forgotten() -> bool:
            return await store.tokens() == []

        await until(forgotten)

    run(server, scenario)


def test_the_same_token_is_stored_twice_but_no_other_under_its_id(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        token = new_token()
        given = {"owner": "ada", "scopes": ("admin",), "slices": ("*",)}
        assert await store.create_token(token, **given)  # type: ignore[arg-type]
        assert await store.create_token(token, **given)  # type: ignore[arg-type]
        other = token._replace(secret=new_token().secret)
        assert not await store.create_token(other, **given)  # type: ignore[arg-type]
        found = await store.find_token(token.token_id)
        assert found is not None and found[0].accepts(token.secret)

    run(server, scenario)


def test_there_are_only_so_many_tokens(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_TOKENS", 1)

    async def scenario(store: ServiceStore) -> None:
        assert await store.create_token(new_token(), owner="ada", scopes=("read",), slices=("*",))
        with pytest.raises(TooLarge, match="revoke some"):
            await store.create_token(new_token(), owner="ada", scopes=("read",), slices=("*",))

    run(server, scenario)


# Submissions


def test_an_idempotency_key_stands_for_what_came_first(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        assert await store.claimed("ada", "k") is None
        first = await store.claim("ada", "k", "body", "r1")
        assert (first.run_id, first.body, first.stored) == ("r1", "body", False)
        assert await store.claim("ada", "k", "other", "r2") == first
        await store.settle("ada", "k")
        again = await store.claimed("ada", "k")
        assert again is not None and again.stored and again.run_id == "r1"
        assert await store.claimed("bob", "k") is None, "another owner's key is another key"
        assert (await store.claim("bob", "k", "b", "r3")).run_id == "r3"

    run(server, scenario)


def test_fifty_claims_at_once_agree(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        claims = await asyncio.gather(*(store.claim("ada", "k", "body", f"r{n}") for n in range(50)))
        assert len({claim.run_id for claim in claims}) == 1

    run(server, scenario)


def test_a_key_is_forgotten_in_time_and_settling_doesnt_bring_it_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "KEPT_S", 0.05)

    async def scenario(store: ServiceStore) -> None:
        await store.claim("ada", "k", "body", "r1")

        async def forgotten() -> bool:
            return await store.claimed("ada", "k") is None

        await until(forgotten)
        await store.settle("ada", "k")
        assert await store.claimed("ada", "k") is None

    run(server, scenario)
    assert server.call("KEYS", "plush:idempotency:*") == [], "a key that nobody removes any more"


def test_an_owner_has_only_so_many_open_runs_and_ended_ones_dont_count(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        for n in range(3):
            assert await store.admit_run("ada", f"r{n}", 3) == n + 1
            await create(store, f"r{n}")
        assert await store.admit_run("ada", "r1", 3) == 3, "the same run again"
        with pytest.raises(TooManyRuns, match="ada has 3 open runs"):
            await store.admit_run("ada", "r3", 3)
        assert await store.admit_run("bob", "r4", 3) == 1
        await store.set_run_fields("r0", finished="1")
        assert await store.admit_run("ada", "r3", 3) == 3
        await store.remove_run("r1")
        with pytest.raises(TooManyRuns):  # r1 may be about to be stored
            await store.admit_run("ada", "r5", 3)

    run(server, scenario)


def test_a_run_that_was_never_stored_doesnt_count_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "_UNSTORED_S", 0.01)

    async def scenario(store: ServiceStore) -> None:
        await store.admit_run("ada", "lost", 1)

        async def admitted() -> bool:
            try:
                return await store.admit_run("ada", "next", 1) == 1
            except TooManyRuns:
                return False

        await until(admitted)

    run(server, scenario)


def test_submissions_at_once_never_pass_the_limit(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        answers = await asyncio.gather(
            *(store.admit_run("ada", f"r{n}", 10) for n in range(40)), return_exceptions=True
        )
        assert sum(isinstance(answer, int) for answer in answers) == 10

    run(server, scenario)


# Pages of runs


def test_pages_hold_every_run_once_newest_first(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_pages, "SCAN_RUNS", 7)

    async def scenario(store: ServiceStore) -> None:
        await asyncio.gather(*(create(store, f"r{n:02}") for n in range(40)))  # many in one millisecond
        expected = [run["run_id"] for run in await store.list_runs(100)]
        seen: list[str] = []
        after = ("", "")
        while True:
            page = await store.find_runs(after=after, limit=5)
            seen += [run["run_id"] for run in page.runs]
            after = (page.next_score, page.next_id)
            if not page.next_id:
                break
        assert seen == expected

    run(server, scenario)


def test_pages_are_of_an_owner_a_name_and_an_end(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        await create(store, "a1", "a2", "a3")
        await create(store, "b1", owner="bob")
        await store.set_run_fields("a1", finished="1", state="failed", name="x")
        await store.set_run_fields("a2", finished="2", state="succeeded")

        async def ids(**wanted: str) -> set[str]:
            return {run["run_id"] for run in (await store.find_runs(**wanted)).runs}

        assert await ids() == {"a1", "a2", "a3", "b1"}
        assert await ids(owner="ada") == {"a1", "a2", "a3"}
        assert await ids(owner="ada", end="open") == {"a3"}
        assert await ids(end="ended") == {"a1", "a2"}
        assert await ids(end="failed") == {"a1"}
        assert await ids(name="x") == {"a1"}
        assert await ids(owner="bob", name="x") == set()

    run(server, scenario)


def test_a_page_is_found_behind_a_run_that_was_removed(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        for n in range(4):
            await create(store, f"r{n}")
            await asyncio.sleep(0.002)
        page = await store.find_runs(limit=2)
        await store.remove_run(page.next_id)
        rest = await store.find_runs(after=(page.next_score, page.next_id), limit=10)
        assert [r["run_id"] for r in rest.runs] == ["r1", "r0"]

    run(server, scenario)


def test_the_head_of_a_run_has_its_short_fields_only(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        assert await store.run_head("r1") is None
        await create(store, "r1")
        await store.set_run_fields("r1", hosts="x" * 10_000)
        head = await store.run_head("r1")
        assert head is not None and head["owner"] == "ada" and "hosts" not in head

    run(server, scenario)


def test_raw_events_are_what_was_appended(server: Server) -> None:
    async def scenario(store: ServiceStore) -> None:
        await create(store, "r1")
        await store.append("r1", {"type": "x", "n": 1})
        assert await store.raw_events("gone", "0", 0, 10) == []
        (_, first), (event_id, second) = await store.raw_events("r1", "0", 0, 10)
        assert (first, second) == (b'{"type":"run_submitted"}', b'{"type":"x","n":1}')
        assert await store.raw_events("r1", event_id, 0, 10) == []

    run(server, scenario)
