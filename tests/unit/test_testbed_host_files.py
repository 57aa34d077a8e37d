"""What stands in a testbed host's files: accounts, names, keys, sshd's configuration, clocks, the host directory."""

from __future__ import annotations

import ipaddress
import json
import uuid
from pathlib import Path

import pytest

from ops.testbed import host_files, host_mounts, machine
from ops.testbed.cgroups import Hierarchies, plan_hierarchies
from ops.testbed.machine import Machine
from plush_worker.experiment.directory import HostOptions, resolve

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPPzcnhAcvfvcVrLHzKvZlnbkXJUVD1RCW7uWvTvV7cA"
NOW_S = 1000.0


def test_every_host_has_an_address_of_its_own() -> None:
    """Two hosts with one address would get each other's packets; .0 and .255 are not for hosts."""
    network = ipaddress.ip_network("10.77.0.0/16")
    addresses = [ipaddress.ip_address(host_files.address(host)) for host in range(host_files.LIMIT)]
    assert len(set(addresses)) == host_files.LIMIT
    assert all(address in network for address in (addresses[0], addresses[-1]))
    assert {int(address) % 256 for address in addresses} == set(range(1, 251))


def test_clocks_are_drawn_alike_and_never_run_backwards() -> None:
    """The kernel refuses a clock below zero, and a run that is repeated has to meet the same clocks."""
    for host in range(300):
        offsets = host_files.draw_clocks(1, host, 0, NOW_S, NOW_S)
        assert offsets == host_files.draw_clocks(1, host, 0, NOW_S, NOW_S)
        assert 60 <= NOW_S + offsets.monotonic_s <= 401 * host_files.DAY_S
        assert 0 <= offsets.boottime_s - offsets.monotonic_s <= 3600
    assert len({host_files.draw_clocks(1, host, 0, NOW_S, NOW_S).monotonic_s for host in range(300)}) == 300
    assert host_files.draw_clocks(1, 3, 0, NOW_S, NOW_S) != host_files.draw_clocks(2, 3, 0, NOW_S, NOW_S)


def test_a_reboot_resets_the_clocks() -> None:
    """A host that came back with its old uptime would look as if it had never been away."""
    for boot in (1, 2):
        offsets = host_files.draw_clocks(1, 3, boot, NOW_S, NOW_S)
        assert 5 <= NOW_S + offsets.monotonic_s <= 60
    assert host_files.draw_boot_id(1, 3, 1) != host_files.draw_boot_id(1, 3, 2)
    assert uuid.UUID(host_files.draw_boot_id(1, 3, 1)).version == 4


@pytest.mark.parametrize(
    ("offset_s", "line"), [(2.5, "monotonic 2 500000000"), (-2.25, "monotonic -3 750000000"), (0.0, "monotonic 0 0")]
)
def test_offsets_below_zero_have_nanoseconds_above(offset_s: float, line: str) -> None:
    """The kernel takes no negative nanoseconds."""
    assert host_files.ClockOffsets(offset_s, 0.0).lines() == f"{line}\nboottime 0 0\n"


def test_accounts() -> None:
    """sshd's own account stays, root's home moves, and nobody is there twice."""
    machine_text = (
        "root:x:0:0:root:/root:/bin/zsh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\ntester:x:1:1::/:/bin/sh\n"
    )
    lines = [line.split(":") for line in host_files.passwd_text(machine_text).splitlines()]
    users = {line[0]: line for line in lines}
    assert [line[0] for line in lines] == ["root", "sshd", "tester"]
    assert users["root"][5:] == ["/home/root", "/bin/bash"]
    assert users["tester"][2:] == ["60000", "60000", "", "/home/tester", "/bin/bash"]
    assert host_files.group_text("a:x:1:\n").splitlines() == ["a:x:1:", "tester:x:60000:"]
    assert "!" not in host_files.shadow_text(), "sshd refuses an account that is locked"


def test_what_is_asked_of_sshd_wins() -> None:
    """Of each keyword sshd takes the first line; a line in a Match block would hold for some logins only."""
    text = host_files.sshd_config_text(
        ["MaxStartups 3", "Match Address 10.0.0.0/8", "MaxSessions 1"], "mlkem", "/opt/bin"
    )
    lines = text.splitlines()
    assert lines[0] == "MaxStartups 3"
    assert lines[-2:] == ["Match Address 10.0.0.0/8", "MaxSessions 1"]
    assert "KexAlgorithms mlkem" in lines
    assert "SetEnv PATH=/opt/bin:/usr/local/bin:/usr/bin:/bin:/usr/games" in lines
    plain = host_files.sshd_config_text().splitlines()
    assert not [line for line in plain if line.startswith(("KexAlgorithms", "SetEnv"))]


@pytest.mark.parametrize("inner_login", ["agent", "key", "none"])
def test_the_directory_is_one_that_plush_takes(tmp_path: Path, inner_login: str) -> None:
    """All but the controller, pinned, as the ordinary user; the slice with what was set on top."""
    path = tmp_path / "hosts.yaml"
    fields = {2: {"reachable_from": ["h1"], "tags": ["private"]}}
    text = host_files.directory_text([KEY] * 4, ["a", "b", "b", "c"], inner_login, {"degree": 3}, fields)
    path.write_text(text)
    options = HostOptions(directory=str(path), slice="testbed")
    found = resolve(["@all"], options, cache=str(tmp_path / "cache"))
    assert not found.rejected
    assert [(entry.name, entry.address, entry.user, entry.site) for entry in found.entries] == [
        ("h1", "10.77.0.2", "tester", "b"),
        ("h2", "10.77.0.3", "tester", "b"),
        ("h3", "10.77.0.4", "tester", "c"),
    ]
    assert all(entry.known_hosts == (KEY,) for entry in found.entries)
    assert found.entries[1].reachable_from == ("h1",)
    assert (found.settings.inner_login, found.settings.degree) == (inner_login, 3)
    without_slice = resolve(["@all"], HostOptions(directory=str(path)), cache=str(tmp_path / "cache"))
    assert without_slice.settings.inner_login == ("agent" if inner_login == "agent" else "none")


def test_names_are_known_to_all() -> None:
    """A host that doesn't know another's name or key can't log in there."""
    assert host_files.hosts_text(2) == "127.0.0.1 localhost\n10.77.0.1 h0\n10.77.0.2 h1\n"
    assert host_files.known_hosts_text([KEY, KEY]).splitlines()[1] == f"h1,10.77.0.2 {KEY}"
    assert json.dumps(host_files.root_ssh_config_text("kex")).count("KexAlgorithms kex") == 1
    assert "KexAlgorithms" not in host_files.root_ssh_config_text() + host_files.system_ssh_config_text()


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (["/opt/x", "/usr"], []),
        (["/tmp/a/b", "/tmp/a"], ["/tmp/a"]),
        (["/tmp", "/home"], []),
        (["/tmp/a", "/tmp/ab"], ["/tmp/a", "/tmp/ab"]),
        (["/tmpx/a"], []),
        (["/home/me/.venv", "/tmp/b", "/tmp/b"], ["/tmp/b", "/home/me/.venv"]),
    ],
)
def test_visible_is_only_what_a_mask_would_hide(paths: list[str], shown: list[str]) -> None:
    """Binding /tmp itself would give all hosts one; binding a folder twice would hide the first."""
    assert host_mounts.visible_below(paths, ("/tmp", "/home")) == shown


ABLE = {"is_linux": True, "is_root": True, "tun_error": "", "namespace_errors": {}, "programs": {"sshd": "/sshd"}}


@pytest.mark.parametrize(
    ("lack", "says"),
    [
        ({"is_linux": False}, "run it on Linux"),
        ({"is_root": False}, "sudo"),
        ({"tun_error": "No such device"}, "/dev/net/tun can't be used (No such device): modprobe tun"),
        ({"namespace_errors": {"time": "Invalid argument"}}, "no time (Linux 5.6) namespace can be made"),
        ({"programs": {"sshd": ""}}, "openssh-server"),
    ],
    ids=["system", "root", "tun", "namespace", "program"],
)
def test_what_a_machine_lacks_is_one_line_that_says_what_to_do(lack: dict[str, object], says: str) -> None:
    """People see this on their first try."""
    problems = machine.plan_problems(Machine(**ABLE | lack))  # type: ignore[arg-type]
    assert len(problems) == 1
    assert says in problems[0]
    assert "\n" not in problems[0]


def test_an_able_machine_has_no_problem() -> None:
    """Else nobody gets any further."""
    assert machine.plan_problems(Machine(**ABLE)) == []  # type: ignore[arg-type]


V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
    "36 31 0:33 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
)


@pytest.mark.parametrize(
    ("mountinfo", "controllers", "found"),
    [
        (V2, ["cpu", "memory"], Hierarchies("/sys/fs/cgroup", True)),
        (V1, [], Hierarchies("", False, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/freezer")),
        (
            V1 + V2.replace("/cgroup rw", "/cgroup/unified rw"),
            ["hugetlb"],
            Hierarchies("/sys/fs/cgroup/unified", False, "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/freezer"),
        ),
        ("", [], Hierarchies()),
    ],
    ids=["v2", "v1", "both", "none"],
)
def test_control_groups_are_found_where_they_are(mountinfo: str, controllers: list[str], found: Hierarchies) -> None:
    """Machines have either kind or both; the wrong place is a file that isn't there."""
    assert plan_hierarchies(mountinfo, lambda _: controllers) == found
