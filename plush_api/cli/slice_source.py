"""Where slices are looked up: in the host directory of this machine, or by a service elsewhere in its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from plush_worker.errors import UsageError

if TYPE_CHECKING:
    from plush_api.http_client import HttpClient


class SliceSource(Protocol):
    """Somebody who knows slices. ``where`` names it in messages."""

    where: str

    def slices(self) -> list[dict[str, Any]]:
        """Each with ``name``, ``hosts_count`` and settings."""

    def hosts(self, name: str) -> list[dict[str, Any]]:
        """The hosts of a slice, each with ``name``, ``site`` and ``tags``."""


@contextmanager
def slice_source(directory: str) -> Iterator[SliceSource]:
    """The source that the environment selects. Raises UsageError when there is no host directory."""
    from .service import find_remote_service

    remote = find_remote_service()
    if remote is None:
        yield _LocalSlices(directory)
        return
    if directory:
        raise UsageError(f"--directory {directory}: the service at {remote.remote.url} has a host directory of its own")
    from plush_api.http_client import HttpClient

    client = HttpClient(remote.remote.url, remote.remote.token)
    try:
        yield _RemoteSlices(client, remote.remote.url)
    finally:
        client.close()


class _LocalSlices:
    """The slices of a host directory on this machine."""

    def __init__(self, path: str) -> None:
        from plush_worker.experiment.directory import HostOptions, find_directory, load_directory

        self.where = find_directory(HostOptions(directory=path))
        if not self.where:
            raise UsageError(
                "there is no host directory that could define slices; looked for --directory, PLUSH_DIRECTORY and "
                "plush/hosts.yaml in the XDG config folder"
            )
        self._directory = load_directory(self.where)

    def slices(self) -> list[dict[str, Any]]:
        """See SliceSource."""
        from plush_worker.model import SliceSettings

        found = []
        for name, fields in self._directory.slices.items():
            settings = SliceSettings.from_mapping({**fields, "name": name})
            values = {key: getattr(settings, key) for key in SliceSettings.__dataclass_fields__}
            found.append({"name": name, "hosts_count": len(fields["hosts"]), **values})
        return found

    def hosts(self, name: str) -> list[dict[str, Any]]:
        """See SliceSource."""
        known = self._directory.hosts
        return [
            {"name": host, "site": known[host].get("site", ""), "tags": list(known[host].get("tags", ()))}
            for host in self._directory.slices[name]["hosts"]
        ]


class _RemoteSlices:
    """The slices that a service lets this token use."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self.where = url
        self._client = client

    def slices(self) -> list[dict[str, Any]]:
        """See SliceSource."""
        return self._client.slices()

    def hosts(self, name: str) -> list[dict[str, Any]]:
        """See SliceSource."""
        return self._client.slice_hosts(name)
