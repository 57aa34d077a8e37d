"""What waits in the testbed's forwarder, and how its own lateness is counted."""

from __future__ import annotations

import random

import pytest

from ops.testbed.delay_queue import SLOT_S, DelayQueue
from ops.testbed.lag import Lag, LagHistogram


def taken(queue: DelayQueue[int], now_s: float) -> list[int]:
    return [item for _, items in queue.take(now_s) for item in items]


def test_items_come_when_due_and_not_before() -> None:
    queue = DelayQueue[int]()
    for number, due_s in enumerate([0.3, 0.1, 0.2]):
        queue.put(due_s, number)
    assert queue.next_s() == pytest.approx(0.1, abs=SLOT_S)
    assert taken(queue, 0.1 - SLOT_S) == []
    assert taken(queue, 0.2) == [1, 2]
    assert taken(queue, 9.0) == [0]
    assert queue.next_s() is None


def test_equal_times_keep_their_order_and_random_ones_are_sorted() -> None:
    pick = random.Random(1)
    queue = DelayQueue[tuple[float, int]]()
    items = [(pick.choice([1.0, 1.00001, pick.random()]), number) for number in range(500)]
    for item in items:
        queue.put(item[0], item)
    came = [item for _, slot in queue.take(2.0) for item in slot]
    assert came == sorted(items, key=lambda item: int(item[0] / SLOT_S))


def test_an_item_put_while_others_are_taken_comes_after_them_if_it_is_due() -> None:
    queue = DelayQueue[int]()
    queue.put(1.0, 1)
    queue.put(1.0, 2)
    came = []
    for slot_s, items in queue.take(1.5):
        for item in items:
            came.append(item)
            if item == 1:
                queue.put(slot_s, 3)
                queue.put(5.0, 4)
    assert came == [1, 2, 3]


def test_a_time_long_past_is_taken_at_once() -> None:
    queue = DelayQueue[int]()
    queue.put(-5.0, 1)
    queue.put(0.0, 2)
    assert taken(queue, 0.0) == [1, 2]


def test_lag_is_told_by_the_upper_edge_of_its_bin() -> None:
    lag = LagHistogram()
    for late_ms in [0.25] * 98 + [7.3, 42.0]:
        lag.record(late_ms / 1000)
    assert lag.summary() == Lag(pytest.approx(0.3), pytest.approx(7.4), pytest.approx(42.0), 100)


def test_lag_of_nothing_of_one_and_of_ages() -> None:
    lag = LagHistogram()
    assert lag.summary() == Lag(0, 0, 0, 0)
    lag.record(0.0)
    assert lag.summary() == Lag(0, 0, 0, 1)
    lag.record(3600.0)
    assert lag.summary().max_ms == 3_600_000 and lag.summary().p99_ms == pytest.approx(1000.1)
    lag.reset()
    assert lag.summary() == Lag(0, 0, 0, 0)
