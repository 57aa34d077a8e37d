"""Where runs run: slices of the host directory, standing meshes, workers."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query

from plush_api.auth import Reader, Runner
from plush_api.context import Context, Shared, problems
from plush_api.problems import Problem
from plush_api.schemas import (
    Mesh,
    MeshClosed,
    MeshList,
    SliceHost,
    SliceHosts,
    SliceInfo,
    SliceList,
    Worker,
    WorkerList,
)
from plush_worker.errors import ConfigurationError
from plush_worker.experiment.directory import Directory, HostOptions, find_directory, load_directory

router = APIRouter()


@router.get("/slices", tags=["slices"], responses=problems())
async def list_slices(shared: Shared, principal: Reader) -> SliceList:
    """The slices that the token may use, of the service's host directory."""
    directory = await _directory(shared)
    slices = directory.slices if directory else {}
    found = [SliceInfo(name=n, hosts=len(s["hosts"])) for n, s in slices.items() if principal.may_use(n)]
    return SliceList(slices=found)


@router.get("/slices/{name}/hosts", tags=["slices"], responses=problems(404))
async def show_slice(shared: Shared, principal: Reader, name: str) -> SliceHosts:
    """The hosts of a slice."""
    directory = await _directory(shared)
    if directory is None or name not in directory.slices or not principal.may_use(name):
        raise Problem(404, "slice_not_found", "there is no slice of this name that the token may use")
    names = directory.slices[name]["hosts"]
    entries = {host: directory.hosts.get(host, {}) for host in names}
    hosts = [SliceHost(name=h, site=e.get("site", ""), tags=list(e.get("tags", ()))) for h, e in entries.items()]
    return SliceHosts(slice=name, hosts=hosts)


@router.get("/meshes", tags=["meshes"], responses=problems())
async def list_meshes(shared: Shared, principal: Reader) -> MeshList:
    """The standing meshes: one's own, or for admins all."""
    return MeshList(meshes=[Mesh(**mesh) for mesh in await shared.store.meshes() if principal.sees(mesh["owner"])])


@router.delete("/meshes/{mesh_id}", tags=["meshes"], status_code=202, responses=problems(404, 409))
async def close_mesh(
    shared: Shared,
    principal: Runner,
    mesh_id: str,
    kill: Annotated[bool, Query(description="End what still runs on its hosts first.")] = False,
) -> MeshClosed:
    """Close a mesh: its links end, its node programs leave their hosts."""
    mesh = next((m for m in await shared.store.meshes() if m["id"] == mesh_id and principal.sees(m["owner"])), None)
    if mesh is None:
        raise Problem(404, "mesh_not_found", "there is no mesh of this id that is yours")
    return MeshClosed(id=mesh_id, asked=await shared.store.close_mesh(mesh_id, kill))


@router.get("/workers", tags=["workers"], responses=problems())
async def list_workers(shared: Shared, _principal: Reader) -> WorkerList:
    """The live workers."""
    known = Worker.model_fields
    workers = [{k: v for k, v in asdict(info).items() if k in known} for info in await shared.store.live_workers()]
    return WorkerList(workers=[Worker(**worker) for worker in workers])


async def _directory(shared: Context) -> Directory | None:
    """The service's host directory; None when it has none. Raises Problem when that can't be read."""

    def load() -> Directory | None:
        path = find_directory(HostOptions(directory=shared.api.directory, config_file=shared.api.ssh_config))
        return load_directory(path) if path else None

    try:
        return await asyncio.to_thread(load)
    except ConfigurationError as error:
        raise Problem(503, "bad_directory", f"the service's host directory can't be used: {error}") from error
