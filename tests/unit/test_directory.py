"""The host directory: what it may hold, what is wrong with it, and which setting wins."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from plush_worker.experiment.directory import DirectoryError, HostOptions, Resolved, find_directory, resolve
from plush_worker.experiment.directory_file import HostFields, SliceFields, read_directory_file
from plush_worker.experiment.host_list import HostListError
from plush_worker.model import HostEntry, SliceSettings

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH5Zz1pTnDjpdKoCE4X6ni3bhPnGB6BmPUKTYZR1DVsI"
EXAMPLE = Path(__file__).parents[2] / "examples" / "hosts.yaml"


class Files:
    """A folder with a directory file in it and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "hosts.yaml"

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def resolve(self, *texts: str, **options: object) -> Resolved:
        given = HostOptions(directory=str(self.path), **options)  # type: ignore[arg-type]
        return resolve(texts, given, cache=str(self.folder / "cache"))

    def errors(self, text: str) -> list[str]:
        self.write(text)
        with pytest.raises(DirectoryError) as caught:
            read_directory_file(str(self.path))
        return str(caught.value).replace(str(self.folder) + "/", "").split("\n")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def by_name(resolved: Resolved) -> dict[str, HostEntry]:
    return {entry.name: entry for entry in resolved.entries}


def test_the_example(tmp_path: Path) -> None:
    found = resolve(["@all"], HostOptions(directory=str(EXAMPLE)), cache=str(tmp_path))
    entries = by_name(found)
    assert len(entries) == 22 and not found.rejected
    assert entries["node7.example.org"].address == "192.0.2.7"
    assert entries["node16.example.org"].port == 2222
    assert entries["node16.example.org"].tags == ("testbed", "big")
    assert entries["gateway.example.net"].known_hosts == (KEY,)
    assert entries["inner03.example.net"].reachable_from == ("gateway.example.net",)
    trial = resolve([], HostOptions(directory=str(EXAMPLE), slice="trial"), cache=str(tmp_path))
    assert len(trial.entries) == 13
    assert trial.settings == SliceSettings(
        name="trial", inner_login="agent", inner_ssh_options=("KexAlgorithms=curve25519-sha256",)
    )
    assert by_name(trial)["gateway.example.net"].user == "experiment"


def test_every_setting_can_be_written() -> None:
    assert {field.name for field in fields(SliceSettings)} - {"name"} <= SliceFields.model_fields.keys()
    renamed = {"known_hosts": "host_keys", "identity_files": "identity", "certificate_files": "certificate"}
    made = {"name", "config_file", "jumps"}
    assert {renamed.get(f.name, f.name) for f in fields(HostEntry)} - made <= HostFields.model_fields.keys()


def test_later_lines_add_to_earlier_ones_and_defaults_stand_behind(files: Files) -> None:
    files.write(
        "ssh_config: false\ndefaults: {user: d, site: s}\n"
        "hosts:\n  n[1-3]: {port: 1}\n  n2: {port: 2, user: u}\n  n3:\n"
    )
    entries = by_name(files.resolve("n[1-3]"))
    assert [(e.port, e.user, e.site) for e in entries.values()] == [(1, "d", "s"), (2, "u", "s"), (1, "d", "s")]


def test_whose_login_wins(files: Files) -> None:
    files.write("ssh_config: false\nhosts:\n  a: {user: host}\n  b:\nslices:\n  s: {user: slice}\n")
    assert [e.user for e in files.resolve("a,b").entries] == ["host", ""]
    assert [e.user for e in files.resolve("a,b", slice="s").entries] == ["slice", "slice"]
    assert [e.user for e in files.resolve("a,me@b", slice="s", login="l").entries] == ["l", "me"]


def test_patterns_are_dealt_out(files: Files) -> None:
    files.write(
        'ssh_config: false\nhosts:\n  "a,n[1-2]":\n    address: 10.0.0.[5-7]\n    port: "[2201-2203]"\n'
        "  six[1-2]: {address: 'fd00::[1-2]'}\n  one: {address: '[::1]'}\n"
    )
    entries = by_name(files.resolve("@all"))
    assert [(e.address, e.port) for e in entries.values()] == [
        ("10.0.0.5", 2201), ("10.0.0.6", 2202), ("10.0.0.7", 2203), ("fd00::1", 22), ("fd00::2", 22), ("::1", 22),
    ]  # fmt: skip


def test_groups_slices_tags_sites(files: Files) -> None:
    files.write(
        "ssh_config: false\nhosts:\n  n[1-4]: {site: ams, tags: big}\n  m: {tags: [small]}\n"
        "groups:\n  low: n[1-2]\n  mixed: '@low,@small,n4'\nslices:\n  high: {hosts: '@all!@low'}\n"
    )
    for text, expected in {
        "@mixed": "n1 n2 m n4", "@big": "n1 n2 n3 n4", "@ams!@low": "n3 n4", "@high": "n3 n4 m",
        "@all": "n1 n2 n3 n4 m",
    }.items():  # fmt: skip
        assert [entry.name for entry in files.resolve(text).entries] == expected.split()
    with pytest.raises(HostListError, match=r"no group, slice, tag or site of that name; did you mean 'mixed'\?"):
        files.resolve("@mixt")


def test_unknown_hosts_are_rejected_and_the_others_stand(files: Files) -> None:
    files.write("ssh_config: false\nhosts:\n  node[1-3]:\nslices:\n  s: {hosts: node1}\n")
    found = files.resolve("node1,nodee2")
    assert [entry.name for entry in found.entries] == ["node1"]
    assert found.rejected == {"nodee2": f"not in the host directory {files.path}; did you mean 'node2'?"}
    assert "not a host of slice 's'" in files.resolve("node1,node2", slice="s").rejected["node2"]


def test_unknown_slices(files: Files) -> None:
    files.write("hosts:\n  a:\nslices:\n  night: {}\n")
    with pytest.raises(DirectoryError, match=r"no slice 'nigth'; did you mean 'night'\?"):
        files.resolve("a", slice="nigth")


def test_paths_are_relative_to_the_file(files: Files) -> None:
    (files.folder / "kh").write_text(f"a {KEY}\n[b]:23 {KEY}\n")
    files.write(
        "ssh_config: false\nknown_hosts: kh\nhosts:\n  a: {identity: keys/id, identity_agent: none}\n"
        "  b: {port: 23, identity: [/abs, ~/home]}\n"
    )
    first, second = files.resolve("a,b").entries
    assert first.identity_files == (f"{files.folder}/keys/id",)
    assert first.identity_agent == "none"
    assert first.known_hosts == second.known_hosts == (KEY,)
    assert second.identity_files[0] == "/abs"
    assert not second.identity_files[1].startswith("~")


def test_a_pinned_key_replaces_known_hosts(files: Files) -> None:
    other = KEY[:-4] + "AAAA"
    (files.folder / "kh").write_text(f"a {KEY}\n")
    files.write(f"ssh_config: false\nknown_hosts: kh\nhosts:\n  a: {{host_key: '@cert-authority {other} comment'}}\n")
    assert files.resolve("a").entries[0].known_hosts == (f"@cert-authority {other}",)


def test_flat_unless_the_agent_is_forwarded_to_all(files: Files) -> None:
    files.write("ssh_config: false\nhosts:\n  a: {forward_agent: true}\n  b:\n")
    assert files.resolve("a").settings.inner_login == "agent"
    assert files.resolve("a,b").settings.inner_login == "none"


def test_every_error_has_its_line_and_path_and_all_come_at_once(files: Files) -> None:
    assert files.errors(
        "defaults:\n  usr: me\nhosts:\n  a:\n    prot: 22\n    tags: 3\n  b: {address_family: inet4}\n"
        "slices:\n  s:\n    planer: flat\n    degree: 0\nhost: {}\n"
    ) == [
        "hosts.yaml:2: defaults.usr: no such field; did you mean 'user'?",
        "hosts.yaml:5: hosts.a.prot: no such field; did you mean 'port'?",
        "hosts.yaml:6: hosts.a.tags: input should be a valid list, not 3",
        "hosts.yaml:7: hosts.b.address_family: input should be 'any', 'inet' or 'inet6', not 'inet4'",
        "hosts.yaml:10: slices.s.planer: no such field; did you mean 'planner'?",
        "hosts.yaml:11: slices.s.degree: input should be greater than or equal to 1, not 0",
        "hosts.yaml:12: host: no such field; did you mean 'hosts'?",
    ]


def test_what_the_form_alone_does_not_show(files: Files) -> None:
    found = files.errors(
        "hosts:\n  n[1-3]:\n    address: 10.0.0.[1-2]\n    port: 99999\n  n[3-:\n  'a;b':\n  me@c:\n"
        "  d: {host_key: ssh-rsa nonsense, user: -x}\n  e: {reachable_from: [n1, n9, '@t']}\n"
        "groups:\n  g: n1,n7\n  h: '@i'\n  i: '@h'\n  j: '@none'\n"
        "slices:\n  s: {hosts: zz, inner_ssh_options: ['-oX']}\n"
    )
    expected = [
        (3, "hosts.n[1-3].address: '10.0.0.[1-2]' stands for 2 values, and there are 3 hosts"),
        (4, "hosts.n[1-3].port: '99999' is no port"),
        (5, "hosts.n[3-: 'n[3-'"),
        (6, "hosts.a;b: host 'a;b' has ';'"),
        (7, "hosts.me@c: a login belongs under user:"),
        (8, "hosts.d.host_key: 'ssh-rsa nonsense' is no host key"),
        (8, "hosts.d.user: '-x' begins with"),
        (9, "hosts.e.reachable_from: '@t' is neither"),
        (9, "hosts.e.reachable_from: 'n9' is neither"),
        (11, "groups.g: 'n7' is not under hosts:"),
        (13, "groups.i: @h: groups lead back to themselves: h -> i -> h"),
        (14, "groups.j: @none: this file has no group"),
        (16, "slices.s.hosts: 'zz' is not under hosts:"),
        (16, "slices.s.inner_ssh_options: '-oX' is not of the form Name=value"),
    ]
    for line, start in expected:
        assert any(text.startswith(f"hosts.yaml:{line}: {start}") for text in found), (line, start, found)
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hosts: [", "hosts.yaml:2: not YAML: "),
        ("hosts:\n\ta:\n", "hosts.yaml:2: not YAML: "),
        ("hosts:\n  a: {user: x}\n  a: {user: y}\n", "hosts.yaml:3: hosts.a: is given twice"),
        ("hosts:\n  a:\ngroups:\n  g: []\n", "hosts.yaml:4: groups.g: names no hosts"),
        ("- a\n", "hosts.yaml:1: input should be"),
        ("a: &a [*a]\n", "hosts.yaml: values are nested too deep"),
        ("hosts: !!python/object:os.system {}\n", "hosts.yaml:1: not YAML: could not determine a constructor"),
    ],
)
def test_files_that_are_no_directory(text: str, expected: str, files: Files) -> None:
    assert files.errors(text)[0].startswith(expected)


def test_nested_aliases_end(files: Files) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "values, aliases followed" in files.errors("\n".join(lines))[0]


def test_an_empty_file_has_no_hosts(files: Files) -> None:
    files.write("# nothing yet\n")
    assert files.resolve("a").rejected.keys() == {"a"}


def test_a_checked_file_is_remembered_until_it_changes(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write("ssh_config: false\nhosts:\n  a:\n")
    files.resolve("a")
    with monkeypatch.context() as patch:
        patch.setattr("plush_worker.experiment.directory_file.read_directory_file", None)
        assert [entry.name for entry in files.resolve("a").entries] == ["a"]
    files.write("ssh_config: false\nhosts:\n  a:\n  b:\n")
    assert len(files.resolve("@all").entries) == 2


def test_where_the_directory_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("PLUSH_DIRECTORY", raising=False)
    assert find_directory(HostOptions()) == ""
    usual = tmp_path / "plush" / "hosts.yaml"
    usual.parent.mkdir()
    usual.write_text("")
    assert find_directory(HostOptions()) == str(usual)
    assert find_directory(HostOptions(config_file="x")) == "", "-F on its own asks for OpenSSH's files"
    named = tmp_path / "named.yaml"
    named.write_text("")
    monkeypatch.setenv("PLUSH_DIRECTORY", str(named))
    assert find_directory(HostOptions()) == str(named)
    assert find_directory(HostOptions(directory=str(usual))) == str(usual)
    with pytest.raises(DirectoryError, match="--directory: there is no file"):
        find_directory(HostOptions(directory=str(tmp_path / "none")))
    monkeypatch.setenv("PLUSH_DIRECTORY", "/none")
    with pytest.raises(DirectoryError, match="PLUSH_DIRECTORY: there is no file"):
        find_directory(HostOptions())


def test_a_slice_needs_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("PLUSH_DIRECTORY", raising=False)
    with pytest.raises(DirectoryError, match="no host directory that could define slices; looked for"):
        resolve(["a"], HostOptions(slice="s"))


def test_a_bad_login_is_refused() -> None:
    with pytest.raises(HostListError, match="-l: '-oX' begins"):
        resolve(["a"], HostOptions(login="-oX"))
