"""What processes of the service log, for people and for machines."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from plush_worker.logs import about, make_formatter

RUN = "844fd15a-2c38-d59d-f864-e8b26740d317"


def line(message: str, *args: object, log_format: str = "", terminal: bool = False, **extra: Any) -> str:
    record = logging.LogRecord(
        "plush_worker.coordinator", logging.WARNING, "f.py", 1, message, args, extra.pop("exc", None)
    )
    record.__dict__.update(extra)
    return make_formatter(log_format, terminal=terminal).format(record)


def test_machines_get_one_json_object_a_line_with_run_and_host() -> None:
    found = json.loads(line("run %s: host %s is gone\nfor good", RUN, "node1.example.org"))
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "WARNING",
        "logger": "plush_worker.coordinator",
        "message": f"run {RUN}: host node1.example.org is gone\nfor good",
        "run": RUN,
        "host": "node1.example.org",
    }


def test_what_is_told_beside_the_message_counts_more() -> None:
    found = json.loads(line(f"run {RUN}: lost", run="b", host="c"))
    assert (found["run"], found["host"]) == ("b", "c")


def test_a_traceback_stands_in_the_same_line() -> None:
    try:
        raise ValueError("no such luck")
    except ValueError:
        text = line("broken", exc=sys.exc_info())
    assert "\n" not in text and "no such luck" in json.loads(text)["exc_info"]


@pytest.mark.parametrize(
    ("log_format", "terminal", "is_json"),
    [("", True, False), ("", False, True), ("text", False, False), ("json", True, True)],
)
def test_the_setting_decides_and_else_who_reads(log_format: str, terminal: bool, is_json: bool) -> None:
    assert line("x", log_format=log_format, terminal=terminal).startswith("{") is is_json


def test_only_names_are_taken_for_what_a_message_is_about() -> None:
    assert about("run it again; a host of mesh m-1: closed; the host is gone") == {"mesh": "m-1"}
    assert about(f"no run {RUN}, no run {RUN[:-1]}0: node2 and host node1: lost") == {"run": RUN, "host": "node1"}
