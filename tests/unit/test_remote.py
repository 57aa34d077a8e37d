"""Which service commands talk to, and what they send there of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from plush_api.cli import service as cli_service
from plush_api.cli.options import parse
from plush_api.cli.remote_run import experiment_of
from plush_api.cli.token import expiry_text, seconds_of
from plush_api.remote import Remote, find_remote, warning
from plush_worker import service_file
from plush_worker.errors import ConfigurationError, UsageError
from plush_worker.service_file import Service

URL = "https://plush.example.org"
HERE = "http://127.0.0.1:8520"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("PLUSH_URL", "PLUSH_TOKEN", "PLUSH_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "token").write_text("plush_file\n")
    service = Service("unix:///x", api_url=HERE, token_file=str(tmp_path / "token"), source="service.json")
    monkeypatch.setattr(service_file, "running_service", lambda: service)
    return tmp_path


def test_without_any_of_it_the_direct_way_stays() -> None:
    assert find_remote() is None
    assert cli_service.find_remote_service() is None


def test_where_the_token_comes_from(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_URL", HERE + "/")
    assert find_remote() == Remote(HERE, "plush_file", "PLUSH_URL"), "plush up wrote it for this user"
    monkeypatch.setenv("PLUSH_TOKEN_FILE", str(environment / "other"))
    (environment / "other").write_text("plush_other")
    assert find_remote() == Remote(HERE, "plush_other", "PLUSH_URL")
    monkeypatch.setenv("PLUSH_TOKEN", "plush_mine")
    assert find_remote() == Remote(HERE, "plush_mine", "PLUSH_URL")


def test_a_token_alone_means_the_service_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_TOKEN", "plush_mine")
    assert find_remote() == Remote(HERE, "plush_mine", "service.json")
    monkeypatch.setattr(service_file, "running_service", lambda: None)
    with pytest.raises(ConfigurationError, match="set PLUSH_URL"):
        find_remote()


def test_the_admin_token_of_this_machine_is_sent_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_URL", URL)
    with pytest.raises(ConfigurationError, match="needs a token"):
        find_remote()


@pytest.mark.parametrize(
    "url", ["plush.example.org", "ftp://x", "https://", "https://x?y=1", "http://x:99999999", "http://u:p@x"]
)
def test_what_is_no_address_of_a_service(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_URL", url)
    monkeypatch.setenv("PLUSH_TOKEN", "t")
    with pytest.raises(ConfigurationError, match="PLUSH_URL") as caught:
        find_remote()
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "two words", "\xff"])
def test_a_file_without_a_token(content: str | None, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if content is not None:
        (environment / "bad").write_bytes(content.encode("latin-1"))
    monkeypatch.setenv("PLUSH_URL", URL)
    monkeypatch.setenv("PLUSH_TOKEN_FILE", str(environment / "bad"))
    with pytest.raises(ConfigurationError, match="PLUSH_TOKEN_FILE"):
        find_remote()


def test_a_token_that_travels_unencrypted_is_warned_of() -> None:
    assert "use https" in warning(Remote("http://plush.example.org", "t", ""))
    assert not warning(Remote(URL, "t", "")) and not warning(Remote(HERE, "t", ""))


# plush run


def asked(*words: str, stdin: str = "") -> dict[str, Any]:
    return experiment_of(parse([*words, "date"]), lambda: stdin).to_mapping()


def test_a_command_line_as_an_experiment() -> None:
    sent = asked("-w", "@lab", "-w", "node[1-2]", "-x", "node2", "-l", "me", "-u", "9", "-f", "5", "--together")
    assert sent["hosts"] == ["@lab", "node[1-2]"] and sent["exclude"] == ["node2"], "groups are the service's to expand"
    assert (sent["command"], sent["login"], sent["timeout"], sent["fanout"]) == ("date", "me", 9, 5)
    assert sent["together"] and sent["client_lease"] == 60, "a lost client must not leave its run behind"


def test_lists_that_only_this_machine_can_read_are_read_here(environment: Path) -> None:
    (environment / "list").write_text("b\nc # two\n")
    assert asked("-w", "-", stdin="x y\n")["hosts"] == ["x,y"]
    assert asked("-w", f"a,^{environment}/list")["hosts"] == ["a,b,c"]
    assert asked("--hostfile", f"{environment}/list")["hosts"] == ["b,c"]
    (environment / "list").write_text("@lab\n")
    with pytest.raises(UsageError, match="known to the service only"):
        asked("--hostfile", f"{environment}/list")


@pytest.mark.parametrize("words", [("-F", "cfg"), ("--directory", "d"), ("--planner", "flat"), ("-t", "3")])
def test_how_hosts_are_reached_is_not_said_from_elsewhere(words: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match=f"^{words[0]} {words[1]}: "):
        asked("-w", "a", *words)


# plush token


def test_how_long_a_token_lives() -> None:
    assert [seconds_of(text) for text in ("", "90s", "2m", "12h", "30d", "8w", "7")] == [
        0, 90, 120, 43200, 2592000, 4838400, 604800,
    ]  # fmt: skip
    for text in ("0", "-1d", "1y", "999999999w", "1.5h", "d"):
        with pytest.raises(UsageError, match="--expires"):
            seconds_of(text)
    assert [expiry_text(at, 100.0) for at in (None, 99.0, 100.0 + 7200)] == ["never", "expired", "in 2h"]
