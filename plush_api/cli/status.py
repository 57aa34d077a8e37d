"""``plush status``: how far a run is, and what became of its hosts."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plush_worker.node import hostset

from .console import Console, printable
from .run_ids import RunArgument, find_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .run_progress import RunProgress

SLOWEST = 5
_COUNTS = ("ok", "nonzero", "failed", "unreachable", "killed", "unknown")


def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show how far a run is and which of its hosts failed, as it is now."""
    from .run_display import RunDisplay
    from .service import connect_to_service

    client = connect_to_service()
    try:
        run_id = find_run(client, run)
        display = RunDisplay(client, run_id, lambda _: Console(quiet=True))
        display.catch_up()
        fields = client.run(run_id)
    finally:
        client.close()
    values = status_of(display.progress, fields, time.time())
    print(json.dumps(values) if as_json else "\n".join(status_lines(display.progress, values)))


def status_of(progress: RunProgress, fields: Mapping[str, str], now_s: float) -> dict[str, Any]:
    """What ``--json`` prints: run, name, kind, owner, state, waiting_for, times, counts, workers, slowest, hosts."""
    from .summary import counts

    spec = progress.spec
    found = counts(progress, 0.0)
    end_s = progress.finished_ms / 1000 or now_s
    hosts = [
        {"host": name, "state": str(o.state), "code": o.code, "signal": o.signal, "error": o.error}
        for o in progress.outcomes
        for name in progress.host_names(o)
    ]
    ended = {host["host"] for host in hosts}
    names = {name: number for number, name in progress.names.items()}
    for host in spec.hosts:
        name = str(host["name"])
        if name not in ended:
            number = names.get(name, -1)
            hosts.append({"host": name, "state": progress.host_state(number) if number >= 0 else "waiting"})
    return {
        "run": spec.run_id,
        "name": spec.name,
        "kind": spec.kind,
        "owner": fields.get("owner", spec.owner),
        "command": spec.command,
        "processes": [name for name in progress.processes if name],
        "state": progress.state_name,
        "waiting_for": "" if progress.final_state else progress.waiting_for,
        "submitted_at": progress.submitted_ms / 1000,
        "finished_at": progress.finished_ms / 1000 or None,
        "age_s": round(max(0.0, now_s - progress.submitted_ms / 1000), 1),
        "took_s": round(max(0.0, end_s - progress.submitted_ms / 1000), 1),
        "hosts_count": progress.hosts_count,
        "up": hostset.size(progress.up),
        "done": progress.done_count,
        **{name: found[name] for name in _COUNTS},
        "workers": {name: hostset.size(owned.hosts) for name, owned in sorted(progress.workers.items())},
        "slowest": [slow._asdict() for slow in progress.slowest(round(now_s * 1000), SLOWEST)],
        "flower_url": fields.get("flower_url", ""),
        "hosts": hosts,
    }


def status_lines(progress: RunProgress, values: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    from plush_worker.experiment.host_ranges import fold

    from .ps import age_text
    from .summary import failure_lines

    ended = ", ".join(f"{values[name]} {name}" for name in _COUNTS if values[name])
    took = "took" if progress.final_state else "for"
    lines = [
        f"run      {values['run']}",
        f"name     {values['name']}",
        f"command  {values['command']}",
        f"process  {', '.join(values['processes'])}",
        f"owner    {values['owner']}",
        f"state    {values['state']}, {took} {age_text(values['took_s'])}",
        f"waiting  {values['waiting_for']}",
        f"hosts    {values['hosts_count']}: {values['up']} up, {values['done']} done" + (f": {ended}" if ended else ""),
        f"workers  {', '.join(f'{name} ({count})' for name, count in values['workers'].items())}",
        "slowest  " + ", ".join(f"{s['name']} {s['doing']} for {age_text(s['for_s'])}" for s in values["slowest"]),
        f"flower   {values['flower_url']}",
    ]
    lines = [line for line in lines if len(line.rstrip()) > len("command")]
    return [printable(line) for line in (*lines, *failure_lines(progress, {}, fold))]
