"""Token buckets: what one may ask at once and in the long run, and that they are bounded."""

from __future__ import annotations

from plush_api.rates import Buckets


def test_a_burst_passes_and_the_next_is_told_when_it_may() -> None:
    buckets = Buckets(rate_per_s=2.0, burst=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a", 0.0) == 0.5
    assert buckets.take("a", 0.25) == 0.25, "a refused one must not cost anything"
    assert buckets.take("a", 0.5) == 0.0


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    buckets = Buckets(rate_per_s=100.0, burst=2)
    buckets.take("a", 0.0)
    assert [buckets.take("a", 3600.0) for _ in range(2)] == [0.0, 0.0]
    assert buckets.take("a", 3600.0) > 0


def test_one_who_asks_too_often_costs_the_others_nothing() -> None:
    buckets = Buckets(rate_per_s=1.0, burst=1)
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) > 0
    assert buckets.take("b", 0.0) == 0.0


def test_looking_takes_nothing() -> None:
    buckets = Buckets(rate_per_s=1.0, burst=1)
    assert buckets.wait_s("a", 0.0) == 0.0
    assert buckets.take("a", 0.0) == 0.0
    assert buckets.wait_s("a", 0.0) == 1.0


def test_only_so_many_are_remembered() -> None:
    buckets = Buckets(rate_per_s=1.0, burst=1, max_keys=2)
    for key in ("a", "b", "c"):
        buckets.take(key, 0.0)
    assert buckets.take("c", 0.0) > 0
    assert buckets.take("a", 0.0) == 0.0, "the oldest is forgotten"
