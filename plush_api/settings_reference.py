"""The table of all settings in ``docs/operations.md``, made from the classes that read them.

``python -m plush_api.settings_reference docs/operations.md`` writes it anew. What a setting means is the comment at the
end of its line. Development only; nothing else imports it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from plush_api.api_settings import ApiSettings
from plush_worker.config import Settings

BEGIN = "<!-- settings: begin (made by python -m plush_api.settings_reference) -->"
END = "<!-- settings: end -->"
_LINE = re.compile(r"^    (?P<name>[a-z]\w*): [^#]*?(?:  # (?P<meaning>.*))?$", re.MULTILINE)
# Defaults that are found out when the settings are read.
_FOUND_OUT = {"state_dir": "`$XDG_STATE_HOME/plush`", "worker_name": "the machine's short name"}


def main() -> int:
    """Writes the table into the file that is named. Returns the exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m plush_api.settings_reference docs/operations.md\n")
        return 2
    path = Path(sys.argv[1])
    path.write_text(replaced(path.read_text("utf-8")), "utf-8")
    return 0


def replaced(page: str) -> str:
    """``page`` with the table of now between its marks. Raises ValueError when it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{reference()}{END}{after}"


def reference() -> str:
    """Both tables, as Markdown."""
    lines = ["", "All processes:", "", *_table(Settings, ""), "", "The API, in the table `[api]` of the file:", ""]
    return "\n".join([*lines, *_table(ApiSettings, "api."), ""]) + "\n"


def _table(settings: type[BaseSettings], prefix: str) -> Iterator[str]:
    meanings = {match["name"]: match["meaning"] or "" for match in _LINE.finditer(inspect.getsource(settings))}
    variable = settings.model_config.get("env_prefix", "")
    yield "| in the file | in the environment | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in settings.model_fields.items():
        default = _FOUND_OUT.get(name) or _shown(field.default)
        meaning = meanings[name].replace("|", "\\|")
        yield f"| `{prefix}{name}` | `{variable}{name.upper()}` | {default} | {meaning} |"


def _shown(default: Any) -> str:
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    sys.exit(main())
