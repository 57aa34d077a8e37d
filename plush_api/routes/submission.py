"""Submitting an experiment: read, checked and compiled against the service's own host directory, stored once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from plush_api.auth import Principal, Runner
from plush_api.context import Context, Shared, problems
from plush_api.problems import Problem, bad_request
from plush_api.schemas import Run
from plush_worker.config import RUN_QUEUE
from plush_worker.experiment.spec import Experiment, compile_experiment, experiment_from_mapping, load_experiment
from plush_worker.model import RunSpec
from plush_worker.store.tokens import ALL_SLICES

from .runs import run_now

router = APIRouter(tags=["runs"])

JSON_TYPES = ("application/json",)
YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
DOCUMENT = "experiment"  # what the text is called in errors
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_EXAMPLE = {"name": "hello", "hosts": "node[1-4]", "command": "echo hello from $PLUSH_HOST"}
_MADE_BEFORE = {"model": Run, "description": "The run that this key made before."}
_YAML_EXAMPLE = "name: hello\nhosts: node[1-4]\ncommand: echo hello from $PLUSH_HOST\n"
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Experiment"}, "example": _EXAMPLE},
        "application/yaml": {"schema": {"type": "string"}, "example": _YAML_EXAMPLE},
    },
}


@router.post(
    "/runs",
    status_code=201,
    responses=problems(400, 404, 408, 409, 413, 415, 507, answers={200: _MADE_BEFORE}),
    openapi_extra={"requestBody": _BODY},
)
async def submit_run(
    shared: Shared,
    request: Request,
    response: Response,
    principal: Runner,
    idempotency_key: Annotated[
        str, Header(max_length=200, description="The same key and body again make no second run, for a day.")
    ] = "",
) -> Run:
    """Submit an experiment. It is coordinated by the first worker that takes it."""
    if idempotency_key and not _KEY.fullmatch(idempotency_key):
        raise bad_request("header.Idempotency-Key", "must be 1 to 200 visible ASCII characters")
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in (*JSON_TYPES, *YAML_TYPES):
        raise Problem(415, "unsupported_media_type", f"send {JSON_TYPES[0]} or {YAML_TYPES[0]}, not {media_type!r}")
    body = await request.body()
    digest = hashlib.sha256(body).hexdigest()
    run_id = await _made_before(shared, principal, idempotency_key, digest)
    if run_id:
        response.status_code = 200
    else:
        spec = await _compile(shared, principal, body, media_type)
        run_id, response.status_code = await _store(shared, principal, spec, idempotency_key, digest)
    run = await run_now(shared, request, principal, run_id)
    response.headers["Location"] = run.links.self
    return run


async def _made_before(shared: Context, principal: Principal, key: str, digest: str) -> str:
    """The run that the key made; empty when it made none. Raises Problem when it stands for something else."""
    claim = await shared.store.claimed(principal.owner, key) if key else None
    if claim is None:
        return ""
    if claim.body != digest:
        raise _reused(key)
    if await shared.store.run_head(claim.run_id) is not None:
        return claim.run_id
    if claim.stored:
        raise Problem(409, "run_removed", f"the run {claim.run_id} of this idempotency key has been removed")
    return ""


async def _compile(shared: Context, principal: Principal, body: bytes, media_type: str) -> RunSpec:
    """The run that the body describes. Raises SpecErrors, Problem, and what a bad host directory raises."""
    async with shared.compiling:  # hosts may be looked up by running ssh
        return await asyncio.to_thread(_compile_now, shared, principal, body, media_type)


def _compile_now(shared: Context, principal: Principal, body: bytes, media_type: str) -> RunSpec:
    if media_type in JSON_TYPES:
        experiment = experiment_from_mapping(_decode_json(body), DOCUMENT)
    else:
        experiment = load_experiment(body, DOCUMENT)
    _check_slice(principal, experiment)
    spec = compile_experiment(
        experiment,
        owner=principal.owner,
        blobs=shared.blobs,
        base_dir=None,
        directory=shared.api.directory,
        config_file=shared.api.ssh_config,
    )
    names = [host["name"] for host in spec.hosts if "@" in host["name"]]
    if (names or experiment.login) and ALL_SLICES not in principal.slices:
        what = f"login {experiment.login!r}" if experiment.login else f"the login in {names[0]!r}"
        raise Problem(403, "login_forbidden", f"{what}: this token logs in as its slices say; leave the user name out")
    return spec


def _check_slice(principal: Principal, experiment: Experiment) -> None:
    # Before anything is looked up: errors name what is near, which others' slices are not to be.
    if not principal.may_use(experiment.slice or ""):
        raise _forbidden(principal, experiment.slice or "")


def _forbidden(principal: Principal, named: str) -> Problem:
    what = f"slice {named!r}" if named else "hosts without naming a slice"
    return Problem(403, "slice_forbidden", f"this token may not use {what}; it may use: {', '.join(principal.slices)}")


async def _store(shared: Context, principal: Principal, spec: RunSpec, key: str, digest: str) -> tuple[str, int]:
    """(id, status) of the run: stored now, or by somebody with the same key just before."""
    store, owner = shared.store, principal.owner
    if key:
        claim = await store.claim(owner, key, digest, spec.run_id or str(uuid.uuid4()))
        if claim.body != digest:
            raise _reused(key)
        spec = replace(spec, run_id=claim.run_id)
    await store.admit_run(owner, spec.run_id, shared.api.open_runs_per_owner)
    is_new = await store.create_run(spec, RUN_QUEUE)
    if key:
        await store.settle(owner, key)
    if is_new:
        shared.metrics.submitted.inc()
    return spec.run_id, 201 if is_new else 200


def _reused(key: str) -> Problem:
    return Problem(
        422,
        "idempotency_key_reused",
        f"the idempotency key {key!r} was used for a request with another body: use a new one",
    )


def _decode_json(body: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise Problem(400, "bad_json", f"the body is no JSON: {where or 'nested too deep'}") from error
    if not isinstance(values, dict):
        raise bad_request("body", "an experiment is a mapping (a JSON object)")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number that JSON knows")
