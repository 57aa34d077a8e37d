"""One control group for each host: to freeze all of it at once, and to hold it to a share of the processors.

Works on the unified hierarchy (cgroup v2) and, for what that lacks here, on the separate ones of v1. A group's path is
``MOUNT/plush-testbed/TESTBED/HOST`` below the mount of its hierarchy. Entry points: ``Groups`` for one testbed,
``remove_stale`` for those that nobody removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import TestbedError

TOP = "plush-testbed"
PERIOD_US = 100_000  # of the processor quota; the kernel's default
FREEZE_LIMIT_S = 5.0
REMOVE_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where the kernel's groups are mounted; "" for what there isn't."""

    unified: str = ""
    unified_has_cpu: bool = False
    v1_cpu: str = ""
    v1_freezer: str = ""

    def all(self) -> list[Path]:
        """Every hierarchy that a testbed may use."""
        return [Path(mount) for mount in (self.unified, self.v1_cpu, self.v1_freezer) if mount]


def find_hierarchies() -> Hierarchies:
    """On this machine."""
    return plan_hierarchies(Path("/proc/self/mountinfo").read_text(), _controllers)


def plan_hierarchies(mountinfo: str, controllers: Callable[[str], list[str]]) -> Hierarchies:
    """From the text of mountinfo; ``controllers`` reads those of the unified hierarchy, given its mount point."""
    unified = cpu = freezer = ""
    for line in mountinfo.splitlines():
        place, _, kind = line.partition(" - ")
        mount, words = place.split()[4], kind.split()
        if words[0] == "cgroup2":
            unified = unified or mount
        elif words[0] == "cgroup":
            options = words[2].split(",")
            cpu = mount if "cpu" in options else cpu
            freezer = mount if "freezer" in options else freezer
    return Hierarchies(unified, bool(unified) and "cpu" in controllers(unified), cpu, freezer)


def _controllers(mount: str) -> list[str]:
    return (Path(mount) / "cgroup.controllers").read_text().split()


class Groups:
    """The groups of one testbed. Raises TestbedError that names the group and what to do."""

    def __init__(self, testbed: str, hierarchies: Hierarchies) -> None:
        self._testbed = testbed
        self._found = hierarchies
        freeze = hierarchies.unified or hierarchies.v1_freezer
        cpu = hierarchies.unified if hierarchies.unified_has_cpu else hierarchies.v1_cpu
        self._freeze_base = Path(freeze) / TOP / testbed if freeze else None
        self._cpu_base = Path(cpu) / TOP / testbed if cpu else None
        self._limited: set[str] = set()

    def make(self, host: str, cpu_share: float | None) -> None:
        """Make the host's groups; ``cpu_share`` in cores."""
        if self._freeze_base:
            os.makedirs(f"{self._freeze_base}/{host}", exist_ok=True)
        if cpu_share is not None:
            self._limit(host, cpu_share)

    def joins(self, host: str) -> list[str]:
        """The files to which a process writes 0 to become part of the host."""
        bases = {self._freeze_base, self._cpu_base if host in self._limited else None}
        return sorted(f"{base}/{host}/cgroup.procs" for base in bases if base)

    def freeze(self, host: str, frozen: bool) -> None:
        """Stop every process of the host, or let them go on; returns when it is so."""
        base = self._freeze_base
        if base is None:
            raise TestbedError(f"{host} can't be frozen: mount cgroup2 or the freezer of cgroup v1 on this machine")
        if self._found.unified:
            _write(base / host / "cgroup.freeze", str(int(frozen)))
            look, wanted = base / host / "cgroup.events", f"frozen {int(frozen)}"
        else:
            _write(base / host / "freezer.state", "FROZEN" if frozen else "THAWED")
            look, wanted = base / host / "freezer.state", "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + FREEZE_LIMIT_S
        while wanted not in look.read_text().splitlines():
            if time.monotonic() > deadline:
                raise TestbedError(f"{host}: still not {wanted!r} in {look} after {FREEZE_LIMIT_S:.0f} s")
            time.sleep(0.001)

    def remove(self) -> None:
        """Remove all groups of this testbed. Their processes have ended before."""
        for mount in self._found.all():
            _remove_tree(mount / TOP / self._testbed)
            with contextlib.suppress(OSError):  # not empty: another testbed is up
                (mount / TOP).rmdir()

    def _limit(self, host: str, share: float) -> None:
        base = self._cpu_base
        if base is None:
            raise TestbedError(
                f"{host} can't be held to {share} of a core: no cpu controller in /sys/fs/cgroup; "
                "mount cgroup2 with the cpu controller, or cgroup v1's cpu"
            )
        (base / host).mkdir(parents=True, exist_ok=True)
        self._limited.add(host)
        quota_us = max(1000, round(share * PERIOD_US))  # the kernel's least is 1 ms
        if self._found.unified_has_cpu:
            for folder in (base.parents[1], base.parent, base):
                _write(folder / "cgroup.subtree_control", "+cpu")
            _write(base / host / "cpu.max", f"{quota_us} {PERIOD_US}")
        else:
            _write(base / host / "cpu.cfs_period_us", str(PERIOD_US))
            _write(base / host / "cpu.cfs_quota_us", str(quota_us))


def remove_stale(hierarchies: Hierarchies, living: set[str]) -> list[str]:
    """End and remove what is left of testbeds that are not ``living``; returns their ids."""
    found = set()
    for mount in hierarchies.all():
        for folder in (mount / TOP).glob("*/"):
            if folder.name not in living:
                _end_processes(folder)
                _remove_tree(folder)
                found.add(folder.name)
        with contextlib.suppress(OSError):  # not there, or not empty: another testbed is up
            (mount / TOP).rmdir()
    return sorted(found)


def _end_processes(folder: Path) -> None:
    """Those of a dead testbed. A frozen process of v1 takes no signal before it is thawed."""
    for group in _below(folder):
        state = group / "freezer.state"
        if state.exists() and group != folder:
            _write(state, "THAWED")
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _below(folder: Path) -> Iterator[Path]:
    """The groups below, deepest first, and this one last."""
    if folder.is_dir():
        for path, _, _ in os.walk(folder, topdown=False):
            yield Path(path)


def _remove_tree(folder: Path) -> None:
    """Remove groups; one whose last process has not been reaped yet is tried again."""
    deadline = time.monotonic() + REMOVE_LIMIT_S
    for group in _below(folder):
        while True:
            try:
                group.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                if time.monotonic() > deadline:
                    pids = (group / "cgroup.procs").read_text().split()
                    raise TestbedError(f"the control group {group} still has processes: end {pids}") from error
                time.sleep(0.005)
                continue
            break


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise TestbedError(f"{path}: could not write {text!r} ({error.strerror})") from error
