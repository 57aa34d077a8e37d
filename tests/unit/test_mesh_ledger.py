"""StreamLedger against a model that keeps one offset for each host."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plush_worker.mesh.ledger import StreamLedger
from plush_worker.node import hostset

PIECES = [3, 5, 2, 7]  # every host cuts its stream alike


@given(st.lists(st.tuples(st.sets(st.integers(0, 9), min_size=1), st.integers(0, len(PIECES) - 1)), max_size=60))
def test_groups_agree_with_one_offset_a_host(steps: list[tuple[set[int], int]]) -> None:
    ledger = StreamLedger()
    at = dict.fromkeys(range(10), 0)
    ended: set[int] = set()
    for hosts, piece in steps:
        offset, length = sum(PIECES[:piece]), PIECES[piece]
        end = piece == len(PIECES) - 1
        accepted, ahead = ledger.advance(hostset.of(hosts), offset, length, end)
        assert set(hostset.members(accepted)) == {h for h in hosts if at[h] == offset and h not in ended}
        assert set(hostset.members(ahead)) == {h for h in hosts if at[h] < offset and h not in ended}
        for host in hostset.members(accepted):
            at[host] = offset + length
            if end:
                ended.add(host)
        ledger.check_invariants()
    everyone = hostset.of(range(10))
    assert {h: o for o, group in ledger.offsets(everyone) for h in hostset.members(group)} == at
    assert set(hostset.members(ledger.ended)) == ended


def test_an_empty_stream_ends_at_zero() -> None:
    ledger = StreamLedger()
    assert ledger.advance(0b11, 0, 0, True) == (0b11, 0)
    assert ledger.ended == 0b11
    assert ledger.advance(0b11, 0, 0, True) == (0, 0), "a resent end is taken in twice"
