"""The command ``plush``: finds the module of a sub-command and calls it. Entry point: ``main``.

``plush run`` goes straight to ``run.py``, past typer, whose import takes half of the time that the command has until
its first request. Every other command's module is imported when it is called, not before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

COMMANDS = {
    "run": "Run a command on many hosts.",
    "submit": "Submit an experiment as a run that goes on by itself.",
    "validate": "Check an experiment.",
    "ps": "List runs.",
    "status": "Show how far a run is.",
    "watch": "Watch a run to its end.",
    "logs": "Show what the hosts of a run printed.",
    "results": "Show how each host of a run ended, and what it printed.",
    "kill": "Stop a run.",
    "rm": "Remove ended runs.",
    "deploy": "Copy files to many hosts.",
    "fetch": "Copy files from many hosts.",
    "up": "Start a service on this machine: Redis, workers, API, Flower.",
    "doctor": "Check this machine and the service, and say what to do.",
    "mesh": "List, build and close standing meshes.",
    "hosts": "List, check and trust hosts.",
    "slice": "List and show slices.",
    "tree": "Plan trees of SSH connections.",
    "worker": "List workers, start one.",
    "token": "Make, list and revoke tokens.",
    "completion": "Make your shell complete plush.",
    "demo": "Show it all on this machine, with local hosts.",
}
MODULES = {"demo": "plush_api.demo", "watch": "plush_api.cli.watch_run"}  # others: plush_api.cli.<command>
HIDDEN_COMPLETE = "__complete"  # asked by shells
FAILURE, USAGE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``plush WORDS``. Returns its exit code, or raises SystemExit with it."""
    words = list(sys.argv[1:] if argv is None else argv)
    from plush_worker.errors import PlushError

    try:
        return _dispatch(words)
    except PlushError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return FAILURE


def _dispatch(words: list[str]) -> int:
    name = words[0] if words else ""
    if name == "run":
        from .run import main as run

        return run(words[1:])
    if name in COMMANDS:
        return _call_typer(name, words)
    if name == HIDDEN_COMPLETE:
        from .completion import answer

        sys.stdout.write(answer(words[1:]))
        return 0
    if name in ("--version", "-V"):
        return print_version()
    if name in ("--help", "-h", "help") or not words:
        sys.stdout.write(help_text())
        return 0 if words else USAGE
    what = "option" if name.startswith("-") else "command"
    say(f"no such {what}: {name}{_nearest(name)}; see plush --help")
    return USAGE


def _call_typer(name: str, words: list[str]) -> int:
    """A command whose module defines a typer application ``app``, or a function of the command's name."""
    import typer

    module = module_of(name)
    plush = typer.Typer(add_completion=False)
    plush.callback()(_nothing)  # keeps ``name`` a sub-command although it is the only one
    if hasattr(module, "app"):
        plush.add_typer(module.app, name=name)
    else:
        plush.command(name)(getattr(module, name))
    typer.main.get_command(plush)(args=words, prog_name="plush")
    return 0


def module_of(name: str) -> ModuleType:
    """The module of a command, imported now."""
    from importlib import import_module

    return import_module(MODULES.get(name, f"plush_api.cli.{name}"))


def _nothing() -> None:
    """Run commands and experiments on many machines over a tree of SSH connections."""


def help_text() -> str:
    """What ``plush --help`` prints."""
    lines = ["Usage: plush COMMAND [OPTIONS]", "", _nothing.__doc__ or "", "", "Commands:"]
    lines += [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    lines += ["", "plush COMMAND --help says more. plush --version says which version this is."]
    return "\n".join(lines) + "\n"


def say(text: str) -> None:
    """A message on stderr; each of its lines says who speaks."""
    from .console import printable

    for line in text.splitlines() or [""]:
        sys.stderr.write(f"plush: {printable(line)}\n")


def print_version() -> int:
    """``plush 0.1.0``."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("plush")
    except PackageNotFoundError:
        found = "(not installed: run from its source)"
    sys.stdout.write(f"plush {found}\n")
    return 0


def _nearest(word: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(word, COMMANDS, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _silence_stdout() -> None:
    """So that the interpreter's own flush at exit doesn't complain about the closed pipe a second time."""
    import os

    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
