"""The options of commands that take hosts, for the commands made with typer, and what they resolve to.

``plush run`` has a parser of its own (``options.py``), since importing typer takes half of its time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from plush_worker.experiment.directory import Resolved

Hosts = Annotated[
    list[str] | None,
    typer.Option("-w", metavar="HOSTS", help="node[1-8],gw; user@host; @group; @all; ^FILE; - for standard input."),
]
Exclude = Annotated[list[str] | None, typer.Option("-x", metavar="HOSTS", help="Leave these out.")]
Login = Annotated[str, typer.Option("-l", metavar="USER", help="Log in as USER where the name says nothing else.")]
SshConfig = Annotated[str, typer.Option("-F", metavar="FILE", help="OpenSSH configuration to use.")]
HostFiles = Annotated[list[str] | None, typer.Option("--hostfile", metavar="FILE", help="Hosts from a file.")]
DirectoryFile = Annotated[str, typer.Option("--directory", metavar="FILE", help="Host directory (hosts.yaml).")]
SliceName = Annotated[str, typer.Option("--slice", metavar="NAME", help="Slice of the directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def resolved_hosts(
    hosts: list[str] | None,
    exclude: list[str] | None,
    login: str,
    ssh_config: str,
    hostfiles: list[str] | None,
    directory: str,
    slice_name: str,
    *,
    all_by_default: bool = False,
) -> Resolved:
    """The hosts that were named; with ``all_by_default`` all there are when none was. Says notes on stderr.

    Raises PlushError when a list can't be read or nothing is named.
    """
    from plush_worker.experiment.directory import HostOptions, resolve

    from .app import say

    options = HostOptions(
        exclude=tuple(exclude or ()),
        login=login,
        config_file=ssh_config,
        hostfiles=tuple(hostfiles or ()),
        directory=directory,
        slice=slice_name,
    )
    texts = list(hosts or ())
    if all_by_default and not texts and not hostfiles and not slice_name:
        texts = ["@all"]
    resolved = resolve(texts, options, read_stdin=sys.stdin.read)
    for note in resolved.notes:
        say(note)
    return resolved
