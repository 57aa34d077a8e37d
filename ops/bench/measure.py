"""Run scenarios and keep their results: ``python -m ops.bench.measure [SCENARIO...]``; see ``ops/bench/run``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module

from ops.bench import machine, report_page, results
from ops.bench.drive import DriverFailed
from ops.bench.scenarios import MODULES, SCENARIOS, Settings
from ops.bench.tools import MeasurementFailed
from plush_worker.errors import PlushError


def main() -> int:
    """Measure what the arguments name; exit code 1 when a target was missed."""
    names, settings = settings_of(sys.argv[1:])
    missed = [name for name in names if not _try(name, settings)]
    report_page.write()
    return 1 if missed else 0


def _try(name: str, settings: Settings) -> bool:
    """Like run; a scenario that can't be measured is missed, keeps its earlier result, and the next one goes on."""
    try:
        return run(name, settings)
    except (PlushError, MeasurementFailed, DriverFailed) as error:
        print(f"{name}: FAILED: {error}", file=sys.stderr, flush=True)
        return False


def settings_of(words: Sequence[str]) -> tuple[list[str], Settings]:
    """The scenarios that the arguments name, and their settings. Bad words end the process with 2, as argparse does."""
    parser = argparse.ArgumentParser(prog="ops/bench/run", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument(
        "--hosts", type=_counts, default=(), metavar="N[,N...]", help="how many, not the scenario's own"
    )
    parser.add_argument("--tools", default="", metavar="NAME[,NAME...]", help="only tools whose names begin so")
    parser.add_argument(
        "--on", default="testbed", choices=("testbed", "loopback"), help="where wide-area scenarios find their hosts"
    )
    parser.add_argument("--rtt", default="planetlab", metavar="NAME|FILE", help="round trips of the testbed")
    parser.add_argument("--seed", type=int, default=1, help="draws the testbed's hosts")
    given = parser.parse_args(words)
    unknown = set(given.names) - MODULES.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    settings = Settings(
        given.repetitions,
        given.hosts[0] if given.hosts else 64,
        given.hosts,
        tuple(filter(None, given.tools.split(","))),
        given.on,
        given.rtt,
        given.seed,
    )
    return given.names or list(MODULES), settings


def _counts(text: str) -> tuple[int, ...]:
    """``16,64`` as numbers. Raises argparse.ArgumentTypeError."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text}: whole numbers of at least 1, with commas between")
    return tuple(int(word) for word in words)


def run(name: str, settings: Settings) -> bool:
    """Run one scenario, store its result, print it; whether all its targets were met."""
    import_module(MODULES[name])
    chosen = SCENARIOS[name]
    print(f"{name}: {chosen.title}", flush=True)
    before = machine.machine()
    began = time.monotonic()
    outcome = chosen.measure(settings)
    head = {
        "title": chosen.title,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_s": round(time.monotonic() - began, 1),
        "repetitions": settings.repetitions,
        "machine": before,
        "versions": machine.versions(),
    }
    results.store(name, head, outcome)
    for row in outcome.rows:
        print(f"  {_row_text(row)}", flush=True)
    for target in outcome.targets:
        measured = target.note if target.measured is None else f"{target.measured:g}"
        print(f"  {'met   ' if target.met else 'MISSED'} {target.text} {target.limit:g}: {measured}", flush=True)
    return all(target.met for target in outcome.targets)


def _row_text(row: results.Row) -> str:
    name = ", ".join(filter(None, (row.tool, row.column, row.name)))
    spread = f" ({min(row.values):.4g} to {max(row.values):.4g})" if len(row.values) > 1 else ""
    figure = f"{row.median:.4g} {row.unit}{spread}" if row.values else "no value"
    return f"{name}: {figure}{f'; FAILED: {row.failed}' if row.failed else ''}"


if __name__ == "__main__":
    sys.exit(main())
