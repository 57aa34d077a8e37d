"""The experiment spec: what is taken, what is refused and how it is said, and the run that comes of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.experiment.directory_yaml import YamlError, parse_text
from plush_worker.experiment.spec import (
    MAX_TEXT_BYTES,
    Experiment,
    SpecErrors,
    compile_experiment,
    experiment_from_mapping,
    experiment_from_options,
    experiment_schema,
    load_experiment,
    pack_experiment,
)
from plush_worker.experiment.spec_fields import FileEntry, Process
from plush_worker.model import RunSpec

EXAMPLES = Path(__file__).parents[2] / "examples"
DIRECTORY = """
ssh_config: false
hosts:
  node[1-4]: {address: "192.0.2.[1-4]", user: me, tags: [blue]}
groups: {last: "node[3-4]"}
slices: {trial: {hosts: "node[1-2]", degree: 3}}
"""


class FakeBlobs:
    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.put: list[str] = []

    def put_file(self, path: str, /) -> str:
        self.put.append(os.path.basename(path))
        return "f" * 64

    def missing(self, digests: list[str], /) -> list[str]:
        return [digest for digest in digests if digest not in self.known]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yaml").write_text(DIRECTORY)
    (tmp_path / "one").write_text("1")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "tree" / "deep" / "tool").chmod(0o755)
    (tmp_path / "tree" / "link").symlink_to("deep/tool")
    return tmp_path


@pytest.fixture
def compiled(folder: Path) -> Callable[..., RunSpec]:
    def compile_text(text: str, **more: Any) -> RunSpec:
        options = {"base_dir": str(folder), "directory": str(folder / "hosts.yaml"), "cache": str(folder / "cache")}
        return compile_experiment(load_experiment(text, "e.yaml"), owner="me", **{**options, **more})

    return compile_text


def refused(call: Callable[[], object]) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        call()
    assert str(caught.value) == "\n".join(str(error) for error in caught.value.errors)
    return [str(error) for error in caught.value.errors]


def problems(text: str) -> list[str]:
    return refused(lambda: load_experiment(text, "e.yaml"))


# ---- what is refused


def test_everything_that_is_wrong_is_said_at_once_with_line_and_path() -> None:
    text = "hosts: node1\ncuont: 3\nprocesses:\n  - name: a\n    comand: x\n    timeout: 5x\nsuccess: 120%\n"
    assert problems(text) == [
        "e.yaml:2: cuont: no such field; did you mean 'count'?",
        "e.yaml:4: processes.0.command: is missing",
        "e.yaml:5: processes.0.comand: no such field; did you mean 'command'?",
        (
            "e.yaml:6: processes.0.timeout: '5x' is no time: write seconds, or a number with s, m, h or d, "
            'as "90s" or "7d"'
        ),
        'e.yaml:7: success: \'120%\' is neither "all" nor a share from "1%" to "100%"',
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("command: 5", "command: should be a valid string, not 5"),
        ("env: {A: yes}", 'write it in quotes: "yes"'),
        ("env: {A-B: x}", "is not a name of a variable"),
        ("env: {PLUSH_INDEX: 1}", "set by Plush itself"),
        ("count: 0", "greater than or equal to 1"),
        ("count: true", "count: should be a valid integer"),
        ("name: a/b", "is not a name"),
        ("files: [{src: a, mode: 0644}]", "written in quotes"),
        ("files: [{src: a, mode: '0648'}]", "is no mode"),
        ("files: [{dest: a}]", "needs src"),
        ("files: [{src: a, dest: 'x/{hots}'}]", "'{hots}' stands for nothing"),
        ("files: [{kind: file, dest: a}]", "a packed file needs sha256 and size"),
        ("files: [{src: a, sha256: x}]", "is not a SHA-256"),
        ("fetch: log", "can't be given beside command"),
        ("processes: [{command: y}]", "can't be given beside command"),
        ("hosts: [node1, 5]", "should be a valid string"),
        ("success: true", '"all", a number'),
        ("timeout: -1", "greater than or equal to 0"),
        ('command: "a\\0b"', "NUL"),
        ("hosts: node2", "hosts: is given twice"),
    ],
)
def test_a_wrong_value_is_refused_in_words(line: str, words: str) -> None:
    assert any(words in problem for problem in problems(f"hosts: node1\ncommand: date\n{line}\n"))


@pytest.mark.parametrize("host", ["-oProxyCommand=touch /tmp/x", "a;b", "$(x)", "node1`id`", "a b;c", "x@-oFoo", "--"])
def test_hosts_that_a_shell_or_ssh_would_take_for_something_else_are_refused(host: str) -> None:
    for field in ("hosts", "exclude"):
        values = {"hosts": ["ok"], "command": "date", field: [host]}
        assert any(f"experiment: {field}: " in text for text in refused(lambda values=values: from_mapping(values)))
    process = {"command": "date", "hosts": [host]}
    assert refused(lambda: from_mapping({"hosts": ["ok"], "processes": [process]}))


def from_mapping(values: dict[str, Any]) -> Experiment:
    return experiment_from_mapping(values)


@pytest.mark.parametrize("text", ["^/etc/passwd", "node1 ^hosts", "-", "node1,-"])
def test_lists_elsewhere_are_not_read_for_a_service(text: str) -> None:
    assert "an experiment names its hosts itself" in refused(lambda: from_mapping({"hosts": [text], "command": "x"}))[0]


@pytest.mark.parametrize("login", ["-oX", "a b", "a;b"])
def test_a_login_is_checked_as_on_the_command_line(login: str) -> None:
    assert refused(lambda: from_mapping({"hosts": ["a"], "command": "x", "login": login}))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "~/x", ".."])
def test_paths_that_leave_the_folder_are_refused(path: str) -> None:
    assert any("leaves the experiment's folder" in p for p in problems(f"hosts: a\nfiles: [{{src: {path}}}]"))
    assert any("leaves" in p for p in problems(f"hosts: a\nprocesses: [{{command: x, stdin: {path}}}]"))


def test_paths_on_the_hosts_have_no_dots() -> None:
    assert any("'..'" in p for p in problems("hosts: a\nfiles: [{src: a, dest: ../x}]"))
    assert any("'..'" in p for p in problems("hosts: a\nfetch: [a/../../b]"))


def test_ten_megabytes_are_refused_at_once() -> None:
    text = "a: 1\n" * (10 << 18)
    began = time.process_time()
    assert problems(text) == [f"e.yaml: longer than {MAX_TEXT_BYTES >> 20} MiB"]
    assert time.process_time() - began < 0.1, "it was read first"


def test_bombs_of_aliases_and_nesting_are_refused() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert problems("\n".join(lines)) == ["e.yaml: more than 50000 values, aliases followed"]
    assert "contain themselves" in problems("a: &a [*a]")[0]
    for opening in ("[", "{a: ", "- ", "? "):
        assert "nested too deep" in problems(opening * 100_000)[0], "the stack would overflow"
    assert problems("a: 1\n" * 200_000) == ["e.yaml: more than 50000 values"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b: c", "e.yaml:1: not YAML"),
        ("hosts: a\n\tcommand: b", "e.yaml:2: not YAML"),
        ("!!python/object:os.system {}", "not YAML"),
        ("a: " + "9" * 5000, "can't be read"),
        ("a: 2001-99-99", "can't be read"),
        ("\x00", "not YAML"),
        ("- a", "an experiment is a mapping"),
        ("", "no hosts: name some"),
        ("hosts: a", "nothing to do"),
    ],
)
def test_what_is_no_experiment_at_all(text: str, words: str) -> None:
    assert any(words in problem for problem in problems(text))


def test_bytes_that_are_no_text_are_refused() -> None:
    assert refused(lambda: load_experiment(b"a: \xff", "e.yaml")) == [
        "e.yaml: is not UTF-8 text: invalid start byte at byte 3"
    ]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_value_is_an_experiment_or_refused(value: Any) -> None:
    """A crash here is an internal error of the API for whoever sends it."""
    fields = (
        "name",
        "hosts",
        "exclude",
        "count",
        "env",
        "files",
        "processes",
        "command",
        "fetch",
        "success",
        "timeout",
    )
    for field in fields:
        with suppress(SpecErrors):
            from_mapping({"hosts": ["a"], "command": "date", field: value})


@given(st.text() | st.binary())
def test_any_text_is_an_experiment_or_refused(text: str | bytes) -> None:
    with suppress(SpecErrors):
        load_experiment(text, "e.yaml")
    if isinstance(text, str):
        with suppress(YamlError):
            parse_text(text)


# ---- what comes of it


def test_the_short_form_is_one_process_everywhere(compiled: Callable[..., RunSpec]) -> None:
    spec = compiled("hosts: node[1-4]\ncommand: date\ntimeout: 2m\nkeep: 1h\nenv: {N: 3}\n")
    assert [host["name"] for host in spec.hosts] == ["node1", "node2", "node3", "node4"]
    assert spec.hosts[0]["address"] == "192.0.2.1"
    usual = {"hosts": None, "cwd": "", "env": {}, "stdin": "", "timeout_s": 120}
    assert spec.processes == ({"name": "", "command": "date", **usual},)
    assert (spec.kind, spec.command, spec.keep_s, spec.env) == ("run", "date", 3600, {"N": "3"})
    assert RunSpec.from_json(spec.to_json()).to_json() == spec.to_json()


@pytest.mark.parametrize(
    ("choice", "indexes"),
    [
        ("index: 0", [0]),
        ('index: "1-"', [1, 2, 3]),
        ('index: "0,2-3"', [0, 2, 3]),
        ("hosts: node2", [1]),
        ('hosts: "@last"', [2, 3]),
        ('hosts: ["node1", "@last"]', [0, 2, 3]),
        ('hosts: "@blue!node4"', [0, 1, 2]),
    ],
)
def test_processes_have_their_own_hosts(compiled: Callable[..., RunSpec], choice: str, indexes: list[int]) -> None:
    spec = compiled(f"hosts: node[1-4]\nprocesses: [{{name: a, command: x, {choice}}}, {{name: b, command: y}}]")
    assert spec.processes[0]["hosts"] == indexes
    assert spec.processes[1]["hosts"] is None


def test_count_takes_the_first_hosts_and_groups_lose_the_others(compiled: Callable[..., RunSpec]) -> None:
    spec = compiled('hosts: "@blue"\nexclude: node1\ncount: 2\nprocesses: [{command: x, hosts: "@blue"}]')
    assert [host["name"] for host in spec.hosts] == ["node2", "node3"]
    assert spec.processes[0]["hosts"] == [0, 1]


def test_a_slice_names_hosts_and_settings(compiled: Callable[..., RunSpec]) -> None:
    spec = compiled("slice: trial\ncommand: date")
    assert [host["name"] for host in spec.hosts] == ["node1", "node2"]
    assert (spec.settings().name, spec.settings().degree) == ("trial", 3)


@pytest.mark.parametrize(("success", "wanted"), [("all", {}), ("3", {"at_least": 3}), ("60%", {"at_least": 3})])
def test_a_quorum_is_a_number_of_hosts(compiled: Callable[..., RunSpec], success: str, wanted: dict[str, int]) -> None:
    assert compiled(f"hosts: node[1-4]\ncommand: x\nsuccess: {success}").success == wanted


def test_folders_are_sent_with_what_is_in_them(compiled: Callable[..., RunSpec]) -> None:
    blobs = FakeBlobs()
    spec = compiled(
        "hosts: node[1-4]\nfiles:\n  - {src: one, dest: in/}\n  - {src: tree, dest: 'x/{host}', index: 1}", blobs=blobs
    )
    assert [(f["dest"], f["kind"], f["hosts"]) for f in spec.files] == [
        ("in/one", "file", None),
        ("x/{host}", "dir", [1]),
        ("x/{host}/deep", "dir", [1]),
        ("x/{host}/deep/tool", "file", [1]),
        ("x/{host}/link", "link", [1]),
    ]
    assert spec.files[3]["mode"] == 0o755
    assert spec.files[4]["target"] == "deep/tool"
    assert blobs.put == ["one", "tool"]
    assert (spec.kind, spec.command) == ("deploy", "deploy 5 files, 11 bytes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hosts: node[1-5]\ncommand: x", "hosts: node5: not in the host directory"),
        ("hosts: nod1\ncommand: x", "did you mean 'node1'"),
        ('hosts: "@lost"\ncommand: x', "has no group"),
        ("hosts: node1\nexclude: node1\ncommand: x", "no hosts are left"),
        ("hosts: node1\ncount: 2\ncommand: x", "count: 2 of 1 hosts"),
        ("hosts: node1\nsuccess: 2\ncommand: x", "success: 2 of 1 hosts"),
        ("hosts: node[1-2]\nprocesses: [{command: x, index: 2}]", "numbered from 0 to 1"),
        ("hosts: node[1-2]\nprocesses: [{command: x, hosts: node3}]", "none of these is a host"),
        ("hosts: node[1-2]\nprocesses: [{command: x, index: 0}]", "none of them is for node2"),
        ("hosts: node1\nfiles: [{src: none}]", "there is no 'none'"),
        ("hosts: node1\nfiles: [{src: tree, mode: '0600'}]", "is for a file"),
        ("hosts: node1\nfiles: [{src: .}]", "needs dest"),
        ("hosts: node1\nprocesses: [{command: x, stdin: tree}]", "is not a file"),
    ],
)
def test_references_that_lead_nowhere_are_refused(compiled: Callable[..., RunSpec], text: str, words: str) -> None:
    assert any(words in problem for problem in refused(lambda: compiled(text)))


def test_a_link_out_of_the_folder_is_refused_and_one_inside_a_tree_is_kept(
    folder: Path, compiled: Callable[..., RunSpec]
) -> None:
    (folder / "secret").symlink_to("/etc/passwd")
    (folder / "tree" / "secret").symlink_to("/etc/passwd")
    text = "hosts: node1\nfiles: [{src: secret}, {src: tree}]"
    assert refused(lambda: compiled(text)) == [
        "e.yaml:2: files.0.src: 'secret' leads out of the experiment's folder, to '/etc/passwd'"
    ]
    spec = compiled("hosts: node1\nfiles: [{src: tree}]")
    assert [f["target"] for f in spec.files if f["dest"] == "tree/secret"] == ["/etc/passwd"], "its content was read"


def test_what_is_no_file_is_refused(folder: Path, compiled: Callable[..., RunSpec]) -> None:
    os.mkfifo(folder / "tree" / "pipe")
    assert "neither a file" in refused(lambda: compiled("hosts: node1\nfiles: [{src: tree}]"))[0]


def test_packed_it_needs_no_file_of_this_machine_and_comes_to_the_same_run(
    folder: Path, compiled: Callable[..., RunSpec]
) -> None:
    text = "hosts: node[1-2]\nfiles: [{src: tree, dest: t, index: 0}]\nprocesses: [{command: x, stdin: one}]"
    packed = pack_experiment(load_experiment(text, "e.yaml"), str(folder))
    assert sorted(map(os.path.basename, packed.contents.values())) == ["one", "tool"]
    sent = experiment_from_mapping(json.loads(json.dumps(packed.experiment.to_mapping())))
    options: dict[str, Any] = {
        "owner": "me",
        "directory": str(folder / "hosts.yaml"),
        "run_id": "r",
        "submitted_at_s": 1,
    }
    here = compile_experiment(load_experiment(text, "e.yaml"), base_dir=str(folder), **options)
    assert compile_experiment(sent, blobs=FakeBlobs(*packed.contents), **options) == here


def test_a_service_reads_no_file_of_its_own_and_wants_what_it_was_not_sent(compiled: Callable[..., RunSpec]) -> None:
    text = "hosts: node1\nfiles: [{src: one}]\nprocesses: [{command: x, stdin: one}]"
    said = refused(lambda: compiled(text, base_dir=None, blobs=FakeBlobs()))
    assert [line.partition(": names a file here")[0] for line in said] == [
        "e.yaml:2: files.0.src",
        "e.yaml:3: processes.0.stdin",
    ]
    digest = "a" * 64
    text = f"hosts: node1\nfiles: [{{dest: x, kind: file, size: 1, sha256: {digest}}}]"
    assert refused(lambda: compiled(text, base_dir=None, blobs=FakeBlobs())) == [
        f"e.yaml:2: files.0.sha256: no content with SHA-256 {digest} was sent: upload it first"
    ]


def test_options_make_the_experiment_that_they_mean(folder: Path) -> None:
    experiment = experiment_from_options(["node[1-2]"], "date", env={"A": "1"}, timeout_s=5, together=True, ttl_s=60)
    again = experiment_from_mapping(experiment.to_mapping())
    spec = compile_experiment(again, owner="me", directory=str(folder / "hosts.yaml"), client_lease_s=60)
    assert (spec.command, spec.env, spec.timeout_s, spec.together) == ("date", {"A": "1"}, 5, True)
    assert (spec.ttl_s, spec.client_lease_s) == (60, 60)


# ---- the schema


def test_the_schema_takes_the_examples_and_refuses_what_is_refused() -> None:
    schema = experiment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    examples = [path for path in EXAMPLES.glob("*.yaml") if path.name != "hosts.yaml"]
    assert examples
    for path in examples:
        load_experiment(path.read_text(), str(path))
        validator.validate(parse_text(path.read_text())[0])
    for wrong in (
        {"cuont": 1},
        {"command": 5},
        {"success": "120%"},
        {"processes": [{"name": "a"}]},
        {"files": [{"mode": 1}]},
    ):
        assert not validator.is_valid({"hosts": "a", **wrong}), wrong


def test_the_documentation_names_every_field() -> None:
    text = (EXAMPLES.parent / "docs" / "experiments.md").read_text()
    for model in (Experiment, Process, FileEntry):
        assert not [field for field in model.model_fields if f"`{field}`" not in text]


def test_every_field_is_described_in_the_schema() -> None:
    schema = experiment_schema()
    for model in (schema, *schema["$defs"].values()):
        assert not [name for name, field in model["properties"].items() if not field.get("description")]


def test_the_examples_can_be_submitted_with_the_example_of_a_host_directory(tmp_path: Path) -> None:
    directory = str(EXAMPLES / "hosts.yaml")
    kinds = {}
    for path in EXAMPLES.glob("*.yaml"):
        if path.name != "hosts.yaml":
            experiment = load_experiment(path.read_text(), str(path))
            options = {"base_dir": str(EXAMPLES), "directory": directory, "cache": str(tmp_path)}
            kinds[path.stem] = compile_experiment(experiment, owner="me", **options).kind
    assert kinds == {"throughput": "run", "uptime": "run", "fetch-logs": "fetch"}
