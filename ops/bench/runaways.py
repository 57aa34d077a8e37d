"""Seven kinds of process that outlive their command, as one shell command for many hosts; and reading what is left.

Every process carries ``MARK-KIND-ADDRESS`` in its command line. The mark is put together on the host, so that it is in
no command line of the tool that brought it there. Pure.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable

ITSELF = "the command itself"
KINDS = ("nohup", "setsid", "double-fork", "wiped-environment", "deaf", "respawning", "forks-on-SIGTERM")

# Every kind loops in sh; $0 of that is the name by which it is found. Output goes nowhere: a shell that holds the
# session's output would keep the session open, which is another matter.
_SCRIPT = """
address=${SSH_CONNECTION% *}
name() { printf '%s%s-%s-%s' "$first" "$second" "$1" "${address##* }"; }
first=$1 second=$2
loop='while :; do sleep 1; done'
exec >/dev/null 2>&1
nohup sh -c "$loop" "$(name nohup)" &
setsid sh -c "$loop" "$(name setsid)" &
setsid sh -c 'sh -c "$1" "$0" & exit' "$(name double-fork)" "$loop"
env -i setsid /bin/sh -c "$loop" "$(name wiped-environment)" &
sh -c "trap '' HUP INT QUIT TERM USR1 USR2; $loop" "$(name deaf)" &
sh -c 'while :; do sh -c "$1" "$0"; done' "$(name respawning)" "$loop" &
sh -c 'trap "sh -c \\"$1\\" \\"$0\\" &" TERM; eval "$1"' "$(name forks-on-SIGTERM)" "$loop" &
exec sh -c "$loop" "$(name itself)"
"""


def command(mark: str) -> str:
    """For the login shell of each host, or anything else that runs a pipeline; contains ``mark`` only in two halves."""
    half = len(mark) // 2
    script = base64.b64encode(_SCRIPT.encode()).decode()
    return f"echo {script} | base64 -d | sh -s {mark[:half]} {mark[half:]}"


def hosts_left(command_lines: Iterable[str], mark: str) -> dict[str, int]:
    """Kind -> on how many hosts one of it runs; every kind and the command itself are in it."""
    found: dict[str, set[str]] = {kind: set() for kind in (ITSELF, *KINDS)}
    for line in command_lines:
        match = re.search(rf"{re.escape(mark)}-([A-Za-z-]+)-(\S+)", line)
        if match:
            found[ITSELF if match[1] == "itself" else match[1]].add(match[2])
    return {kind: len(addresses) for kind, addresses in found.items()}
