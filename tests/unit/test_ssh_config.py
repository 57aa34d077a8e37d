"""What is done around ``ssh -G``: its text, tokens, jump hosts, and when answers may be remembered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.experiment import ssh_config
from plush_worker.experiment.file_cache import FileCache, look_at
from plush_worker.experiment.ssh_entry import EntryBuilder, expand_tokens, split_jump
from plush_worker.model import HostEntry

TOKENS = {"h": "addr", "n": "name", "p": "22", "r": "me", "d": "/home/me", "k": "name", "j": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ssh -W %h:%p gw", "ssh -W addr:22 gw"),
        ("%%h %n", "%h name"),
        ("%d/.ssh/%r", "/home/me/.ssh/me"),
        ("%z %", "%z %"),
        ("${PLUSH_TEST_WORD}/x ${PLUSH_TEST_NONE}", "word/x ${PLUSH_TEST_NONE}"),
        ("%i", str(os.getuid())),
        ("%L", os.uname().nodename.partition(".")[0]),
    ],
)
def test_tokens(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_TEST_WORD", "word")
    assert expand_tokens(text, TOKENS) == expected


@given(st.text(alphabet="%hnpC${}a"))
def test_any_text_can_be_expanded(text: str) -> None:
    expand_tokens(text, TOKENS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gw", ("gw", 0)),
        ("me@gw:2222", ("me@gw", 2222)),
        ("ssh://me@gw:2222/", ("me@gw", 2222)),
        ("[fe80::1]:22", ("fe80::1", 22)),
        ("fe80::1", ("fe80::1", 0)),
    ],
)
def test_jump_hosts(text: str, expected: tuple[str, int]) -> None:
    assert split_jump(text) == expected


def test_a_bad_port_of_a_jump_host() -> None:
    with pytest.raises(LookupError, match="'99999' is no port"):
        split_jump("gw:99999")


def test_parsing_takes_what_is_used() -> None:
    text = "host a\nuser me\nIdentityFile ~/a b\nidentityfile ~/c\nhostkeyalgorithms x,y\nciphers z\nproxyjump none\n"
    assert ssh_config._parse(text, "other") == {
        "user": "me",
        "identityfile": ["~/a b", "~/c"],
        "hostkeyalgorithms": "x,y",
        "proxyjump": "none",
    }
    assert "hostkeyalgorithms" not in ssh_config._parse(text, "x,y")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Host a b", ["Host", "a", "b"]),
        ("Include=  ~/x", ["Include", "~/x"]),
        ('Include "with space" y', ["Include", "with space", "y"]),
        ("\tMatch\texec = 'x'", ["Match", "exec", "=", "'x'"]),
        ("# Host a", []),
        ("", []),
    ],
)
def test_lines_of_a_configuration(line: str, words: list[str]) -> None:
    assert ssh_config._words(line) == words


@pytest.mark.parametrize(
    ("text", "remembered"),
    [
        ("Host a\n User b\n", True),
        ("Match host a user b\n", True),
        ("Match host a exec true\n", False),
        ("Match !exec true\n", False),
        ("match localnetwork 10.0.0.0/8\n", False),
        ("CanonicalizeHostname always\n", False),
        ("CanonicalizeHostname no\n", True),
        ("IdentityFile ${KEY}\n", False),
        ("# IdentityFile ${KEY}\n", True),
    ],
)
def test_what_depends_on_more_than_the_files_is_not_remembered(text: str, remembered: bool, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    assert bool(ssh_config._scan(str(path)).remember) is remembered


def test_includes_are_followed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.conf").write_text("Host one *.x !two\nMatch exec true\n")
    (tmp_path / "plain").write_text(f"Host two\nInclude {tmp_path}/main\n")
    (tmp_path / "main").write_text(f"Include {tmp_path}/d/*.conf {tmp_path}/plain {tmp_path}/missing\nHost three one\n")
    files = ssh_config._scan(str(tmp_path / "main"))
    assert list(files.names)[:3] == ["one", "two", "three"], "a file that includes itself ends, too"
    assert {f"{tmp_path}/{name}" for name in ("main", "d", "d/1.conf", "plain", "missing")} <= set(files.watched)
    assert not files.remember


def test_an_entry_of_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "id").write_text("")
    (tmp_path / "agent_only.pub").write_text("")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    answer = {
        "hostname": "10.0.0.1", "port": "2222", "user": "me", "identityagent": "~/agent", "identitiesonly": "yes",
        "identityfile": [f"{tmp_path}/id", f"{tmp_path}/agent_only", f"{tmp_path}/missing"],
        "certificatefile": ["/c-%h"],
        "proxyjump": "none", "proxycommand": "nc %h %p", "userknownhostsfile": f"{tmp_path}/kh /dev/null",
        "hostkeyalias": "alias", "hostkeyalgorithms": "ssh-ed25519", "stricthostkeychecking": "accept-new",
        "forwardagent": "yes", "addressfamily": "inet6",
    }  # fmt: skip
    (entry,) = EntryBuilder("cfg", cache=str(tmp_path / "cache")).entries({"a@h": answer})
    assert entry == HostEntry(
        name="a@h", address="10.0.0.1", port=2222, user="me",
        identity_files=(f"{tmp_path}/id", f"{tmp_path}/agent_only"),
        certificate_files=("/c-10.0.0.1",), identity_agent=ssh_config.home_folder() + "/agent", identities_only=True,
        proxy_command="nc 10.0.0.1 2222", host_key_alias="alias", host_key_algorithms="ssh-ed25519", accept_new=True,
        known_hosts_file=f"{tmp_path}/kh", address_family="inet6", forward_agent=True, config_file="cfg",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "agent"), [("SSH_AUTH_SOCK", "/a"), ("none", "none"), ("$OTHER", "/o"), ("/p", "/p")]
)
def test_the_agent(value: str, agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/a")
    monkeypatch.setenv("OTHER", "/o")
    (entry,) = EntryBuilder(cache=str(tmp_path)).entries({"h": {"identityagent": value}})
    assert entry.identity_agent == agent


def test_an_address_that_could_be_an_option_is_rejected(tmp_path: Path) -> None:
    builder = EntryBuilder(cache=str(tmp_path))
    entries = builder.entries({"a": {"hostname": "-oX=1"}, "b": {"hostname": "b"}, "c": {"user": "x;y"}})
    assert [entry.name for entry in entries] == ["b"]
    assert set(builder.rejected) == {"a", "c"}


def test_remembering(tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    missing = tmp_path / "missing"
    paths = [str(watched), str(missing)]
    watched.write_text("1")
    cache = FileCache("kind", ["key"], str(tmp_path / "cache"))
    assert cache.load() is None
    cache.save(look_at(paths), {"a": 1})
    assert cache.load() == {"a": 1}
    assert FileCache("kind", ["other"], str(tmp_path / "cache")).load() is None
    watched.write_text("22")
    assert cache.load() is None
    cache.save(look_at(paths), {"a": 2})
    missing.write_text("")
    assert cache.load() is None, "a file that didn't exist came into being"


def test_a_cache_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    cache = FileCache("kind", ["key"], str(tmp_path / "cache"))
    cache.save([], {"a": 1})
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    assert cache.load() is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 3}', "\xff"])
def test_a_damaged_cache_is_none(text: str, tmp_path: Path) -> None:
    cache = FileCache("kind", ["key"], str(tmp_path))
    cache.save([], {"a": 1})
    (file,) = tmp_path.iterdir()
    file.write_text(text, encoding="latin-1")
    assert cache.load() is None


def test_a_cache_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = FileCache("kind", ["key"], str(tmp_path / "file" / "cache"))
    cache.save([], {"a": 1})
    assert cache.load() is None
