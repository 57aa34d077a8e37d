"""When parts that died are started again."""

from __future__ import annotations

from plush_api.restarts import PAUSES_S, Restarts


def test_pauses_grow_and_deaths_in_quick_succession_end_it() -> None:
    restarts = Restarts(limit=5, within_s=60.0)
    pauses = [restarts.pause_s("api", float(second)) for second in range(6)]
    assert pauses == [*PAUSES_S, PAUSES_S[-1], None]


def test_deaths_of_long_ago_are_forgotten() -> None:
    restarts = Restarts(limit=2, within_s=10.0)
    assert [restarts.pause_s("api", now_s) for now_s in (0.0, 10.0, 20.0, 30.0)] == [PAUSES_S[0]] * 4
    assert [restarts.pause_s("api", now_s) for now_s in (31.0, 32.0)] == [PAUSES_S[1], None]


def test_each_part_is_counted_by_itself() -> None:
    restarts = Restarts(limit=1, within_s=10.0)
    assert restarts.pause_s("api", 0.0) == restarts.pause_s("flower", 0.0) == PAUSES_S[0]
    assert restarts.pause_s("api", 1.0) is None
