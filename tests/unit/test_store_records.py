"""Addresses, keys, scripts and records of the store, without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker import store
from plush_worker.store import keys, limits, records, scripts
from plush_worker.store.address import Address, parse_url
from plush_worker.store.errors import BadStoreURL, Fenced, NoSuchRun, StoreError, StoreFull, TooLarge

FOLDER = Path(store.__file__).parent
TEXT = st.text(max_size=20)


def shape(address: Address) -> tuple[object, ...]:
    return tuple(getattr(address, name) for name in Address.__slots__)


@given(user=TEXT, password=TEXT, db=st.integers(0, 99), port=st.integers(1, 65535), host=st.sampled_from(["h", "::1"]))
def test_an_address_survives_its_url(user: str, password: str, db: int, port: int, host: str) -> None:
    for address in (
        Address(host=host, port=port, db=db, user=user, password=password),
        Address(host=host, port=port, db=db, user=user, password=password, tls=True),
        Address(path="/run/x @%?#/s", db=db, user=user, password=password),
    ):
        assert shape(parse_url(address.url())) == shape(address)
        assert shape(parse_url(address.celery_url())) == shape(address)


def test_urls_as_people_write_them() -> None:
    assert shape(parse_url("redis://localhost")) == shape(Address(host="localhost"))
    assert shape(parse_url("redis://:p%40ss@h:1/2")) == shape(Address(host="h", port=1, db=2, password="p@ss"))
    assert shape(parse_url("redis://h/?db=3")) == shape(Address(host="h", db=3))
    assert shape(parse_url("unix:///tmp/s?db=4")) == shape(Address(path="/tmp/s", db=4))
    assert shape(parse_url("unix://:pw@/tmp/s")) == shape(Address(path="/tmp/s", password="pw"))


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:6379", "http://h", "redis://", "redis://h:0", "redis://h:x", "redis://h/x", "redis://:pw@"),
        *("unix://tmp/s", "redis://:%zz@h", "redis://h?db=-1"),
    ],
)
def test_what_is_no_url_is_refused_with_the_form_it_should_have(url: str) -> None:
    with pytest.raises(BadStoreURL, match=r"expected redis://|hexadecimal"):
        parse_url(url)


@given(TEXT)
def test_a_password_is_never_shown(end: str) -> None:
    password = f"s3cret{end}"
    address = Address(host="h", password=password)
    assert str(address) == "redis://h:6379/0"
    with pytest.raises(BadStoreURL) as caught:
        parse_url(address.url().replace(":6379", ":0"))
    assert "h:0" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    for wrong in (f"redis:/{password}@h", f"http://{password}@h", f"redis//:{password}@h"):
        with pytest.raises(BadStoreURL) as caught:
            parse_url(wrong)
        assert "s3cret" not in str(caught.value)


def test_every_script_is_used_and_every_used_one_is_there() -> None:
    source = "\n".join(path.read_text() for path in FOLDER.glob("*.py"))
    used = set(re.findall(r'(?:\.run|_run)\(\s*"([a-z_]+)"', source))
    assert used == set(scripts.names())
    for name in used:
        assert scripts.text(name).startswith("-- Stands before every script")


def test_every_key_begins_with_the_prefix_and_no_two_are_alike() -> None:
    other = ("subtree", "subtree_family", "all_of_run")
    made = [f("x") for name, f in vars(keys).items() if callable(f) and name not in other]
    made += [keys.subtree("x", 1), keys.STORE, keys.SYNC, keys.WORKERS, keys.MESHES, keys.MESH_IDS, keys.RUNS]
    assert len(set(made)) == len(made)
    assert all(key.startswith("plush:") for key in made)
    assert keys.subtree("x", 1) == f"{keys.subtree_family()}x:1" == keys.subtree("x", "") + "1"
    of_run = {f("x") for name, f in vars(keys).items() if name.startswith("run")}
    assert set(keys.all_of_run("x")) == of_run, "remove_run would leave some of a run's keys behind"


def test_refusals_of_the_server_are_told_apart() -> None:
    assert isinstance(scripts.refusal("PLUSH-FENCED term 3", "appending"), Fenced)
    assert isinstance(scripts.refusal("PLUSH-NO-RUN gone", "appending"), NoSuchRun)
    assert str(scripts.refusal("PLUSH-NO-RUN gone", "appending")) == "appending: gone"
    full = scripts.refusal("OOM command not allowed", "storing run r1")
    assert isinstance(full, StoreFull) and "storing run r1" in str(full)
    assert type(scripts.refusal("ERR what", "x")) is StoreError


def test_events_are_limited_and_need_a_type() -> None:
    assert json.loads(records.encode_event({"type": "x", "text": "\udcff"})) == {"type": "x", "text": "\udcff"}
    with pytest.raises(TooLarge, match="event x has"):
        records.encode_event({"type": "x", "text": "x" * limits.MAX_EVENT_BYTES})
    with pytest.raises(ValueError, match="needs a type"):
        records.encode_event({})


@given(st.dictionaries(st.text(st.characters(codec="ascii"), max_size=9), st.text() | st.integers(), max_size=5))
def test_fields_come_back_as_text(fields: dict[str, str | int]) -> None:
    flat = [value if isinstance(value, bytes) else value.encode() for value in records.encode_fields(fields)]
    assert records.decode_pairs(flat) == {name: str(value) for name, value in fields.items()}


def test_a_time_to_live_is_at_least_a_millisecond() -> None:
    assert [records.milliseconds(s) for s in (0, 0.0001, 0.05, 6)] == [1, 1, 50, 6000]
