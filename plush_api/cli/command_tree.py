"""Every command with its options and arguments as plain data, for completion and for the reference.

Commands made with typer are asked through attributes that click has had since its version 7; ``plush run`` has its own
table. Imports the module of the command that is asked about, and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .app import module_of
from .options import OPTIONS, Option, help_text


@dataclass(frozen=True, slots=True)
class Parameter:
    """An option, or an argument (without ``flags``). ``metavar`` is empty for a flag."""

    flags: tuple[str, ...]
    metavar: str
    help: str
    is_required: bool = False
    is_repeated: bool = False
    default: str = ""


@dataclass(frozen=True, slots=True)
class Described:
    """A command, or a group of some. ``words`` are those behind ``plush``."""

    words: tuple[str, ...]
    help: str
    parameters: tuple[Parameter, ...] = ()
    commands: tuple[Described, ...] = ()

    def option(self, flag: str) -> Parameter | None:
        """The option of this flag."""
        return next((p for p in self.parameters if flag in p.flags), None)

    @property
    def arguments(self) -> list[Parameter]:
        """What isn't an option, in order."""
        return [p for p in self.parameters if not p.flags]


def describe(name: str) -> Described:
    """A command of ``app.COMMANDS``."""
    if name == "run":
        parameters = [_run_parameter(option) for group in OPTIONS.values() for option in group]
        parameters.append(Parameter((), "CMD", "The command, for the login shell of each host.", is_repeated=True))
        paragraphs = help_text().strip().split("\n\n")
        return Described(("run",), f"{paragraphs[1]}\n\n{paragraphs[-1]}", tuple(parameters))
    import typer

    module = module_of(name)
    if hasattr(module, "app"):
        return _of_click(typer.main.get_group(module.app), (name,))
    single = typer.Typer(add_completion=False)
    single.command(name)(getattr(module, name))
    return _of_click(typer.main.get_command(single), (name,))


def _of_click(command: Any, words: tuple[str, ...]) -> Described:
    commands = tuple(_of_click(inner, (*words, name)) for name, inner in getattr(command, "commands", {}).items())
    parameters = tuple(_of_parameter(p) for p in command.params if p.name != "help")
    return Described(words, str(command.help or ""), () if commands else parameters, commands)


def _of_parameter(parameter: Any) -> Parameter:
    is_argument = parameter.param_type_name == "argument"
    is_flag = bool(getattr(parameter, "is_flag", False))
    name = str(parameter.metavar or parameter.name.upper())
    shown = parameter.default not in (None, "", False, True) and not callable(parameter.default)
    return Parameter(
        flags=() if is_argument else (*parameter.opts, *parameter.secondary_opts),
        metavar="" if is_flag else name.removesuffix("..."),
        help=str(getattr(parameter, "help", "") or ""),
        is_required=bool(parameter.required),
        is_repeated=parameter.nargs == -1 or bool(getattr(parameter, "multiple", False)),
        default=str(parameter.default) if shown else "",
    )


def _run_parameter(option: Option) -> Parameter:
    return Parameter(option.flags, option.metavar, option.help, is_repeated=option.kind == "texts")
