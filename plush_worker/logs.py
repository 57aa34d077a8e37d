"""How processes of the service log: lines for people on a terminal, JSON objects for machines everywhere else.

A JSON line has ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and where they are known ``run``, ``host``
and ``mesh``; a traceback stands in ``exc_info``. ``PLUSH_LOG_FORMAT`` (``text``, ``json``) decides for both.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Literal

Format = Literal["", "text", "json"]
FORMAT = "PLUSH_LOG_FORMAT"
FILE_LIMIT_BYTES = 4 << 20
_NOISE = ("color_message", "data")  # uvicorn's and Celery's: what the message says, once more
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Messages begin with what they are about, as in "run 1f0c...: given up"; ``extra`` may say it too.
_ABOUT = re.compile(
    r"\brun (?P<run>[0-9a-f]{8}-[0-9a-f-]{27})\b"
    r"|\bmesh (?P<mesh>[\w.-]+)(?=:)"
    r"|\bhost (?P<host>[A-Za-z][\w-]*[\d.][\w.-]*)"
)


def configure_logging(level: int, path: str | None = None, log_format: Format = "") -> None:
    """Log to standard error, or to a file of bounded size. ``log_format`` "" is that of the environment, or fitting."""
    handler: logging.Handler
    if path:
        from logging.handlers import RotatingFileHandler

        handler = RotatingFileHandler(
            path, maxBytes=FILE_LIMIT_BYTES, backupCount=1, encoding="utf-8", errors="replace"
        )
    else:
        handler = logging.StreamHandler()
    terminal = not path and sys.stderr.isatty()
    handler.setFormatter(make_formatter(log_format or os.environ.get(FORMAT, ""), terminal=terminal))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def make_formatter(log_format: str, *, terminal: bool) -> logging.Formatter:
    """Of lines for people when that is asked for, or when nothing is and a person reads them; else of JSON."""
    if log_format == "text" or (log_format != "json" and terminal):
        return logging.Formatter(_TEXT)
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    class PlushFormatter(JsonFormatter):
        """Adds what the message is about."""

        def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
            return super().process_log_record(about(str(log_data.get("message", ""))) | log_data)

    return PlushFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        reserved_attrs=[*RESERVED_ATTRS, *_NOISE],
        json_ensure_ascii=False,
    )


def about(message: str) -> dict[str, object]:
    """run, host and mesh that the message names; the first of each."""
    found: dict[str, object] = {}
    for match in _ABOUT.finditer(message):
        for kind, name in match.groupdict().items():
            if name:
                found.setdefault(kind, name)
    return found
