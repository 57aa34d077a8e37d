"""Where the peers are: programs of Debian packages on PATH, and Python packages in an environment of their own.

The environment is ``.venv-peers`` in the checkout, or where ``PLUSH_PEERS_VENV`` says; it is made when it is missing.
Nothing of it is importable from Plush's. A peer that can't be had is named with the reason, and the rest goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEBIAN = {"pdsh": "pdsh", "clush": "clustershell", "taktuk": "taktuk"}  # program -> package
PYTHON = {"ansible": "ansible-core", "parallel-ssh": "parallel-ssh"}  # peer -> package
_ASKS = {"pdsh": ("-V",), "clush": ("--version",), "taktuk": ("--version",), "ansible": ("--version",)}
_MODULES = "import ansible, pssh, importlib.metadata as m; print(m.version('parallel-ssh'))"
INSTALL_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class PeerEnvironment:
    """What there is. ``programs``: peer -> path (of the interpreter, for a library); ``missing``: peer -> why."""

    programs: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    scratch: str = "/tmp"  # a folder for what peers write
    folder: str = ""  # of the Python environment, for hosts that must see it

    def to_mapping(self) -> dict[str, Any]:
        """As JSON takes it; ``PeerEnvironment(**mapping)`` undoes it."""
        return asdict(self)


def make_peer_environment() -> PeerEnvironment:
    """Find or make everything; takes a minute the first time."""
    programs: dict[str, str] = {}
    missing: dict[str, str] = {}
    for program, package in DEBIAN.items():
        # From the system, not from an environment on PATH: Plush's has a clush of its own.
        found = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin") or shutil.which(program)
        if found:
            programs[program] = found
        else:
            missing[program] = f"not installed: apt-get install {package}"
    folder = Path(os.environ.get("PLUSH_PEERS_VENV") or ROOT / ".venv-peers")
    why = _make_venv(folder)
    if why:
        missing |= dict.fromkeys(PYTHON, why)
    else:
        programs |= {"ansible": str(folder / "bin" / "ansible"), "parallel-ssh": str(folder / "bin" / "python")}
    versions = {name: _version(name, path) for name, path in programs.items()}
    return PeerEnvironment(programs, versions, missing, folder="" if why else str(folder))


def _make_venv(folder: Path) -> str:
    """Make the Python environment unless it works; returns why it doesn't, or nothing."""
    python = folder / "bin" / "python"
    if not _works(python):
        print(f"making the peers' environment {folder}", file=sys.stderr, flush=True)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PYTHON.values()],
        ):
            try:
                ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
            except subprocess.TimeoutExpired:
                return f"{' '.join(command)} took more than {INSTALL_LIMIT_S} s: run it by hand"
            if ran.returncode:
                said = (ran.stdout + ran.stderr).strip()[-300:]
                return f"{' '.join(command)} ended with {ran.returncode}: {said}"
        (folder / ".gitignore").write_text("*\n")  # for git, and for linters that ask git
    return "" if _works(python) else f"{folder} lacks {' or '.join(PYTHON.values())}: remove it and try again"


def _works(python: Path) -> bool:
    if not python.exists():
        return False
    return subprocess.run([str(python), "-I", "-c", _MODULES], capture_output=True, check=False).returncode == 0


def _version(name: str, path: str) -> str:
    """The number in what a program says of itself; empty when it has none."""
    ask = [path, *_ASKS[name]] if name in _ASKS else [path, "-I", "-c", _MODULES]
    ran = subprocess.run(ask, capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+[\w.]*", ran.stdout + ran.stderr)
    return found[0] if found else ""
