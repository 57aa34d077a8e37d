"""Words that the shell may complete: ids of runs, hosts and groups, slices. Each is a question that must stay cheap.

What can't be found out is completed by nothing: a shell that shows errors while somebody types is worse.
"""

from __future__ import annotations

from plush_worker.errors import PlushError

RUNS = 30
WORDS = 500


Words = list[tuple[str, str]]  # (word, what it means)


def run_words(incomplete: str) -> Words:
    """(id, what it runs) of the newest runs whose id begins so, where a service runs."""
    from .service import connect_to_service

    try:
        client = connect_to_service()
        try:
            runs = client.runs(RUNS)
        finally:
            client.close()
    except PlushError:
        return []
    found = [(fields["run_id"], fields.get("name") or fields.get("command", "")) for fields in runs]
    return [(run_id, _one_line(what)) for run_id, what in found if run_id.startswith(incomplete)]


def host_words(incomplete: str) -> Words:
    """Hosts and groups of the host directory, or hosts of OpenSSH's configuration, for the last part of a list."""
    from plush_worker.experiment.directory import HostOptions, find_directory, load_directory
    from plush_worker.experiment.ssh_config import listed_names

    done, comma, last = incomplete.rpartition(",")
    try:
        path = find_directory(HostOptions())
        if path:
            directory = load_directory(path)
            words = [*directory.hosts, *(f"@{name}" for name in ("all", *directory.groups, *directory.slices))]
        else:
            words = listed_names("")
    except PlushError:
        return []
    return [(done + comma + word, "") for word in words if word.startswith(last)][:WORDS]


def slice_words(incomplete: str) -> Words:
    """Slices of the host directory."""
    from plush_worker.experiment.directory import HostOptions, find_directory, load_directory

    try:
        path = find_directory(HostOptions())
        names = list(load_directory(path).slices) if path else []
    except PlushError:
        return []
    return [(name, "") for name in names if name.startswith(incomplete)]


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:60]
