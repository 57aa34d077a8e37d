"""The ops of a run: what stands in the record of each, from its spec and a decision of ``run_state.py``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plush_worker.model import OpRecord, RunSpec
from plush_worker.node.hostset import to_text
from plush_worker.run_parts import DEPLOY, FETCH
from plush_worker.run_state import OrderOp, OrderSignal, is_plain


def build_op(spec: RunSpec, mesh: str, order: OrderOp, numbers: Sequence[int]) -> OpRecord:
    """The op that carries ``order`` out, without its number. ``numbers`` are the hosts' in the order of the spec; an op
    of a plain run needs none."""
    common: dict[str, Any] = {"op": 0, "run_id": spec.run_id, "mesh": mesh, "kind": order.kind}
    common |= {"hosts": to_text(order.hosts), "ttl_s": spec.ttl_s, "timeout_s": spec.timeout_s}
    if is_plain(spec):
        return OpRecord(**common, command=spec.command, env={**spec.env, "PLUSH_RUN": spec.run_id})
    common |= {"name": order.name, "ranks": _ranks(order.hosts, numbers)}
    if order.kind == DEPLOY:
        return OpRecord(**common, files=spec.files)
    if order.kind == FETCH:
        return OpRecord(**common, paths=spec.fetch)
    process: dict[str, Any] = next((p for p in spec.processes if p["name"] == order.name), {"command": spec.command})
    about = {"PLUSH_RUN": spec.run_id, "PLUSH_HOSTS_COUNT": str(len(spec.hosts))}
    common |= {"timeout_s": process.get("timeout_s", spec.timeout_s)}
    return OpRecord(
        **common,
        command=process["command"],
        env={**spec.env, **process.get("env", {}), **about},
        cwd=process.get("cwd", ""),
        stdin=process.get("stdin", ""),
    )


def build_signal(spec: RunSpec, mesh: str, order: OrderSignal) -> OpRecord:
    """The same for a signal."""
    return OpRecord(
        op=0,
        run_id=spec.run_id,
        mesh=mesh,
        kind="signal",
        hosts=to_text(order.hosts),
        ttl_s=spec.ttl_s,
        ref=order.ref,
        signal=order.signal,
        grace_ms=order.grace_ms,
    )


def _ranks(hosts: int, numbers: Sequence[int]) -> dict[str, int]:
    """host number (as text) -> its index in the run, the first where a host is named twice."""
    ranks: dict[str, int] = {}
    for index, number in enumerate(numbers):
        if hosts >> number & 1:
            ranks.setdefault(str(number), index)
    return ranks
