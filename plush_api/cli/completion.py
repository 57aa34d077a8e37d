"""``plush completion``: what a shell needs to complete commands, options, runs, hosts and slices.

The script asks ``plush __complete SHELL WORDS``, the last word being the one that is typed. Not by typer's completion:
that would import every command first. An empty answer makes the shell complete names of files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer

from plush_worker.errors import UsageError

from .app import COMMANDS, HIDDEN_COMPLETE
from .command_tree import Described, Parameter, describe
from .completion_words import host_words, run_words, slice_words
from .options import PLANNERS

SHELLS = ("bash", "zsh", "fish")
_VALUES = {"RUN": run_words, "HOSTS": host_words, "SLICE": slice_words}  # metavar -> who knows words for it
_CHOICES = {
    "SCOPE": ("read", "run", "admin"),
    "SHELL": SHELLS,
    "P": PLANNERS,
    "STATE": ("waiting", "running", "stopping", "succeeded", "failed", "killed"),
}
_BREAKS = "@=:"  # where bash begins a new word within one (COMP_WORDBREAKS)

_BASH = """_plush() {
    local IFS=$'\\n'
    COMPREPLY=( $(plush %(ask)s bash "${COMP_LINE:0:COMP_POINT}" 2>/dev/null) )
    case ${COMPREPLY[0]-} in *, | *=) compopt -o nospace ;; esac
}
complete -o default -F _plush plush
"""
_ZSH = """#compdef plush
_plush() {
    local -a found
    found=("${(@f)$(plush %(ask)s zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]-}" ]]; then _describe plush found; else _files; fi
}
if [[ "${funcstack[1]-}" = _plush ]]; then _plush "$@"; else compdef _plush plush; fi
"""
_FISH = """function __plush_complete
    set -l found (plush %(ask)s fish (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
    if test -n "$found"
        printf '%%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c plush -f -a '(__plush_complete)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}

Words = list[tuple[str, str]]  # (word, what it means)


def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish; by default that of SHELL.")] = "",
) -> None:
    """Print what makes a shell complete plush: eval "$(plush completion bash)", or put it where your shell looks."""
    print(script(shell or os.path.basename(os.environ.get("SHELL", ""))), end="")


def script(shell: str) -> str:
    """The script of a shell. Raises UsageError."""
    if shell not in SHELLS:
        raise UsageError(f"{shell or 'no shell'}: must be one of {', '.join(SHELLS)}")
    return _SCRIPTS[shell] % {"ask": HIDDEN_COMPLETE}


def answer(arguments: Sequence[str]) -> str:
    """The answer to ``SHELL WORDS``, in the form in which that shell's script takes it, a word a line."""
    shell, *words = arguments or ("",)
    if shell == "bash":
        words = _typed_words(words[0] if words else "")
    found = complete(words)
    if shell == "bash":
        typed = words[-1] if words else ""
        cut = max((typed.rfind(c) for c in _BREAKS), default=-1) + 1
        return "".join(f"{word[cut:]}\n" for word, _ in found)
    if shell == "zsh":
        return "".join(word.replace(":", "\\:") + (f":{text}" if text else "") + "\n" for word, text in found)
    return "".join(word + (f"\t{text}" if text else "") + "\n" for word, text in found)


def complete(words: Sequence[str]) -> Words:
    """What the last of the words behind ``plush`` may become; empty for a name of a file, or anything."""
    *before, typed = words or ("",)
    if not before:
        return [(name, text) for name, text in COMMANDS.items() if name.startswith(typed)]
    if before[0] not in COMMANDS:
        return []
    command, rest = describe(before[0]), before[1:]
    while command.commands:
        if not rest:
            return [(c.words[-1], _first_line(c.help)) for c in command.commands if c.words[-1].startswith(typed)]
        inner = next((c for c in command.commands if c.words[-1] == rest[0]), None)
        if inner is None:
            return []
        command, rest = inner, rest[1:]
    return _within(command, rest, typed)


def _within(command: Described, before: Sequence[str], typed: str) -> Words:
    """Options, their values and arguments of one command."""
    arguments, pending = 0, None
    ended = False
    for word in before:
        if pending is not None:
            pending = None
        elif word == "--" and not ended:
            ended = True
        elif word.startswith("-") and word != "-" and not ended:
            option = command.option(word)
            pending = option if option is not None and option.metavar else None
        else:
            arguments += 1
    if command.words == ("run",) and (ended or arguments):
        return []  # in the command for the hosts
    if pending is not None:
        return _values(pending, typed)
    if typed.startswith("-") and not ended:
        flag, equals, value = typed.partition("=")
        option = command.option(flag) if equals else None
        if option is not None:
            return [(f"{flag}={word}", text) for word, text in _values(option, value)]
        options = [(flag, p.help) for p in command.parameters for flag in p.flags]
        return [(flag, text) for flag, text in (*options, ("--help", "")) if flag.startswith(typed)]
    known = command.arguments
    if not known or (arguments >= len(known) and not known[-1].is_repeated):
        return []
    return _values(known[min(arguments, len(known) - 1)], typed)


def _values(parameter: Parameter, typed: str) -> Words:
    metavar = "SLICE" if "--slice" in parameter.flags else parameter.metavar
    if metavar in _VALUES:
        return _VALUES[metavar](typed)
    return [(word, "") for word in _CHOICES.get(metavar, ()) if word.startswith(typed)]


def _typed_words(line: str) -> list[str]:
    """The words behind ``plush`` of a line up to the cursor, in bash's quoting; an open quote counts as closed."""
    import shlex

    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        ends_a_word = not closing and line[-1:].isspace()
        return [*words[1:], ""] if ends_a_word or len(words) < 2 else words[1:]
    return [""]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
