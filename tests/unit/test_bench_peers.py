"""The peers of the benchmarks: how their answers are read, and when one doesn't count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ops.bench import peers
from ops.bench.field import Field
from ops.bench.peer_environment import PeerEnvironment

MADE = PeerEnvironment(dict.fromkeys(("pdsh", "clush", "taktuk", "ansible", "parallel-ssh"), "/bin/tool"))


def area(*, ssh_config: str = "", forwards_agent: bool = True) -> Field:
    return Field(
        hosts=("h1", "h2"), names="h[1-2]", addresses=("10.0.0.1", "10.0.0.2"), port=22, user="someone",
        identity="/key", known_hosts="/known", directory=Path("/hosts.yaml"), slice="all", ssh_config=ssh_config,
        forwards_agent=forwards_agent,
    )  # fmt: skip


def test_prefixed_lines_are_read_by_host() -> None:
    said = "h2: one: two\nh1: 1.5\na line without a host\nh2: three\n"
    assert peers.read_prefixed(said) == {"h2": "one: two\nthree", "h1": "1.5"}


def test_of_ansible_only_hosts_that_ended_well_are_heard() -> None:
    said = (
        "[WARNING]: something\nh1 | CHANGED | rc=0 >>\n17.5\nConnection to 10.0.0.1 closed.\n\n"
        "h2 | UNREACHABLE! => {\n    \"msg\": \"no\"\n}\nh3 | FAILED | rc=1 >>\n18.5\nnon-zero return code\n"
    )  # fmt: skip
    assert peers.read_ansible(said) == {"h1": "17.5\nConnection to 10.0.0.1 closed."}


def test_of_plush_only_hosts_that_ended_well_are_heard() -> None:
    lines = [
        {"host": "h1", "state": "exited", "code": 0, "stdout": "17.5\n"},
        {"host": "h2", "state": "exited", "code": 1, "stdout": "18.5\n"},
        {"host": "h3", "state": "unreachable", "code": None, "stdout": ""},
        {"summary": {"ok": 1}},
    ]
    assert peers.read_plush("\n".join(map(json.dumps, lines))) == {"h1": "17.5"}


def test_an_answer_of_all_hosts_counts() -> None:
    assert not peers.unheard(("h1", "h2"), {"h2": "", "h1": ""}, "some warning")


def test_an_answer_that_lacks_a_host_says_which_and_what_the_tool_said() -> None:
    why = peers.unheard(("h1", "h2", "h3"), {"h2": ""}, "refused\n  by h1")
    assert why == "heard 1 of 3 hosts, not h1, h3; it said: refused by h1"


def test_a_host_that_was_not_asked_doesnt_count_either() -> None:
    assert "and h9, who was not asked" in peers.unheard(("h1",), {"h1": "", "h9": ""}, "")


@pytest.mark.parametrize("peer", peers.PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_is_told_the_command_and_the_hosts(peer: peers.Peer) -> None:
    call = peer.call(area(), MADE, "date +%s.%N")
    told = " ".join((*call.argv, call.standard_input))
    assert "date +%s.%N" in told
    assert "h1" in told or "h[1-2]" in told


@pytest.mark.parametrize("peer", peers.PEERS.values(), ids=lambda peer: peer.name)
def test_every_peer_logs_in_as_the_area_says(peer: peers.Peer) -> None:
    call = peer.call(area(ssh_config="/conf"), MADE, "true")
    told = " ".join((*call.argv, *call.environ.values(), call.standard_input))
    assert "/conf" in told or "/key" in told  # a library knows no configuration of OpenSSH


def test_taktuk_forwards_the_agent_only_where_logins_need_it() -> None:
    assert "ssh -A" in peers.taktuk(area(), MADE, "true").argv
    assert "ssh -F /conf" in peers.taktuk(area(ssh_config="/conf", forwards_agent=False), MADE, "true").argv


def test_pdsh_takes_further_options_of_ssh() -> None:
    call = peers.pdsh(area(ssh_config="/conf"), MADE, "true", "-o", "ControlPath=/a b")
    assert call.environ["PDSH_SSH_ARGS_APPEND"] == "-F /conf -o 'ControlPath=/a b'"


def test_peers_see_nothing_of_plush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUSH_REDIS_URL", "x")
    environ = peers.environ_of(peers.Call((), {"A": "b"}))
    assert environ["A"] == "b"
    assert "PLUSH_REDIS_URL" not in environ


def test_an_area_survives_json() -> None:
    assert Field.from_mapping(json.loads(json.dumps(area().to_mapping()))) == area()
