"""Faults of the testbed as data: how they are written, what undoes them, schedules of them, fixtures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.testbed import faults
from ops.testbed.errors import BadInput
from ops.testbed.faults import KINDS, Fault, Timed
from ops.testbed.fixtures import FIXTURES, make_fixture


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("power-off h5", Fault("power-off", (5,))),
        ("cut h3 h[4-6],h9", Fault("cut", (3,), (4, 5, 6, 9))),
        ("thaw h[1,3-4],h9", Fault("thaw", (1, 3, 4, 9))),
        ("cut h3 h7 --one-way", Fault("cut", (3,), (7,), both=False)),
        ("partition --one-way h[1-2]", Fault("partition", (1, 2), both=False)),
        ("loss h1 all 0.5", Fault("loss", (1,), tuple(range(10)), 0.5)),
        ("delay h1 h2 start", Fault("delay", (1,), (2,))),
        ("rate all 20", Fault("rate", tuple(range(10)), value=20.0)),
        ("heal-all", Fault("heal-all")),
    ],
)
def test_words_are_read(text: str, fault: Fault) -> None:
    """A fault that hits other hosts than were named spoils an experiment without a word."""
    assert faults.parse_words(text.split(), 10) == fault


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no fault ''"),
        ("explode h1", "there is no fault 'explode'; there are: power-off"),
        ("power-off", "should be power-off HOSTS"),
        ("power-off h1 h2", "should be power-off HOSTS"),
        ("cut h1", r"should be cut HOSTS OTHERS \[--one-way\]"),
        ("freeze h1 --one-way", "freeze has no --one-way"),
        ("freeze h10", "there is no host h10; there are h0 to h9"),
        ("freeze node1", "'node1' is none; they are called h0 to h9"),
        ("freeze h[1-", "hosts 'h"),
        ("loss h1 h2 1.5", "share 1.5 makes no sense"),
        ("delay h1 h2 -1", "makes no sense"),
        ("rate h1 fast", "mbit 'fast' is neither a number nor 'start'"),
    ],
)
def test_words_that_make_no_sense_are_refused(text: str, says: str) -> None:
    """With what would have been right."""
    with pytest.raises(BadInput, match=says):
        faults.parse_words(text.split(), 10)


@pytest.mark.parametrize("do", list(KINDS))
def test_a_fault_travels_whole(do: str) -> None:
    """What is lost on the way to the keeper is a fault that doesn't happen."""
    fault = Fault(do, (1, 2), (3,), 0.25, both=False)
    assert Fault.from_request(fault.request()) == fault
    assert Fault.from_request({"do": do}) == Fault(do)


@pytest.mark.parametrize("do", [do for do, kind in KINDS.items() if kind.undo])
def test_what_undoes_a_fault_hits_the_same_hosts(do: str) -> None:
    """Else a schedule would leave something broken, or mend what another fault broke."""
    fault = Fault(do, (1, 2), (3,), 0.25, both=False)
    undone = faults.undo(fault)
    assert undone is not None
    assert undone.do in KINDS
    assert (undone.hosts, undone.others, undone.value) == ((1, 2), (3,), None)


def test_a_schedule_in_order_with_the_ends() -> None:
    """for_s is an end at its time, wherever the entry stands in the file."""
    entries = [
        {"at_s": 5, "do": "loss", "hosts": "h1", "others": "h2", "share": 0.1},
        {"at_s": 1, "do": "freeze", "hosts": "h[3-4]", "for_s": 2.5},
        {"at_s": 2, "do": "cut", "hosts": "h1", "others": "h2", "both": False, "for_s": 10},
    ]
    cut = Fault("cut", (1,), (2,), both=False)
    assert faults.parse_schedule(entries, 10, "x.yaml") == [
        Timed(1.0, Fault("freeze", (3, 4))),
        Timed(2.0, cut),
        Timed(3.5, Fault("thaw", (3, 4))),
        Timed(5.0, Fault("loss", (1,), (2,), 0.1)),
        Timed(12.0, Fault("heal", (1,), (2,), both=False)),
    ]


def test_every_wrong_entry_is_named_at_once() -> None:
    """Nobody wants to learn of them one run at a time."""
    entries: list[Any] = [
        {"at_s": 1, "do": "freeze", "hosts": "h1"},
        "freeze",
        {"do": "freeze", "hosts": "h1"},
        {"at_s": 1, "do": "freeze", "hosts": "h1", "share": 1},
        {"at_s": -1, "do": "freeze", "hosts": "h1"},
        {"at_s": 1, "do": "heal-all", "for_s": 1},
        {"at_s": True, "do": "freeze", "hosts": "h1"},
    ]
    with pytest.raises(BadInput) as error:
        faults.parse_schedule(entries, 4, "x.yaml")
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"entry {number}" for number in (2, 3, 4, 5, 6, 7)]
    assert "freeze has no share" in lines[2]
    with pytest.raises(BadInput, match="a schedule is a list"):
        faults.parse_schedule({"do": "freeze"}, 4, "x.yaml")


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(1, 300))
def test_random_schedules_end_what_they_begin(seed: int, host_count: int, duration_s: float) -> None:
    """Whatever is drawn can be read, spares the controller, and is over when the time is."""
    entries = faults.random_schedule(seed, host_count, duration_s)
    assert entries == faults.random_schedule(seed, host_count, duration_s)
    timed = faults.parse_schedule(entries, host_count, "drawn")
    assert all(due_s <= duration_s + 0.01 for due_s, _ in timed)
    busy: set[int] = set()
    for _, fault in timed:
        hosts = {*fault.hosts, *fault.others}
        assert 0 not in hosts
        begins = faults.undo(fault) is not None and (fault.value is not None or not KINDS[fault.do].value)
        assert not (busy & hosts) if begins else hosts <= busy, "a host is in two faults at once"
        busy = busy | hosts if begins else busy - hosts
    assert not busy


@pytest.mark.parametrize("name", list(FIXTURES))
@pytest.mark.parametrize("more", [0, 1, 12])
def test_fixtures_are_made_of_what_there_is(name: str, more: int) -> None:
    """Every host and every fault that a fixture names exists, and the controller is never the one in trouble."""
    least, _ = FIXTURES[name]
    count = least + more
    fixture = make_fixture(name, count)
    for fault in fixture.network:
        faults.check(fault, count)
        assert 0 not in fault.hosts
    named = {*fixture.sshd_options, *fixture.host_fields}
    assert named
    assert named <= set(range(1, count))
    assert fixture.note
    with pytest.raises(BadInput, match=f"at least {least} hosts"):
        make_fixture(name, least - 1)


def test_the_gateway_is_the_only_way_in() -> None:
    """A private host that another one outside reaches is not private."""
    fixture = make_fixture("private-network", 9)
    (cut,) = fixture.network
    assert cut == Fault("cut", (5, 6, 7, 8), (0, 2, 3, 4))
    assert make_fixture("", 1).network == ()
    with pytest.raises(BadInput, match="there is no fixture 'moon'; there are: private-network"):
        make_fixture("moon", 9)
