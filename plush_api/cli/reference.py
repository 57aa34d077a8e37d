"""The reference of all commands, docs/commands.md, made from the commands themselves.

python -m plush_api.cli.reference > docs/commands.md
"""

from __future__ import annotations

import re
import sys

from .app import COMMANDS
from .command_tree import Described, Parameter, describe

_HEAD = """# Commands

Made from the commands themselves by `python -m plush_api.cli.reference`; don't edit.

Exit codes: 0 done; 1 not done; 2 a mistake in the command line or a file; 69 no service; 130 interrupted. Commands that
show a run to its end (`run`, `watch`, `submit --watch`): the largest exit code of the hosts (signal n: 128+n); 124 for
a time limit; 255 when a host is unreachable or its result unknown; 0 for a run that succeeded by its quorum.

Which service: with `PLUSH_URL` (and a token in `PLUSH_TOKEN` or in the file `PLUSH_TOKEN_FILE`) one elsewhere, over
HTTP; else the Redis of `PLUSH_REDIS_URL` or `plush.toml`; else `plush up` on this machine. RUN is the id of a run or
its beginning; `-` or `last` is your newest. With `--json` every command prints JSON, one object a line.
"""


def reference_text() -> str:
    """The whole page, in Markdown."""
    found = [describe(name) for name in COMMANDS]
    parts = [_HEAD]
    parts += [f"| [`plush {name}`](#plush-{name}) | {_cell(text)} |" for name, text in COMMANDS.items()]
    parts[1] = "| command | |\n|---|---|\n" + parts[1]
    for command in found:
        parts += _section(command)
    return "\n".join(parts) + "\n"


def _section(command: Described) -> list[str]:
    name = " ".join(("plush", *command.words))
    if command.commands:
        lines = ["", f"## {name}", "", _paragraphs(command.help)]
        for inner in command.commands:
            lines += _section(inner)
        return lines
    level = "##" if len(command.words) == 1 else "###"
    lines = ["", f"{level} {name}", "", f"    {name} {usage_of(command)}".rstrip(), "", _paragraphs(command.help)]
    rows = [f"| {_name_of(p)} | {_meaning_of(p)} |" for p in command.parameters if p.flags or p.help]
    return [*lines, "", "| | |", "|---|---|", *rows] if rows else lines


def usage_of(command: Described) -> str:
    """``[OPTIONS] RUN``."""
    words = ["[OPTIONS]"] if any(p.flags for p in command.parameters) else []
    for argument in command.arguments:
        word = argument.metavar + ("..." if argument.is_repeated and "..." not in argument.metavar else "")
        words.append(word if argument.is_required or command.words == ("run",) else f"[{word}]")
    return " ".join(words)


def _name_of(parameter: Parameter) -> str:
    names = ", ".join(f"`{flag}`" for flag in parameter.flags) or f"`{parameter.metavar}`"
    return names + (f" {_cell(parameter.metavar)}" if parameter.flags and parameter.metavar else "")


def _meaning_of(parameter: Parameter) -> str:
    text = _cell(parameter.help)
    return f"{text} ({parameter.default})" if parameter.default else text


def _paragraphs(text: str) -> str:
    return re.sub(r"[ \t]*\n[ \t]*", "\n", text.strip())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference_text())
