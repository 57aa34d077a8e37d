"""How a run is stored, with or without the message that starts its coordinator: keys and arguments of create_run.lua,
and of remove_run.lua.

Pure; shared by both clients.
"""

from __future__ import annotations

from . import keys, limits
from .celery_message import coordinate_message
from .records import encode_event, encode_json, limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..model import RunSpec

_COMMAND_CHARS = 500  # of the command in the list of runs


def creation(spec: RunSpec, queue: str = "") -> tuple[list[str], list[str | int]]:
    """(keys, arguments) of create_run.lua; with a ``queue`` it also sends ``plush.coordinate``. Raises TooLarge."""
    run_id = spec.run_id
    text = limited(spec.to_json(), limits.MAX_SPEC_BYTES, f"run {run_id} with {len(spec.hosts)} hosts")
    fields = {
        "owner": spec.owner,
        "command": _printable(spec.command[:_COMMAND_CHARS]),
        "host_count": str(len(spec.hosts)),
        "slice": str(spec.slice.get("name", "default")),
        "client_lease_s": str(spec.client_lease_s),
        "submitted_at": repr(spec.submitted_at),
        "name": spec.name,
        "kind": spec.kind,
        "keep_s": str(spec.keep_s),
    }
    if blobs := blobs_of(spec):
        fields["blobs"] = limited(encode_json(blobs), limits.MAX_FIELD_BYTES, f"run {run_id} with {len(blobs)} blobs")
    event = encode_event({"type": "run_submitted"})
    arguments: list[str | int] = [run_id, text, event, limits.MAX_STREAM_EVENTS, len(fields)]
    for name, value in fields.items():
        arguments += [name, value]
    names = [keys.run(run_id), keys.run_spec(run_id), keys.run_events(run_id), keys.RUNS]
    if queue:
        names.append(queue)
        arguments.append(coordinate_message(run_id, queue))
    return names, arguments


def removal(run_id: str) -> tuple[list[str], list[str | int]]:
    """(keys, arguments) of remove_run.lua."""
    return [*keys.all_of_run(run_id), keys.RUNS, keys.REMOVED_RUNS], [run_id, limits.MAX_REMOVED_RUNS]


def blobs_of(spec: RunSpec) -> list[str]:
    """The SHA-256 of every content that the run needs: of its files and its processes' standard input."""
    digests = [*(file.get("sha256", "") for file in spec.files), *(p.get("stdin", "") for p in spec.processes)]
    return [digest for digest in dict.fromkeys(digests) if digest]


def _printable(text: str) -> str:
    """Bytes that aren't UTF-8 (lone surrogates) replaced: this is for people, the spec has the command itself."""
    return text.encode("utf-8", "replace").decode()
