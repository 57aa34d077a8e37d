"""The API as an ASGI application. Entry point: ``create_app``.

Owns what is around the routes: start and end, the gate, errors, the OpenAPI document. Decides nothing about runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from plush_worker.config import Settings
from plush_worker.experiment.spec import experiment_schema
from plush_worker.store.service import ServiceStore

from .api_settings import ApiSettings
from .auth import ensure_admin_token
from .context import PROBLEM_MODEL, Context
from .gate import VERSION_PREFIX, Gate
from .metrics import Metrics
from .problems import install
from .routes import blobs, events, health, output, places, runs, submission, tokens

TITLE = "Plush"
DESCRIPTION = "Run experiments on many hosts. Every error is a problem document (RFC 9457)."
_REF = "#/components/schemas/"


def create_app(settings: Settings, api: ApiSettings | None = None) -> FastAPI:
    """The application on the Redis and state folder of ``settings``. It connects when it starts."""
    api = api or ApiSettings()
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.context = context = await Context.open(settings, api, metrics)
        try:
            if api.admin_token_file is not None:
                await ensure_admin_token(context.store, api.admin_token_file, api.admin_owner)
            yield
        finally:
            await context.close()

    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    router = APIRouter(prefix=VERSION_PREFIX)
    for module in (submission, runs, events, output, places, blobs, tokens, health):
        router.include_router(module.router)
    app.include_router(router)
    app.include_router(health.router, include_in_schema=False)  # where probes look for them
    install(app)

    def store() -> ServiceStore:
        found: ServiceStore = app.state.context.store
        return found

    app.add_middleware(Gate, settings=api, store=store, metrics=metrics)
    document = openapi_document(app)

    async def openapi() -> JSONResponse:
        return JSONResponse(document)

    for path in ("/openapi.json", f"{VERSION_PREFIX}/openapi.json"):
        app.add_api_route(path, openapi, include_in_schema=False)
    return app


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document (3.1), with the form of experiments and of errors."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, schema in {
        "ProblemDocument": PROBLEM_MODEL.model_json_schema(),
        "Experiment": experiment_schema(),
    }.items():
        schemas |= _hoisted(name, schema)
    for path, operations in document["paths"].items():
        if path.endswith(("/healthz", "/readyz")):
            for operation in operations.values():
                operation["security"] = []
    return document


def _hoisted(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema as components: name -> schema, its ``$defs`` beside it under names of their own."""
    inner = schema.get("$defs", {})
    whole = {key: value for key, value in schema.items() if key not in ("$defs", "$schema", "$id")}
    return {name: _moved(name, whole)} | {f"{name}.{key}": _moved(name, value) for key, value in inner.items()}


def _moved(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: f"{_REF}{name}.{inner.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(inner, str) and inner.startswith("#/$defs/")
            else _moved(name, inner)
            for key, inner in value.items()
        }
    return [_moved(name, item) for item in value] if isinstance(value, list) else value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("plush")
    except PackageNotFoundError:
        return "0"
