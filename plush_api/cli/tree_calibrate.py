"""``plush tree calibrate``: measure what links cost on this machine, for the simulator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plush_worker.trees.link_costs import MeasuredCosts

KEXES = ("default", "curve25519-sha256")  # always measured, after those that may fail


def calibrate(
    kexes: Annotated[
        list[str] | None,
        typer.Option("--kex", metavar="NAME", help="Also with this key exchange; may be given again."),
    ] = None,
    logins: Annotated[int, typer.Option(min=1, max=10_000, help="So many logins with ssh for each.")] = 20,
    costs: Annotated[
        str, typer.Option(metavar="FILE", help="Write to FILE; else where simulate and compare look.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Measure what links cost on this machine: logins to local sshd, and the start of the node program."""
    from pathlib import Path

    from plush_api.calibration import measure_costs
    from plush_worker import xdg
    from plush_worker.trees.link_costs import costs_path, write_costs

    from .app import say

    path = Path(costs) if costs else costs_path()
    if not costs:
        xdg.private_dir(path.parent)
    measured = measure_costs(list(dict.fromkeys((*(kexes or ()), *KEXES))), logins, say)
    write_costs(measured, path)
    if as_json:
        print(json.dumps(json.loads(path.read_text())))
    else:
        _print_costs(measured)
    say(f"written to {path}")


def _print_costs(measured: MeasuredCosts) -> None:
    from .ps import print_table

    columns = ("KEY EXCHANGE", "PARENT CPU", "WORKER CPU", "CHILD CPU: SSHD", "NODE PROGRAM", "WAIT")
    rows = [
        [
            kex,
            *(
                f"{seconds * 1000:.1f} ms"
                for seconds in (c.host_connect_s, c.worker_connect_s, c.server_s, c.node_s, c.wait_s)
            ),
        ]
        for kex, c in measured.key_exchanges.items()
    ]
    print_table(columns, rows)
