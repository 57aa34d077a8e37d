"""Tokens: their form, their secrets, what scopes include, what slices allow."""

from __future__ import annotations

import pytest

from plush_api.auth import Principal
from plush_worker.store.tokens import TokenRecord, full_scopes, new_token, parse_token, secret_digest


def principal(**changes: object) -> Principal:
    given = {"token_id": "0" * 10, "owner": "ada", "scopes": frozenset({"read", "run"}), "slices": ("lab",)}
    return Principal(**{**given, **changes})  # type: ignore[arg-type]


def test_a_token_reads_back_and_no_two_are_alike() -> None:
    one, two = new_token(), new_token()
    assert parse_token(one.text()) == one
    assert one.token_id != two.token_id and one.secret != two.secret


@pytest.mark.parametrize("text", ["", "plush_", "plush_a_b", "plush_" + "0" * 10, "PLUSH_" + "0" * 10 + "_" + "0" * 48])
def test_what_is_no_token_is_none(text: str) -> None:
    assert parse_token(text) is None
    assert parse_token(new_token().text() + "0") is None
    assert parse_token(new_token().text() + "\n") is None


def test_a_record_accepts_its_own_secret_only() -> None:
    token = new_token()
    record = TokenRecord(token.token_id, "ada", ("read",), ("*",), digest=secret_digest(token.secret))
    assert record.accepts(token.secret)
    assert not record.accepts(new_token().secret)
    assert not TokenRecord(token.token_id, "ada", ("read",), ("*",)).accepts(token.secret), "a record without a digest"
    assert token.secret not in repr(record)


def test_a_token_expires_when_it_was_to() -> None:
    record = TokenRecord("i", "ada", (), (), expires_at=100.0)
    assert not record.expired(99.9)
    assert record.expired(100.0)
    assert not TokenRecord("i", "ada", (), ()).expired(1e12), "0 is never"


@pytest.mark.parametrize(
    ("given", "full"),
    [((), set()), (("read",), {"read"}), (("run",), {"read", "run"}), (("admin",), {"read", "run", "admin"})],
)
def test_a_scope_includes_the_lesser_ones(given: tuple[str, ...], full: set[str]) -> None:
    assert full_scopes(given) == full


def test_slices_are_allowed_by_name_and_a_run_without_one_uses_the_default() -> None:
    assert principal().may_use("lab")
    assert not principal().may_use("other")
    assert not principal().may_use(""), "hosts without a slice would be any host of the directory"
    assert principal(slices=("default",)).may_use("")
    assert principal(slices=("*",)).may_use("other")


def test_others_runs_are_seen_by_admins_only() -> None:
    assert principal().sees("ada")
    assert not principal().sees("bob")
    assert principal(scopes=frozenset({"admin"})).sees("bob")
