"""Links that a real node program opens with the real ssh to real sshd: the keys it accepts, how failures are told."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plush_api.local_hosts import HostEnvironment, LocalHosts
from plush_worker.node import frames

from .node_driver import NodeDriver
from .test_node_pipes import with_limits
from .test_node_tree import final

HOST_COUNT = 6
CERTIFIED, CHATTY, FORCED = "node4", "node5", "node6"
OP = {"command": b"echo $SSH_CONNECTION", "env": {}, "ttl_s": 60, "timeout_s": 0}


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts], tmp_path_factory: pytest.TempPathFactory) -> LocalHosts:
    """Six hosts; node4 shows a certificate, node5 is chatty, node6 lets nobody run anything."""
    folder = tmp_path_factory.mktemp("ca")
    return local_hosts(
        HOST_COUNT,
        environments={
            CERTIFIED: HostEnvironment(sshd_options=(f"HostCertificate {folder}/host-cert.pub",)),
            CHATTY: HostEnvironment(prints=b"Welcome!\n" * 100_000, shell="/usr/bin/fish"),
            FORCED: HostEnvironment(sshd_options=("ForceCommand echo This account is disabled; exit 1",)),
        },
    )


@pytest.fixture(scope="module")
def authority(hosts: LocalHosts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The public key of an authority that has signed node4's key for its address."""
    folder = next(iter(tmp_path_factory.getbasetemp().glob("ca*")))
    run = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "authority")]
    subprocess.run(run, check=True)
    host = hosts.hosts[CERTIFIED]
    (folder / "host.pub").write_text(host.host_key + "\n")
    sign = ["ssh-keygen", "-q", "-s", str(folder / "authority"), "-I", "node4", "-h", "-n", host.address]
    subprocess.run([*sign, str(folder / "host.pub")], check=True)
    hosts.stop(CERTIFIED)
    hosts.start(CERTIFIED)
    return " ".join((folder / "authority.pub").read_text().split()[:2])


@pytest.fixture
def node() -> Iterator[NodeDriver]:
    with NodeDriver(payload=with_limits(BOOTSTRAP_S=1), connect_s=2) as made:
        yield made.start()


def entry(hosts: LocalHosts, number: int, parent: int, keys: str | None = None) -> list[object]:
    host = hosts.hosts[f"node{number}"]
    accepted = (host.host_key if keys is None else keys).encode()
    return [number, parent, host.name, host.address, host.port, host.user, accepted, 0]


def link(node: NodeDriver, hosts: LocalHosts, order: int, *entries: list[object]) -> None:
    ssh = [["-i", str(hosts.identity), "-o", "IdentitiesOnly=yes", "-F", "none"]]
    node.send(frames.LINK, [0], order=order, ssh=ssh, entries=list(entries))


def test_a_tree_over_ssh_runs_an_op_and_leaves_nothing(node: NodeDriver, hosts: LocalHosts) -> None:
    link(node, hosts, 2, entry(hosts, 1, 0), entry(hosts, 2, 1), entry(hosts, 3, 2), entry(hosts, 5, 0))
    node.send(frames.OP, [1, 2, 3, 5], op=10, **OP)
    node.wait(lambda node: node.ready() == {0, 1, 2, 3, 5})
    node.wait(lambda node: final(node, 10) == {1, 2, 3, 5})
    node.wait(lambda node: len({h for f in node.of(frames.OUTPUT) for h in f.hosts}) == 4)
    for output in node.of(frames.OUTPUT):
        for number in output.hosts:
            assert b" %b " % hosts.hosts[f"node{number}"].address.encode() in output.body or not output.body[18:]
    node.send(frames.CLOSE, [1, 2, 3, 5], ops=[10])
    node.quit(range(6))
    assert node.wait_end() == 0
    assert node.state_dirs() == []
    assert hosts.wait_quiet(5) == []


def lost(node: NodeDriver, number: int) -> tuple[str, str]:
    """(code, detail) once the link to ``number`` has failed."""
    node.wait(lambda node: number in node.lost())
    fields = next(f.fields for f in node.of(frames.LOST) if f.fields["child"] == number)
    assert not fields["reached"]
    return fields["code"], fields["detail"]


def test_only_the_pinned_key_is_accepted(node: NodeDriver, hosts: LocalHosts) -> None:
    other = hosts.hosts["node2"].host_key
    link(node, hosts, 2, entry(hosts, 1, 0, keys=other), entry(hosts, 2, 0, keys=""), entry(hosts, 3, 0))
    code, detail = lost(node, 1)
    assert code == "host_key"
    assert "CHANGED" in detail
    assert lost(node, 2)[0] == "host_key"
    node.wait(lambda node: 3 in node.ready())


def test_a_revoked_key_is_not_accepted(node: NodeDriver, hosts: LocalHosts) -> None:
    key = hosts.hosts["node1"].host_key
    link(node, hosts, 2, entry(hosts, 1, 0, keys=f"{key}\n@revoked {key}\n"))
    code, detail = lost(node, 1)
    assert code == "host_key"
    assert "revoked" in detail.lower()


def test_a_certificate_of_the_authority_is_accepted_for_its_address_only(
    node: NodeDriver, hosts: LocalHosts, authority: str
) -> None:
    link(node, hosts, 2, entry(hosts, 4, 0, keys=f"@cert-authority {authority}"))
    node.wait(lambda node: 4 in node.ready())
    moved = entry(hosts, 4, 0, keys=f"@cert-authority {authority}")
    moved[3] = hosts.hosts["node1"].address
    link(node, hosts, 3, [11, *moved[1:]])
    assert lost(node, 11)[0] == "host_key"


def test_a_chatty_host_with_another_shell_comes_up(
    node: NodeDriver, hosts: LocalHosts, program: Callable[[str], str]
) -> None:
    program("fish")
    link(node, hosts, 2, entry(hosts, 5, 0))
    node.wait(lambda node: 5 in node.ready())


def test_a_host_that_runs_something_else_is_quoted(node: NodeDriver, hosts: LocalHosts) -> None:
    link(node, hosts, 2, entry(hosts, 6, 0))
    code, detail = lost(node, 6)
    assert code == "bootstrap"
    assert "This account is disabled" in detail


def test_a_login_that_is_refused(node: NodeDriver, hosts: LocalHosts, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    ssh = [["-i", str(tmp_path / "other"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-F", "none"]]
    node.send(frames.LINK, [0], order=2, ssh=ssh, entries=[entry(hosts, 1, 0)])
    code, detail = lost(node, 1)
    assert code == "auth"
    assert "Permission denied" in detail


def test_a_host_that_is_down_or_does_not_answer_or_has_no_address(node: NodeDriver, hosts: LocalHosts) -> None:
    hosts.stop("node1")
    hosts.pause("node2")
    try:
        nameless = entry(hosts, 3, 0)
        nameless[3] = "no-such-host.invalid"
        link(node, hosts, 2, entry(hosts, 1, 0), entry(hosts, 2, 0), nameless, [12, *entry(hosts, 5, 0)[1:]])
        assert lost(node, 1)[0] == "refused"
        assert lost(node, 2)[0] == "timeout"
        assert lost(node, 3)[0] == "name"
        node.wait(lambda node: 12 in node.ready())
    finally:
        hosts.resume("node2")
        hosts.start("node1")


def test_a_connection_that_breaks_ends_what_hangs_below_it(node: NodeDriver, hosts: LocalHosts) -> None:
    link(node, hosts, 2, entry(hosts, 1, 0), entry(hosts, 2, 1))
    node.wait(lambda node: node.ready() == {0, 1, 2})
    hosts.stop("node1")
    try:
        node.wait(lambda node: 1 in node.lost())
        assert node.lost()[1] == ("eof", [1, 2])
        assert hosts.wait_quiet(5) == []
    finally:
        hosts.start("node1")
    link(node, hosts, 3, entry(hosts, 1, 0))
    node.wait(lambda node: len(node.ready() & {1}) == 1 and node.of(frames.READY)[-1].hosts == [1])
    node.quit(range(6))
    assert node.wait_end() == 0
    assert node.state_dirs() == []
