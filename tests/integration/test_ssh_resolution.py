"""Names resolved by the real ``ssh -G`` and known_hosts made by the real ``ssh-keygen``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plush_worker.experiment.directory import HostOptions, Resolved, resolve
from plush_worker.experiment.host_list import HostListError
from plush_worker.experiment.ssh_config import SshConfigError
from plush_worker.model import HostEntry

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh")


class Configuration:
    """An OpenSSH configuration in a folder, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "config"

    def write(self, text: str, name: str = "config") -> None:
        usual = f"\nHost *\n UserKnownHostsFile {self.folder}/known_hosts\n GlobalKnownHostsFile none\n"
        (self.folder / name).write_text(text + (usual if name == "config" else ""))

    def resolve(self, *texts: str, **options: object) -> Resolved:
        given = HostOptions(config_file=str(self.path), **options)  # type: ignore[arg-type]
        return resolve(texts, given, cache=str(self.folder / "cache"))

    def entry(self, text: str, **options: object) -> HostEntry:
        found = self.resolve(text, **options)
        assert not found.rejected
        return found.entries[0]

    def make_key(self, name: str) -> str:
        """A fresh public key, "ssh-ed25519 AAAA..."."""
        path = self.folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
        return " ".join(path.with_suffix(".pub").read_text().split()[:2])


@pytest.fixture
def config(tmp_path: Path) -> Configuration:
    return Configuration(tmp_path)


def asked_again(config: Configuration, monkeypatch: pytest.MonkeyPatch, *texts: str) -> Resolved:
    """Resolves with ssh forbidden: everything has to be remembered."""
    with monkeypatch.context() as patch:
        patch.setattr("plush_worker.experiment.ssh_config._ask_all", None)
        patch.setattr("plush_worker.experiment.known_hosts.KnownHosts.read", None)
        return config.resolve(*texts)


def test_hosts_patterns_and_includes(config: Configuration) -> None:
    config.write(f"Include {config.folder}/more/*.conf\nHost n*\n HostName %h.example.org\n Port 2222\n User me\n")
    (config.folder / "more").mkdir()
    config.write("Host n2\n Port 23\n IdentitiesOnly yes\n", "more/a.conf")
    first, second, other = config.resolve("n1,n2,x").entries
    assert (first.address, first.port, first.user, first.identities_only) == ("n1.example.org", 2222, "me", False)
    assert (second.address, second.port, second.identities_only) == ("n2.example.org", 23, True)
    assert (other.address, other.port) == ("x", 22)
    assert config.entry("you@n1").user == "you"
    assert config.entry("n1", login="they").user == "they"
    assert config.entry("you@n1", login="they").user == "you"


def test_match(config: Configuration) -> None:
    config.write('Match host a user you\n Port 7\nMatch exec "test %n = b"\n Port 8\n')
    ports = {entry.name: entry.port for entry in config.resolve("a,you@a,b").entries}
    assert ports == {"a": 22, "you@a": 7, "b": 8}


def test_what_match_exec_decides_is_asked_each_time(config: Configuration) -> None:
    config.write(f'Match exec "test -e {config.folder}/flag"\n Port 8\n')
    assert config.entry("a").port == 22
    (config.folder / "flag").write_text("")
    assert config.entry("a").port == 8


def test_answers_are_remembered_until_a_file_changes(config: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write(f"Include {config.folder}/more/*.conf\n")
    (config.folder / "more").mkdir()
    before = config.resolve("n[1-3]").entries
    assert asked_again(config, monkeypatch, "n[1-3]").entries == before
    assert asked_again(config, monkeypatch, "n2,n1").entries == [before[1], before[0]]
    more = config.resolve("n[1-5]").entries
    assert more[:3] == before
    assert asked_again(config, monkeypatch, "n[1-5]").entries == more
    config.write("Host *\n Port 99\n", "more/new.conf")
    assert {entry.port for entry in config.resolve("n[1-5]").entries} == {99}
    config.write("Host *\n Port 98\n", "more/new.conf")
    assert {entry.port for entry in config.resolve("n[1-5]").entries} == {98}


def test_host_keys_in_every_form(config: Configuration) -> None:
    config.write("Host aliased\n HostKeyAlias the-alias\nHost off-port\n Port 2222\n")
    keys = {name: config.make_key(name) for name in ("plain", "hashed", "hashed-port", "alias", "authority", "pattern")}
    known = config.folder / "known_hosts"
    known.write_text(f"hashed {keys['hashed']}\n[off-port]:2222 {keys['hashed-port']}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    assert "hashed" not in known.read_text()
    with known.open("a") as stream:
        stream.write(
            f"plain,10.0.0.1 {keys['plain']}\nthe-alias {keys['alias']}\nbroken line\n"
            f"@cert-authority *.ca {keys['authority']}\nnode*,!node7 {keys['pattern']}\n"
            f"@revoked plain {keys['pattern']}\n"
        )
    entries = {
        entry.name: entry.known_hosts
        for entry in config.resolve("plain,hashed,off-port,aliased,x.ca,node[6-7]").entries
    }
    assert entries == {
        "plain": (keys["plain"], "@revoked " + keys["pattern"]),
        "hashed": (keys["hashed"],),
        "off-port": (keys["hashed-port"],),
        "aliased": (keys["alias"],),
        "x.ca": ("@cert-authority " + keys["authority"],),
        "node6": (keys["pattern"],),
        "node7": (),
    }


def test_a_new_host_key_is_seen_at_once(config: Configuration) -> None:
    config.write("")
    assert config.entry("a").known_hosts == ()
    key = config.make_key("key")
    (config.folder / "known_hosts").write_text(f"a {key}\n")
    assert config.entry("a").known_hosts == (key,)


def test_jump_hosts_are_resolved_like_others(config: Configuration) -> None:
    key = config.make_key("key")
    (config.folder / "known_hosts").write_text(f"[gw.example]:2222 {key}\n")
    config.write(
        "Host inside\n ProxyJump gw\nHost deep\n ProxyJump second,op@third:24\n"
        "Host gw\n HostName gw.example\n User jumper\n Port 2222\nHost second\n ProxyJump gw\n"
        "Host third\n ProxyJump no-matter\n"
    )
    inside, deep = config.resolve("inside,deep").entries
    assert inside.proxy_jump == "gw"
    (jump,) = (HostEntry.from_json(text) for text in inside.jumps)
    assert (jump.address, jump.port, jump.user, jump.known_hosts) == ("gw.example", 2222, "jumper", (key,))
    through = [HostEntry.from_json(text) for text in deep.jumps]
    assert [(e.address, e.port) for e in through] == [("gw.example", 2222), ("second", 22), ("third", 24)]
    assert through[2].user == "op"


def test_jump_hosts_that_lead_back_to_themselves_reject_only_their_own(config: Configuration) -> None:
    config.write("Host a\n ProxyJump b\nHost b\n ProxyJump c\nHost c\n ProxyJump b\n")
    found = config.resolve("a,ok")
    assert [entry.name for entry in found.entries] == ["ok"]
    assert "ProxyJump b" in found.rejected["a"] and "lead back to themselves" in found.rejected["a"]


def test_a_proxy_command_is_expanded(config: Configuration) -> None:
    config.write("Host a\n HostName 10.0.0.1\n Port 23\n User me\n ProxyCommand nc -x %%p %h %p %r %n\n")
    assert config.entry("a").proxy_command == "nc -x %p 10.0.0.1 23 me a"


def test_strictness(config: Configuration) -> None:
    config.write("Host new\n StrictHostKeyChecking accept-new\nHost careless\n StrictHostKeyChecking no\n")
    found = config.resolve("strict,new,careless")
    assert [entry.accept_new for entry in found.entries] == [False, True, True]
    assert len(found.notes) == 1 and "careless" in found.notes[0]
    assert found.entries[1].known_hosts_file == f"{config.folder}/known_hosts"


def test_settings_without_a_slice(config: Configuration) -> None:
    config.write("Host a*\n ForwardAgent yes\n ConnectTimeout 3\nHost b\n ConnectTimeout 7\n")
    both = config.resolve("a,b").settings
    assert (both.inner_login, both.connect_timeout_s) == ("none", 7)
    only = config.resolve("a1,a2").settings
    assert (only.inner_login, only.connect_timeout_s) == ("agent", 3)
    assert config.resolve("c").settings.connect_timeout_s == 10


def test_usual_algorithms_are_not_carried_along(config: Configuration) -> None:
    config.write("Host picky\n HostKeyAlgorithms ssh-ed25519\n")
    usual, picky = config.resolve("usual,picky").entries
    assert usual.host_key_algorithms == ""
    assert picky.host_key_algorithms == "ssh-ed25519"


def test_all_lists_the_configurations_hosts(config: Configuration) -> None:
    config.write("Host a b\nHost *.wild !c\nHost d;e\nMatch host f\n")
    assert [entry.name for entry in config.resolve("@all").entries] == ["a", "b"]
    with pytest.raises(HostListError, match="no host directory that could define groups"):
        config.resolve("@web")


def test_a_configuration_that_ssh_refuses(config: Configuration) -> None:
    config.write("Host a\n NoSuchOption yes\n")
    with pytest.raises(SshConfigError) as caught:
        config.resolve("a,b")
    message = str(caught.value)
    assert str(config.path) in message and "nosuchoption" in message.lower() and "line 2" in message


def test_a_configuration_that_is_not_there(config: Configuration) -> None:
    with pytest.raises(SshConfigError, match="No such file"):
        config.resolve("a,b")


def test_a_relative_path_is_made_absolute(config: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever uses the entry later, a worker say, stands in another folder."""
    config.write("Host a\n Port 77\n")
    monkeypatch.chdir(config.folder)
    (entry,) = resolve(["a"], HostOptions(config_file="config"), cache=str(config.folder / "cache")).entries
    assert (entry.port, entry.config_file) == (77, str(config.path))


def test_no_ssh(config: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write("")
    monkeypatch.setenv("PATH", str(config.folder))
    with pytest.raises(SshConfigError, match="install OpenSSH's client"):
        config.resolve("a")


def test_a_directory_is_filled_in_from_the_configuration(config: Configuration) -> None:
    key = config.make_key("key")
    (config.folder / "known_hosts").write_text(f"10.9.9.9 {key}\n")
    config.write("Host * !gw\n User from-config\n Port 2222\n ProxyJump gw\nHost gw\n HostName gw.example\n")
    (config.folder / "hosts.yaml").write_text(
        "ssh_config: config\nhosts:\n  a:\n"
        "  b: {address: 10.9.9.9, port: 22, user: from-directory, proxy_command: nc %h}\n"
    )
    options = HostOptions(directory=str(config.folder / "hosts.yaml"))
    first, second = resolve(["a,b"], options, cache=str(config.folder / "cache")).entries
    assert (first.address, first.user, first.port, first.proxy_jump) == ("a", "from-config", 2222, "gw")
    assert (second.address, second.user, second.port) == ("10.9.9.9", "from-directory", 22)
    assert (second.proxy_jump, second.jumps, second.proxy_command) == ("", (), "nc 10.9.9.9")
    assert second.known_hosts == (key,)


def test_a_warm_resolution_imports_nothing_dear(config: Configuration) -> None:
    """The command line's first request has to leave within 150 ms; these cost 10 to 60 ms each."""
    config.write("Host n*\n User me\n")
    code = (
        "import json, sys\n"
        "from plush_worker.experiment.directory import HostOptions, resolve\n"
        f"found = resolve(['n[1-64]'], HostOptions(config_file={str(config.path)!r}), cache={str(config.folder)!r})\n"
        "print(json.dumps([len(found.entries), sorted(m.partition('.')[0] for m in sys.modules)]))\n"
    )
    root = Path(__file__).parents[2]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    count, modules = json.loads(done.stdout)
    assert count == 64
    assert not {"pydantic", "yaml", "asyncio", "ClusterShell", "subprocess", "asyncssh", "hmac"} & set(modules)
