"""The testbed's model of the network: delays, jitter, loss, cuts and narrow links, without any clock."""

from __future__ import annotations

import heapq
import math
import random
from array import array
from dataclasses import replace

import pytest

from ops.testbed.links import DROPPED, QUEUE_S, Links, PathSettings

DELAY_S = 0.05
MBIT = 8.0  # a byte takes a microsecond
SMALL = (1000, 1000)
TSO = (16_000, 1000)  # 16 segments


def settings(host_count: int = 3, delay_s: float = DELAY_S) -> PathSettings:
    return PathSettings(array("f", [delay_s] * host_count**2))


def links(host_count: int = 3, delay_s: float = DELAY_S, **changed: float) -> Links:
    return Links(host_count, replace(settings(host_count, delay_s), **changed))  # type: ignore[arg-type]


def through(net: Links, sent: list[tuple[float, int, int, tuple[int, int]]]) -> list[tuple[float, int]]:
    """(time, place in ``sent``) of every packet that comes through, in the order in which they do."""
    under_way: list[tuple[float, int]] = []
    for place, (now_s, source, target, sizes) in enumerate(sent):
        due_s = net.send(now_s, source, target, sizes)
        if due_s != DROPPED:
            heapq.heappush(under_way, (due_s, place))
    arrived = []
    while under_way:
        due_s, place = heapq.heappop(under_way)
        done_s = net.arrive(due_s, *sent[place][1:])
        if done_s != DROPPED:
            arrived.append((done_s, place))
    return sorted(arrived)


def test_each_direction_of_a_pair_has_its_own_delay() -> None:
    net = Links(2, PathSettings(array("f", [0, 0.25, 0.5, 0])))
    assert net.send(10.0, 0, 1, None) == 10.25
    assert net.send(10.0, 1, 0, None) == 10.5
    assert not net.rated


def test_a_changed_delay_lasts_until_the_matrix_is_asked_for_again() -> None:
    net = links()
    net.set_delay([0], [1, 2], 2.0)
    assert net.send(1.0, 0, 2, None) == 3.0
    assert net.send(1.0, 2, 0, None) == pytest.approx(1.05)  # the other direction kept its own
    net.set_delay([0], [1], None)
    assert net.send(5.0, 0, 1, None) == pytest.approx(5.05)


def test_a_packet_never_overtakes_when_the_delay_shrinks() -> None:
    net = links(delay_s=1.0)
    first_s = net.send(0.0, 0, 1, None)
    net.set_delay([0], [1], 0.0)
    assert net.send(0.1, 0, 1, None) == first_s == 1.0
    assert net.send(2.0, 0, 1, None) == 2.0


def test_a_cut_is_one_way_and_healed_pair_by_pair() -> None:
    net = links()
    net.cut([0], [1, 2])
    assert net.send(0.0, 0, 1, None) == net.send(0.0, 0, 2, None) == DROPPED
    assert net.send(0.0, 1, 0, None) != DROPPED
    assert (net.cut_count, net.cut_targets[0]) == (2, {1, 2})
    net.heal([0], [1])
    assert net.send(0.0, 0, 1, None) != DROPPED and net.send(0.0, 0, 2, None) == DROPPED


def test_an_uplink_sends_one_packet_after_the_other() -> None:
    net = links()
    net.set_rate([0], MBIT, 0)
    sent_s = [net.send(0.0, 0, 1 + index % 2, SMALL) for index in range(100)]
    assert sent_s == pytest.approx([DELAY_S + 0.001 * (index + 1) for index in range(100)])


def test_a_downlink_is_shared_by_all_who_send_to_it_and_the_far_do_not_block_the_near() -> None:
    net = links()
    net.set_rate([2], 0, MBIT)
    net.set_delay([1], [2], 1.0)
    sent = [(0.0, 1, 2, SMALL)] * 10 + [(0.0, 0, 2, SMALL)] * 100
    arrived = through(net, sent)
    assert [place for _, place in arrived] == [*range(10, 110), *range(10)]
    near_s, far_s = [time_s for time_s, _ in arrived[:100]], [time_s for time_s, _ in arrived[100:]]
    assert near_s == pytest.approx([DELAY_S + 0.001 * (index + 1) for index in range(100)])
    assert far_s == pytest.approx([1.0 + 0.001 * (index + 1) for index in range(10)])


def test_rates_hold_at_both_ends_at_once() -> None:
    net = links(rate_mbit=MBIT)
    arrived = through(net, [(0.0, source, 2, TSO) for _ in range(20) for source in (0, 1)])
    first_s, last_s = arrived[0][0], arrived[-1][0]
    assert len(arrived) == 40
    assert (last_s - first_s) == pytest.approx(39 * 0.016, rel=0.01)  # two uplinks could have done it in half the time


def test_a_tso_packet_passes_both_links_segment_by_segment() -> None:
    net = links(rate_mbit=MBIT)
    whole = through(net, [(0.0, 0, 1, TSO)])[0][0]
    cut = through(net, [(10.0, 0, 1, SMALL)] * 16)[-1][0] - 10.0
    assert whole == pytest.approx(cut) == pytest.approx(DELAY_S + 0.017)


@pytest.mark.parametrize(("up_mbit", "down_mbit"), [(MBIT, 0), (0, MBIT), (MBIT, 10 * MBIT), (10 * MBIT, MBIT)])
def test_the_narrower_link_decides_how_long_a_tso_packet_takes(up_mbit: float, down_mbit: float) -> None:
    net = links()
    net.set_rate([0], up_mbit, 0)
    net.set_rate([1], 0, down_mbit)
    segment_at_the_other_s = 0.0001 if up_mbit and down_mbit else 0.0
    assert through(net, [(0.0, 0, 1, TSO)])[0][0] == pytest.approx(DELAY_S + 0.016 + segment_at_the_other_s)


def test_a_full_queue_drops_and_says_so_and_empties_in_time() -> None:
    net = links(rate_mbit=MBIT)
    taken = sum(net.send(0.0, 0, 1, TSO) != DROPPED for _ in range(100))
    assert taken * 0.016 == pytest.approx(QUEUE_S, abs=0.033)
    assert net.overflow_count == 100 - taken
    assert net.send(0.5, 0, 1, TSO) != DROPPED


def test_a_full_downlink_drops_too() -> None:
    net = links()
    net.set_rate([2], 0, MBIT)
    arrived = through(net, [(0.0, index % 2, 2, TSO) for index in range(200)])
    assert len(arrived) * 0.016 == pytest.approx(QUEUE_S, abs=0.033)
    assert net.overflow_count == 200 - len(arrived)


def test_a_fast_link_holds_no_more_than_its_bytes_and_a_slow_one_still_a_few_packets() -> None:
    fast, slow = links(rate_mbit=1000.0), links(rate_mbit=0.1)
    assert 240 < sum(fast.send(0.0, 0, 1, TSO) != DROPPED for _ in range(1000)) < 260  # 4 MB, not a second of it
    assert 16 < sum(slow.send(0.0, 0, 1, TSO) != DROPPED for _ in range(100)) < 20  # 256 KiB, though that is 21 s


def test_an_uplink_says_for_how_long_it_had_nothing_to_send() -> None:
    """A packet that was read late counts as late only for this time."""
    net = links()
    assert net.idle_s(3.0, 0) == math.inf
    net.set_rate([0], MBIT, 0)
    net.send(3.0, 0, 1, TSO)
    assert net.idle_s(3.01, 0) == 0.0
    assert net.idle_s(3.02, 0) == pytest.approx(0.004)
    net.set_rate([0], 0, 0)
    assert net.idle_s(3.02, 0) == math.inf


def test_what_is_queued_keeps_its_place_when_the_limit_is_lifted() -> None:
    net = links(rate_mbit=MBIT)
    queued = [net.arrive(net.send(0.0, 0, 1, TSO), 0, 1, TSO) for _ in range(10)]
    net.set_rate([0, 1], 0, 0)
    assert net.arrive(net.send(0.001, 0, 1, SMALL), 0, 1, SMALL) >= queued[-1]
    later_s = net.send(5.0, 0, 1, SMALL)
    assert net.arrive(later_s, 0, 1, SMALL) == later_s == pytest.approx(5.0 + DELAY_S)


def test_loss_and_jitter_come_from_the_seed_and_from_the_source_alone() -> None:
    def fates(seed: int, others: bool) -> list[float]:
        net, found = links(loss=0.2, jitter=0.5, seed=seed), []
        for index in range(300):
            found.append(net.send(float(index), 0, 1, None))
            if others:
                net.send(float(index), 2, 1, None)
        return found

    assert fates(1, False) == fates(1, True) != fates(2, False)
    assert 30 < fates(1, False).count(DROPPED) < 90


def test_jitter_stays_within_its_share_of_the_delay() -> None:
    net = links(delay_s=0.1, jitter=0.25)
    delays_s = [net.send(float(index), 0, 1, None) - index for index in range(500)]
    assert 0.0749 < min(delays_s) < 0.08 and 0.12 < max(delays_s) < 0.1251
    net.set_jitter(0.0)
    assert net.send(1000.0, 0, 1, None) == pytest.approx(1000.1)


def test_loss_of_a_pair_is_set_and_taken_back() -> None:
    net = links()
    net.set_loss([0], [1], 1.0)
    assert net.send(0.0, 0, 1, None) == DROPPED and net.send(0.0, 0, 2, None) != DROPPED
    net.set_loss([0], [1], None)
    assert net.send(0.0, 0, 1, None) != DROPPED
    assert net.lost_count == 1


def test_a_pair_of_a_lossy_network_can_be_free_of_loss() -> None:
    net = links(loss=1.0)
    net.set_loss([0], [1], 0.0)
    assert net.send(0.0, 0, 1, None) != DROPPED and net.send(0.0, 0, 2, None) == DROPPED


def test_a_host_that_comes_back_does_not_wait_for_what_it_sent_before() -> None:
    net = links(rate_mbit=MBIT)
    for _ in range(50):
        net.arrive(net.send(0.0, 0, 1, TSO), 0, 1, TSO)
    net.forget(0)
    net.forget(1)
    due_s = net.send(0.1, 0, 1, SMALL)
    assert net.arrive(due_s, 0, 1, SMALL) == pytest.approx(0.1 + DELAY_S + 0.002)


@pytest.mark.parametrize("seed", range(5))
def test_packets_of_a_pair_arrive_in_order_whatever_changes(seed: int) -> None:
    pick = random.Random(seed)
    net = links(4, jitter=0.9, loss=0.05, rate_mbit=MBIT)
    sent, under_way, done = 0, list[tuple[float, int, int, int, tuple[int, int]]](), dict[tuple[int, int], list[int]]()
    last_s = dict[tuple[int, int], float]()
    for step in range(1500):
        now_s = step * 0.002
        source, target = pick.sample(range(4), 2)
        if step % 40 == 0:
            net.set_delay([source], [target], pick.choice([None, 0.0, 0.001, 0.2]))
            net.set_rate([source, target], pick.choice([0, 1.0, MBIT, 100.0]), pick.choice([0, 1.0, MBIT, 100.0]))
        sizes = pick.choice([SMALL, TSO, (52, 52)])
        due_s = net.send(now_s, source, target, sizes)
        if due_s != DROPPED:
            sent += 1
            heapq.heappush(under_way, (due_s, sent, source, target, sizes))
        while under_way and under_way[0][0] <= now_s:
            due_s, number, source, target, sizes = heapq.heappop(under_way)
            done_s = net.arrive(due_s, source, target, sizes)
            if done_s != DROPPED:
                assert done_s >= max(due_s - 1e-9, last_s.get((source, target), 0.0))
                last_s[source, target] = done_s
                done.setdefault((source, target), []).append(number)
    assert len(done) == 12
    assert all(numbers == sorted(numbers) for numbers in done.values())


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"loss": 1.5}, "loss 1.5 is a share"),
        ({"jitter": -0.1}, "jitter -0.1 is a share"),
        ({"rate_mbit": -3.0}, "a rate of -3.0 Mbit/s"),
        ({"rate_mbit": float("nan")}, "a rate of nan Mbit/s"),
    ],
)
def test_settings_out_of_bounds(changed: dict[str, float], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        links(**changed)


def test_a_matrix_of_another_size_and_a_delay_out_of_bounds() -> None:
    with pytest.raises(ValueError, match="4 delays for 3 hosts, not 9"):
        Links(3, settings(2))
    with pytest.raises(ValueError, match=r"a delay of -1 s is not within"):
        links().set_delay([0], [1], -1)
