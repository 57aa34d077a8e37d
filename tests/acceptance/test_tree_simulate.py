"""``plush tree simulate``, ``compare`` and ``calibrate`` as a person uses them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plush_worker.trees.simulate import ALL_PLANNERS

HOSTS = """
defaults: {user: nobody}
hosts:
  a1: {address: 10.0.0.1, site: ams}
  a2: {address: 10.0.0.2, site: ams}
  l1: {address: 10.0.0.3, site: lyon}
slices:
  lab: {hosts: "@all", inner_login: none}
"""  # fmt: skip


def ok(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_a_tree_on_a_wide_area(plush: Any) -> None:
    done = plush("tree", "simulate", "--hosts", "64", "--planner", "greedy", "--json", "--series")
    found = json.loads(ok(done))
    assert "rows 0 (controller) to 64 of 490" in done.stderr
    assert "as built in; plush tree calibrate measures" in done.stderr
    assert (found["planner"], found["host_count"], found["unreachable_count"]) == ("greedy", 64, 0)
    assert 0 < found["median_s"] < found["last_s"] < found["heard_s"]
    assert found["series"][-1] == [found["last_s"], 64]
    slow = json.loads(ok(plush("tree", "simulate", "--hosts", "64", "--planner", "greedy", "--json", "--cores", "0.5")))
    assert slow["last_s"] > found["last_s"], "when all hosts share half a core"
    flat = ("tree", "simulate", "--hosts", "64", "--planner", "flat", "--json")
    shares = [json.loads(ok(plush(*flat, *more))) for more in ((), ("--controller-cpu", "0.01"))]
    assert shares[1]["last_s"] > shares[0]["last_s"] + 10, "64 links of 4 ms, on a hundredth of a core"
    text = ok(plush("tree", "simulate", "--hosts", "3", "--rtt", "zero", "--planner", "kary", "--degree", "1"))
    assert text.startswith("planner kary: 3 hosts, 1 of them linked to by workers, 3 deep, 1 children at most\nready:")


def test_hosts_of_a_directory(plush: Any) -> None:
    directory = plush.folder / "hosts.yaml"
    directory.write_text(HOSTS)
    done = plush("tree", "simulate", "-w", "@all", "--directory", str(directory), "--slice", "lab")
    assert ok(done).startswith("planner flat: 3 hosts, 3 of them"), "as the slice's hosts can't log in to each other"
    assert "no round trips are known" in done.stderr
    done = plush(
        "tree", "simulate", "-w", "@all", "--directory", str(directory), "--slice", "lab", "--planner", "site",
        "--rtt", "planetlab", "--json",
    )  # fmt: skip
    assert json.loads(ok(done))["controller_links"] == 2, "a link to each site"
    assert "taking inner_login to be agent" in done.stderr


def test_compare(plush: Any) -> None:
    rows = [json.loads(line) for line in ok(plush("tree", "compare", "--hosts", "100", "--json")).splitlines()]
    assert sorted(row["planner"] for row in rows) == sorted(ALL_PLANNERS)
    assert [row["last_s"] for row in rows] == sorted(row["last_s"] for row in rows)
    header, *lines = ok(plush("tree", "compare", "--hosts", "100", "--planners", "flat,binomial")).splitlines()
    assert header.split()[:2] == ["PLANNER", "LAST"]
    assert {line.split()[0]: line.split()[-1] for line in lines} == {"flat": "100", "binomial": "7"}


def test_a_plot(plush: Any) -> None:
    pytest.importorskip("matplotlib")
    ok(plush("tree", "compare", "--hosts", "30", "--plot", "a.png"))
    assert (plush.folder / "a.png").read_bytes().startswith(b"\x89PNG")
    done = plush("tree", "compare", "--hosts", "3", "--plot", str(plush.folder / "none" / "a.png"))
    assert done.returncode == 2 and "a.png" in done.stderr


def test_a_plot_without_matplotlib(plush: Any) -> None:
    hidden = plush.folder / "hidden" / "matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not here')\n")
    paths = {"PYTHONPATH": f"{hidden.parent}:{plush.environ['PYTHONPATH']}"}
    done = plush("tree", "compare", "--hosts", "3", "--plot", "a.png", env=paths)
    assert done.returncode == 2
    assert "pip install 'plush[plots]'" in done.stderr
    assert not done.stdout, "said before the work"


def test_calibrated_on_this_machine(plush: Any, program: Callable[[str], str]) -> None:
    program("sshd")
    done = plush("tree", "calibrate", "--logins", "2", "--kex", "ecdh-sha2-nistp256", "--json")
    measured = json.loads(ok(done))
    path = Path(plush.environ["XDG_STATE_HOME"]) / "plush" / "link_costs.json"
    assert json.loads(path.read_text()) == measured
    assert sorted(measured["key_exchanges"]) == ["curve25519-sha256", "default", "ecdh-sha2-nistp256"]
    assert measured["about"]["key_exchanges"]["curve25519-sha256"]["algorithm"].startswith("curve25519-sha256")
    for costs in measured["key_exchanges"].values():
        assert all(0.0005 < costs[name] < 2 for name in costs if name.endswith(("connect_s", "server_s", "node_s"))), (
            costs
        )
    done = plush("tree", "simulate", "--hosts", "5", "--kex", "ecdh-sha2-nistp256")
    ok(done)
    assert f"key exchange ecdh-sha2-nistp256 ({path})" in done.stderr
    done = plush("tree", "simulate", "--hosts", "5", "--kex", "none-such")
    assert done.returncode == 2 and "plush tree calibrate --kex none-such" in done.stderr


def test_calibrate_says_what_ssh_said(plush: Any, program: Callable[[str], str]) -> None:
    program("sshd")
    done = plush("tree", "calibrate", "--logins", "1", "--kex", "none-such")
    assert done.returncode == 1
    assert "none-such" in done.stderr
    assert not (Path(plush.environ["XDG_STATE_HOME"]) / "plush" / "link_costs.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulate"], "no hosts"),
        (["simulate", "--hosts", "5", "-w", "a"], "give one of them"),
        (["simulate", "--hosts", "5", "--rtt", "none.csv"], "none.csv: No such file"),
        (["simulate", "--hosts", "5", "--planner", "best"], "no planner 'best' to simulate: there are auto, flat"),
        (["simulate", "--hosts", "5", "--kex", "x"], "no costs have been measured"),
        (["simulate", "--hosts", "5", "--costs", "none.json"], "none.json: No such file"),
        (["compare", "--hosts", "5", "--planners", "flat,best"], "there is no best, but flat"),
    ],
)
def test_bad_input_is_named_and_nothing_printed(plush: Any, words: list[str], message: str) -> None:
    done = plush("tree", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
