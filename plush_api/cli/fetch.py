"""``plush fetch``: files and directories from many hosts."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from plush_worker.errors import UsageError

from .host_options import AsJson, DirectoryFile, Exclude, HostFiles, Hosts, Login, SliceName, SshConfig


def fetch(
    paths: Annotated[list[str], typer.Argument(metavar="SRC... DESTDIR", help="What is copied, and where to.")],
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
    """Copy files and directories from hosts into a folder for each: DESTDIR/HOST/.

    SRC is a path on the hosts, relative to the home directory there, with {host} and {index} as in plush deploy.
    Directories are copied with all that is in them, links as links, permissions are kept. Each file is checked and
    put in its place at once, or not at all.
    """
    from .copying import Copy, copy, options_of
    from .fetch_watch import FetchWatch, make_folder

    if len(paths) < 2:
        raise UsageError("plush fetch needs SRC and DESTDIR: what is copied, and where to on this machine")
    *sources, folder = paths
    make_folder(folder)
    options = options_of(
        hosts, exclude, login, ssh_config, hostfiles, directory, slice_name, quiet=quiet, as_json=as_json
    )
    what = Copy("fetch", f"fetch {' '.join(sources)}", fetch=sources)
    raise typer.Exit(copy(options, what, partial(FetchWatch, folder)))
