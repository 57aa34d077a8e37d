"""The reference of all settings is the code's."""

from __future__ import annotations

from pathlib import Path

import pytest

from plush_api.api_settings import ApiSettings
from plush_api.settings_reference import BEGIN, END, reference, replaced
from plush_worker.config import Settings

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_page_is_current() -> None:
    text = PAGE.read_text("utf-8")
    hint = "run: python -m plush_api.settings_reference docs/operations.md"
    assert replaced(text) == text, hint


def test_every_setting_stands_in_it_with_a_meaning_or_a_telling_name() -> None:
    lines = reference().splitlines()
    rows = {line.split("|")[1].strip().strip("`"): line for line in lines if line.startswith("| `")}
    assert set(rows) == set(Settings.model_fields) | {f"api.{name}" for name in ApiSettings.model_fields}
    assert "PLUSH_API_PORT" in rows["api.port"] and "`8520`" in rows["api.port"]
    assert "hosts that it takes at most" in rows["worker_capacity"]


def test_only_what_is_between_the_marks_is_changed() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page) == f"before\n{BEGIN}\n{reference()}{END}\nafter\n"
    with pytest.raises(ValueError, match="no <!-- settings"):
        replaced("no marks")
