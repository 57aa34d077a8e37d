"""What people write for -w, -x and --hostfile."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.experiment.host_list import HostListError, fold, name_problem, read_host_list
from plush_worker.experiment.host_ranges import MAX_HOSTS, RangeSyntaxError, expand


def names(*texts: str, **options: object) -> list[str]:
    return list(read_host_list(list(texts), **options).names)  # type: ignore[arg-type]


def test_commas_spaces_and_order() -> None:
    assert names("b,a", "d  c\tz") == ["b", "a", "d", "c", "z"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[08-11].x", ["node08.x", "node09.x", "node10.x", "node11.x"]),
        ("r[1-2]n[3,5]", ["r1n3", "r1n5", "r2n3", "r2n5"]),
        ("node[0-6/3]", ["node0", "node3", "node6"]),
        ("me@node[1-2]", ["me@node1", "me@node2"]),
        ("node[1-4]!node2", ["node1", "node3", "node4"]),
        ("node[1-4] !node[2-3] b", ["node1", "node4", "b"]),
        ("node[1-4]&node[3-9]", ["node3", "node4"]),
        ("a,b^b,c", ["a", "c"]),
        ("fe80::1%eth0,[::1],10.0.0.1", ["fe80::1%eth0", "::1", "10.0.0.1"]),
        ("a@b@host", ["a@b@host"]),
    ],
)
def test_syntax(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_nodeset_is_not_imported_for_plain_ranges() -> None:
    """Importing it costs 27 ms of the command line's 150."""
    import subprocess

    code = (
        "import sys; from plush_worker.experiment.host_list import read_host_list as r;"
        "r(['node[1-64],gw!node3']); sys.exit('ClusterShell' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


numbers = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), min_size=1, max_size=4)


@given(numbers, st.sampled_from(["", "a", "a-"]), st.sampled_from(["", ".x"]), st.integers(0, 3))
def test_plain_ranges_expand_as_nodeset_expands_them(
    ranges: list[list[int]], before: str, after: str, width: int
) -> None:
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    inside = ",".join(f"{low:0{width}}-{high:0{width}}" for low, high in ranges)
    pattern = f"n{before}[{inside}]{after}"
    try:
        theirs = set(NodeSet(pattern, resolver=RESOLVER_NOGROUP))
    except NodeSetException:
        with pytest.raises(RangeSyntaxError):
            expand(pattern)
        return
    ours = expand(pattern)
    assert set(ours) == theirs
    assert len(ours) == len(theirs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-oProxyCommand=touch", "begins with '-'"),
        ("good,--,-x", "begins with '-'"),
        ("a@-b", "begins with '-'"),
        ("-a@b", "begins with '-'"),
        ("a;b", "';'"),
        ("$(id)", "'$'"),
        ("a`b`", "'`'"),
        ("a|b", "'|'"),
        ("a\x07b", "control"),
        ("a\u202eb", "unprintable"),
        ("b\u00fccher", "xn--"),
        ("host:22", "ports belong"),
        ("ssh://host", "'/'"),
        ("@", "no group name"),
        ("a@", "empty name"),
        ("node[1-4", "node[1-4"),
        ("node[4-1]", "node[4-1]"),
        ("node[a-b]", "node[a-b]"),
        ("node]1[", "node]1["),
        ("a!", "'!'"),
        ("x" * 300, "255"),
    ],
)
def test_bad_names_are_refused_and_named(text: str, expected: str) -> None:
    with pytest.raises(HostListError) as caught:
        names("good1", text, "bad;1")
    assert expected in str(caught.value)
    assert "bad;1" in str(caught.value), "every mistake is reported at once"


@given(st.text(max_size=12), st.sampled_from(["{}", "a@{}", "{}@b", "x{}"]))
def test_no_accepted_name_can_do_harm(text: str, form: str) -> None:
    """Whatever is accepted is no option, and no shell would see more than a word in it."""
    name = form.format(text)
    if not name_problem(name):
        assert name.isascii()
        assert not set(name) & set(" \t\n'\"`$\\;&<>|(){}[]*?~!#=/,^")
        assert not name.startswith("-")
        assert not name.rpartition("@")[2].startswith("-")


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_host_list([text], read_stdin=lambda: "a\nb", group=lambda name: ["g"])
    except HostListError:
        pass


def test_ranges_beyond_reason_are_refused_before_memory_is_taken() -> None:
    for text in ("n[1-1000000000]", "a[1-999]b[1-999]", "n[0-99999999999999999999]", "n[1-100000/2,1-99999999]"):
        with pytest.raises(HostListError, match=r"at most|18 digits"):
            names(text)
    assert len(names(f"n[1-{MAX_HOSTS}]")) == MAX_HOSTS


def test_doubles_are_folded_with_a_note() -> None:
    listed = read_host_list(["a,node[1-3]", "node[2-4],a"])
    assert listed.names == ("a", "node1", "node2", "node3", "node4")
    assert listed.notes == ("named more than once, used once: a,node[2-3]",)


def test_logins_are_part_of_the_name() -> None:
    assert names("a@h,b@h,h") == ["a@h", "b@h", "h"]
    assert names("a@h,b@h,h,i", exclude=["a@h"]) == ["b@h", "h", "i"]
    assert names("a@h,b@h,h,i", exclude=["h"]) == ["i"]


def test_empty_sets_are_errors() -> None:
    with pytest.raises(HostListError, match="no hosts: name some"):
        names()
    with pytest.raises(HostListError, match="no hosts: name some"):
        names(" , ")
    with pytest.raises(HostListError, match=r"-x excludes all of n\[1-2\]"):
        names("n[1-2]", exclude=["n[1-9]"])


def test_host_files_and_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a  # the first\n\n# nothing\nnode[1-2], me@b\r\n")
    expected = ["a", "node1", "node2", "me@b"]
    assert names(hostfiles=[str(path)]) == expected
    assert names(f"z,^{path}") == ["z", *expected]
    assert names("-", read_stdin=path.read_text) == expected


def test_a_bad_line_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("a\n-oX=1\n^/etc/passwd\n-\n")
    with pytest.raises(HostListError) as caught:
        names(hostfiles=[str(path)])
    lines = str(caught.value).split("\n")
    assert [line.partition(":")[0] for line in lines] == [f"{path} line {n}" for n in (2, 3, 4)]
    with pytest.raises(HostListError, match="can't be read: No such file"):
        names("^/no/such/file")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HostListError, match="not UTF-8"):
        names(f"^{binary}")


def test_groups() -> None:
    def group(name: str) -> list[str]:
        if name != "web":
            raise LookupError("no such group; did you mean 'web'?")
        return ["w1", "w2"]

    assert names("@web!w1,a", group=group) == ["w2", "a"]
    with pytest.raises(HostListError, match=r"@wbe: no such group; did you mean 'web'\?"):
        names("@wbe", group=group)
    with pytest.raises(HostListError, match="no host directory"):
        names("@web")


def test_fold() -> None:
    assert fold(["node2", "node1", "gw", "node3"]) == "gw,node[1-3]"
    assert fold(["a", "b"]) == "a,b"
    assert fold(["me@n1", "me@n2"]) == "me@n[1-2]"
    assert fold([]) == ""


@given(st.lists(st.text(max_size=5), max_size=5))
def test_fold_takes_anything(texts: list[str]) -> None:
    fold(texts)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_fold_and_expand_are_inverse(numbers: set[int]) -> None:
    folded = fold(f"n{n}" for n in numbers)
    assert set(names(folded)) == {f"n{n}" for n in numbers}
