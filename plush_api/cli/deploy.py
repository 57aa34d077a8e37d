"""``plush deploy``: files and directories to many hosts."""

from __future__ import annotations

from typing import Annotated

import typer

from plush_worker.errors import UsageError

from .host_options import AsJson, DirectoryFile, Exclude, HostFiles, Hosts, Login, SliceName, SshConfig


def deploy(
    paths: Annotated[list[str], typer.Argument(metavar="SRC... DEST", help="What is copied, and where to.")],
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no notes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Copy files and directories to hosts, once over each link.

    DEST is a path on the hosts, relative to the home directory there; {host} and {index} in it stand for the host's
    name and its place in the list, from 0. Several SRC, or a DEST that ends in /, go into DEST under their own names.
    Directories are copied with all that is in them, links as links, permissions are kept. Each file is checked and
    put in its place at once, or not at all.
    """
    from .copying import Copy, copy, options_of
    from .deploy_files import find_files

    if len(paths) < 2:
        raise UsageError("plush deploy needs SRC and DEST: what is copied, and where to on the hosts")
    *sources, dest = paths
    options = options_of(
        hosts, exclude, login, ssh_config, hostfiles, directory, slice_name, quiet=quiet, as_json=as_json
    )
    what = Copy("deploy", f"deploy {' '.join(paths)}", lambda take: find_files(sources, dest, take))
    raise typer.Exit(copy(options, what))
