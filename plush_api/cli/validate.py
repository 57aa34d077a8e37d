"""``plush validate``: whether an experiment's file can be submitted, and what is wrong with it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import UsageError

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment


def validate(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Experiments; - for standard input.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of experiments, for editors.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file.")] = False,
) -> None:
    """Check experiments: everything that is wrong, with file, line and path. Exit code 2 when something is."""
    from plush_worker.experiment.spec import SpecErrors, experiment_schema

    if schema:
        print(json.dumps(experiment_schema(), indent=2))
        return
    if not files:
        raise UsageError("no file: plush validate FILE")
    wrong = False
    for path in files:
        try:
            experiment = read_experiment(path)
        except SpecErrors as error:
            wrong = True
            if as_json:
                print(json.dumps({"file": path, "valid": False, "errors": [e._asdict() for e in error.errors]}))
            else:
                print(error, file=sys.stderr)
        else:
            name = experiment.name or "an experiment"
            print(json.dumps({"file": path, "valid": True, "errors": []}) if as_json else f"{path}: {name}: valid")
    if wrong:
        raise typer.Exit(UsageError.exit_code)


def read_experiment(path: str) -> Experiment:
    """The experiment in a file, or in standard input (``-``). Raises SpecErrors, UsageError when it can't be read."""
    from plush_worker.experiment.spec import MAX_TEXT_BYTES, load_experiment

    limit_bytes = MAX_TEXT_BYTES + 1  # the loader says that it is too large
    if path == "-":
        return load_experiment(sys.stdin.buffer.read(limit_bytes), "standard input")
    try:
        with open(path, "rb") as file:
            text = file.read(limit_bytes)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return load_experiment(text, path)
