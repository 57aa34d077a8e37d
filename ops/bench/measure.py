"""Run scenarios and keep their results: ``python -m ops.bench.measure [SCENARIO...]``; see ``ops/bench/run``."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from importlib import import_module

from ops.bench import machine, report_page, results
from ops.bench.scenarios import MODULES, SCENARIOS, Settings


def main() -> int:
    """Measure what the arguments name; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="ops/bench/run", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=64, help="local hosts in the loopback scenarios")
    given = parser.parse_args()
    unknown = set(given.names) - MODULES.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    settings = Settings(given.repetitions, given.hosts)
    missed = [name for name in given.names or MODULES if not run(name, settings)]
    report_page.write()
    return 1 if missed else 0


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
        spread = f" ({min(row.values):.4g} to {max(row.values):.4g})" if len(row.values) > 1 else ""
        print(f"  {row.name}: {row.median:.4g} {row.unit}{spread}", flush=True)
    for target in outcome.targets:
        print(
            f"  {'met   ' if target.met else 'MISSED'} {target.text} {target.limit:g}: {target.measured:g}", flush=True
        )
    return all(target.met for target in outcome.targets)


if __name__ == "__main__":
    sys.exit(main())
