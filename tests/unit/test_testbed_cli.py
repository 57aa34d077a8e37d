"""The testbed's command line: options to settings, the lag's line, what it refuses; and the spec for the keeper."""

from __future__ import annotations

import dataclasses
from array import array
from pathlib import Path

import pytest

from ops.testbed import cli
from ops.testbed.errors import BadInput
from ops.testbed.forwarder_client import Lag, PathSettings
from ops.testbed.keeper_spec import HostSpec, KeeperSpec
from ops.testbed.plan import check_settings, visible_paths
from ops.testbed.testbed import Settings


def settings_of(*words: str) -> Settings:
    return cli.plan_settings(cli.parse_options([*words, "--", "true"]))


def test_options_become_settings() -> None:
    """An option that is dropped gives an experiment on something else than what was asked for."""
    settings = settings_of(
        "--hosts", "6", "--rtt", "zero", "--rate", "20", "--jitter", "0.1", "--loss", "0.01", "--seed", "3", "--sshd",
        "MaxSessions 1", "--sshd", "MaxStartups 1\nLogLevel DEBUG\n", "--kex", "", "--inner-login", "key", "--disk",
        "8", "--cpu", "h0=0.1", "--cpu", "h[2-3]=1", "--python", "h1=/opt/a=b/python3", "--fixture", "peer-only",
        "--visible", "/opt",
    )  # fmt: skip
    assert settings == Settings(
        6, rtt="zero", rate_mbit=20.0, jitter=0.1, loss=0.01, seed=3, kex="", inner_login="key", disk_mib=8,
        sshd_options=("MaxSessions 1", "MaxStartups 1", "LogLevel DEBUG"), cpu_shares={0: 0.1, 2: 1.0, 3: 1.0},
        pythons={1: "/opt/a=b/python3"}, fixture="peer-only", visible=(Path("/opt"),),
    )  # fmt: skip
    assert settings_of() == Settings(16)


def test_the_command_keeps_its_own_options() -> None:
    """Whatever looks like one of ours behind the dashes belongs to the command."""
    options = cli.parse_options(["--hosts", "3", "--", "plush", "run", "--json", "--", "date", "--hosts"])
    assert options.command == ["plush", "run", "--json", "--", "date", "--hosts"]
    assert options.json == ""
    assert cli.parse_options(["sleep", "1"]).command == ["sleep", "1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no COMMAND"),
        (("--hosts", "3"), "no COMMAND"),
        (("--fixture", "moon", "--", "true"), "invalid choice: 'moon'"),
        (("--hosts", "many", "--", "true"), "invalid int value"),
    ],
)
def test_a_command_line_that_makes_no_sense(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    """Exit code 2, and the reason on stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--cpu", "0.1"), "should be HOST=VALUE"),
        (("--cpu", "h1=lots"), "'lots' is no number of cores"),
        (("--cpu", "x1=0.1"), "'x1' is none"),
        (("--schedule", "/no/such/file"), "/no/such/file: No such file"),
    ],
)
def test_bad_values_end_with_code_2(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str) -> None:
    """Before anything is made."""
    assert cli.main([*words, "--", "true"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"host_count": 0}, "0 hosts: there can be 1 to 64000"),
        ({"loss": 1.5}, "loss 1.5: a share is between 0 and 1"),
        ({"jitter": -0.1}, "jitter -0.1"),
        ({"rate_mbit": -1}, "rate -1 Mbit/s"),
        ({"disk_mib": 0}, "a disk of 0 MiB"),
        ({"inner_login": "telepathy"}, "should be one of agent, key, none"),
        ({"cpu_shares": {1: 0}}, "h1: 0 of a core"),
        ({"cpu_shares": {5: 1}}, "there is no host h5; there are h0 to h2"),
        ({"pythons": {-1: "python3"}}, "there is no host h-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, object], says: str) -> None:
    """By a sentence, not by whatever breaks first."""
    with pytest.raises(BadInput, match=says):
        check_settings(dataclasses.replace(Settings(3), **change))  # type: ignore[arg-type]


def test_a_schedule_that_is_no_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is named, and so is the place."""
    path = tmp_path / "s.yaml"
    path.write_text("[{at_s: 1")
    assert cli.main(["--schedule", str(path), "--", "true"]) == 2
    assert "s.yaml: neither YAML nor JSON" in capsys.readouterr().err


def test_a_random_schedule_is_printed_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is printed can be given to --schedule."""
    assert cli.main(["schedule", "7", "--hosts", "9", "--duration", "30", "--kinds", "cut,freeze"]) == 0
    path = tmp_path / "s.json"
    path.write_text(capsys.readouterr().out)
    assert {fault.do for _, fault in cli._read_schedule(str(path), 9)} <= {"cut", "freeze", "heal", "thaw"}
    assert cli.main(["schedule", "7", "--kinds", "heal"]) == 2


@pytest.mark.parametrize(("p99_ms", "warned"), [(4.9, False), (5.1, True)])
def test_a_great_lag_is_said(p99_ms: float, warned: bool) -> None:
    """Figures of an overloaded machine must not be taken for the network's."""
    text = cli.describe_lag(Lag(0.1, p99_ms, 20.0, 1000))
    assert f"p99 {p99_ms} ms" in text
    assert ("this machine's own" in text) is warned


def test_a_folder_that_is_not_there_cannot_be_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would be missed much later, by the command."""
    monkeypatch.chdir(tmp_path)
    link, real = tmp_path / "link", tmp_path.resolve() / "real"
    real.mkdir()
    link.symlink_to(real)
    shown = visible_paths([link])
    assert {str(link), str(real), str(tmp_path.resolve())} <= set(shown)
    with pytest.raises(BadInput, match="no such path"):
        visible_paths([tmp_path / "nothing"])


def test_the_spec_survives_its_way_to_the_keeper() -> None:
    """Delays that come out changed are another network."""
    host = HostSpec("h0", "10.77.0.1", "key", "Port 22\n", {"/home/root/x": "é\n"}, ["/opt"], ["/root"], "true", 0.5)
    paths = PathSettings(array("f", [0.0, 0.1, 0.1, 0.0]), 0.1, 0.2, 3, 20.0)
    spec = KeeperSpec("id", 3, 64, "/sshd", {"hosts": "x"}, [host, host], paths, [{"do": "cut", "hosts": [1]}])
    text = spec.to_json()
    assert "\n" not in text
    assert KeeperSpec.from_json(text) == spec
