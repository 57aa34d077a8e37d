"""What a shell is told when somebody presses Tab, and the reference that is made of the same commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from plush_api.cli import completion
from plush_api.cli.app import COMMANDS
from plush_api.cli.command_tree import describe
from plush_api.cli.completion import answer, complete
from plush_api.cli.completion_words import host_words, run_words, slice_words
from plush_api.cli.reference import reference_text
from plush_worker.errors import UsageError

ROOT = Path(__file__).parents[2]
HOSTS_YAML = """\
hosts:
  node[1-2]: {address: 127.0.0.1}
groups:
  lab: node1
slices:
  trial: {hosts: node2}
"""


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(HOSTS_YAML)
    monkeypatch.setenv("PLUSH_DIRECTORY", str(tmp_path / "hosts.yaml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(completion._VALUES, "RUN", lambda typed: [("r1-2-3", "date")] if "r1".startswith(typed) else [])


def found(*words: str) -> list[str]:
    return [word for word, _ in complete(words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("wa",), ["watch"]),
        (("nothing", ""), []),
        (("token", ""), ["create", "ls", "revoke"]),
        (("token", "x", ""), []),
        (("token", "create", "--sc"), ["--scope"]),
        (("token", "create", "--scope", ""), ["read", "run", "admin"]),
        (("token", "create", "--scope=a"), ["--scope=admin"]),
        (("watch", ""), ["r1-2-3"]),
        (("watch", "--json", "r"), ["r1-2-3"]),
        (("watch", "r1", ""), []),
        (("rm", "r1", ""), ["r1-2-3"]),
        (("logs", "r1", "-w", "node1,n"), ["node1,node1", "node1,node2"]),
        (("slice", "show", ""), ["trial"]),
        (("run", "--pla"), ["--planner"]),
        (("run", "--planner", "g"), ["greedy"]),
        (("run", "-w", "@l"), ["@lab"]),
        (("run", "-w", "node1", "--slice", ""), ["trial"]),
        (("run", "-w", "node1", "ls", "--js"), []),
        (("run", "-w", "node1", "--", "-"), []),
        (("submit", "--wat"), ["--watch"]),
        (("submit", ""), []),
        (("completion", "z"), ["zsh"]),
    ],
)
def test_what_a_word_may_become(words: tuple[str, ...], expected: list[str]) -> None:
    assert found(*words) == expected


def test_nothing_typed_gives_every_command() -> None:
    assert found("") == list(COMMANDS) == found()


def test_words_of_the_host_directory() -> None:
    assert [word for word, _ in host_words("@")] == ["@all", "@lab", "@trial"]
    assert [word for word, _ in slice_words("t")] == ["trial"]


def test_what_cant_be_found_out_completes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that shows a traceback while somebody types is worse than no completion."""
    monkeypatch.setenv("PLUSH_DIRECTORY", "/nowhere")
    monkeypatch.setenv("PLUSH_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("PLUSH_TOKEN", "t")
    assert host_words("") == slice_words("") == run_words("") == []


def test_the_forms_of_the_shells() -> None:
    assert answer(["fish", "token", "revo"]) == "revoke\tRevoke tokens: who holds one is refused from now on.\n"
    assert answer(["zsh", "slice", "sho"]) == "show:Show a slice: its hosts and its settings.\n"
    assert answer(["bash", "plush run -w me@nod"]) == ""
    assert answer(["bash", "plush run -w @la"]) == "lab\n", "bash begins a new word behind an @"
    assert answer(["bash", "plush token create --scope=ad"]) == "admin\n"
    assert answer(["bash", "plush watch 'r"]) == "r1-2-3\n"
    assert answer(["bash", "plush"]) == answer(["bash", ""]) == "".join(f"{name}\n" for name in COMMANDS)
    assert answer([]) != ""


def test_an_unknown_shell_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="csh: must be one of bash, zsh, fish"):
        completion.script("csh")


def test_every_command_is_described() -> None:
    for name, text in COMMANDS.items():
        described = describe(name)
        assert described.help and text.endswith("."), name
        for inner in described.commands or (described,):
            flags = [flag for parameter in inner.parameters for flag in parameter.flags]
            assert len(flags) == len(set(flags)), f"{inner.words}: one flag for two things"
            if name not in ("completion", "demo", "up") and inner.words != ("worker", "start"):
                assert "--json" in flags, f"plush {' '.join(inner.words)} has no --json"


def test_the_reference_is_current() -> None:
    """Else the page describes commands that are no more."""
    page = (ROOT / "docs" / "commands.md").read_text()
    assert page == reference_text(), "python -m plush_api.cli.reference > docs/commands.md"
