"""When a run without a coordinator is sent again."""

from __future__ import annotations

from plush_worker.reconcile import OrphanWatch


def test_a_run_is_sent_again_only_after_the_whole_patience() -> None:
    watch = OrphanWatch(12.0)
    assert watch.look(["a"], 0.0) == []
    assert watch.look(["a", "b"], 11.9) == []
    assert watch.look(["a", "b"], 12.0) == ["a"]
    assert watch.look(["a", "b"], 13.0) == [], "sent twice"
    assert watch.look(["a", "b"], 24.0) == ["a", "b"]


def test_a_coordinator_seen_once_begins_the_watch_anew() -> None:
    watch = OrphanWatch(12.0)
    watch.look(["a"], 0.0)
    watch.look([], 6.0)
    assert watch.look(["a"], 12.0) == []
    assert watch.look(["a"], 24.0) == ["a"]


def test_an_outage_of_the_store_is_not_the_death_of_all() -> None:
    watch = OrphanWatch(12.0)
    watch.look(["a"], 0.0)
    watch.forget()
    assert watch.look(["a"], 60.0) == []
