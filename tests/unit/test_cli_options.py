"""The grammar of ``plush run``: where options end and the command begins."""

from __future__ import annotations

import pytest

from plush_api.cli.options import OPTIONS, RunOptions, help_text, parse
from plush_worker.errors import UsageError


def test_the_first_word_that_is_no_option_begins_the_command() -> None:
    options = parse(["-w", "a", "ls", "-w", "b", "--json"])
    assert options.hosts == ["a"]
    assert options.command == "ls -w b --json"
    assert not options.json


def test_two_dashes_end_the_options_once() -> None:
    assert parse(["-w", "a", "--", "-x", "--", "y"]).command == "-x -- y"


def test_words_are_joined_by_single_spaces_as_ssh_does() -> None:
    assert parse(["-w", "a", "echo", "x  y", "", "z"]).command == "echo x  y  z"


def test_a_lone_dash_is_a_value_and_begins_a_command() -> None:
    assert parse(["-w", "-", "cat"]).hosts == ["-"]
    assert parse(["-w", "a", "-", "x"]).command == "- x"


@pytest.mark.parametrize("words", [["-wa,b"], ["-w", "a,b"]])
def test_a_value_may_touch_its_letter(words: list[str]) -> None:
    assert parse([*words, "date"]).hosts == ["a,b"]


def test_letters_may_be_bundled() -> None:
    options = parse(["-bNSqwa", "date"])
    assert (options.gather, options.no_prefix, options.largest_code, options.quiet, options.hosts) == (
        True,
        True,
        True,
        True,
        ["a"],
    )


def test_long_options_take_values_both_ways() -> None:
    options = parse(["-w", "a", "--planner=kary", "--outdir", "d", "--hostfile=f", "--hostfile", "g", "date"])
    assert (options.planner, options.outdir, options.hostfiles) == ("kary", "d", ["f", "g"])


def test_numbers() -> None:
    options = parse(["-w", "a", "-t", "3", "-u4", "-f", "5", "--workers=2", "date"])
    assert (options.connect_timeout_s, options.timeout_s, options.fanout, options.workers) == (3, 4, 5, 2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-w", "a"], "no command"),
        (["-w", "a", "--", " "], "no command"),
        (["-w"], "-w needs a value"),
        (["-w", "a", "--gathr", "date"], "no such option: --gathr"),
        (["-bZw", "a", "date"], "no such option: -Z (in -bZw)"),
        (["-w", "a", "--json=yes", "date"], "takes no value"),
        (["-w", "a", "-t", "0", "date"], "whole number"),
        (["-w", "a", "-u", "1.5", "date"], "whole number"),
        (["-w", "a", "-f", "-1", "date"], "whole number"),
        (["-w", "a", "-t", "²", "date"], "whole number"),
        (["-w", "a", "--planner", "best", "date"], "must be one of"),
        (["-w", "a", "--json", "-b", "date"], "choose one"),
        (["-w", "a", "-L", "-B", "date"], "choose one"),
        (["-w", "a", "--json", "-N", "date"], "no meaning"),
        (["-w", "a", "echo", "\0"], "NUL"),
    ],
)
def test_mistakes_are_named(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("(", r"\(").replace(")", r"\)")):
        parse(words)


def test_help_needs_nothing_else_and_shows_every_option() -> None:
    assert parse(["--help"]).help
    shown = help_text()
    for group in OPTIONS.values():
        for option in group:
            assert all(flag in shown for flag in option.flags), option
    assert max(map(len, shown.splitlines())) <= 120


def test_every_option_is_an_attribute() -> None:
    table = {option.field for group in OPTIONS.values() for option in group} | {"command"}
    assert table == set(RunOptions.__annotations__)
