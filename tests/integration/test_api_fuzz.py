"""The API's own OpenAPI document, fuzzed: no request makes it fail, and every answer is one that it describes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api_service import ApiService, FakeRun, RedisServer, write_directory

EXAMPLES = 15  # for each operation, and for what it takes as for what it must refuse
OPERATIONS = 26
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@dataclass
class Fuzzed:
    """The API under test, one operation after the other, and a run that it has."""

    api: ApiService
    run_id: str
    session: requests.Session
    operations: list[Any]


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    with tempfile.TemporaryDirectory(prefix="plush-api-", dir="/tmp") as name, RedisServer(Path(name)) as server:
        folder = Path(name)
        environ = {"PLUSH_API_DIRECTORY": str(write_directory(folder)), "PLUSH_API_RATE_BURST": "1000000"}
        run = FakeRun(server.url, folder / "state")
        run.join()
        run.print(b"hello\n", hosts=0b11)
        run.end()  # so that those who follow it come to an end
        with ApiService(folder, server.url, folder / "state", environ) as api, requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {api.admin_token}"
            schema = schemathesis.openapi.from_url(f"{api.url}/v1/openapi.json")
            yield Fuzzed(api, run.run_id, session, [result.ok() for result in schema.get_all_operations()])


@pytest.mark.parametrize("number", range(OPERATIONS))
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_is_answered_with_what_is_not_described(fuzzed: Fuzzed, number: int, mode: GenerationMode) -> None:
    operation = fuzzed.operations[number]

    @SETTINGS
    @given(case=operation.as_strategy(generation_mode=mode), existing=st.booleans())
    def fuzz(case: Any, existing: bool) -> None:
        if existing and "run_id" in (case.path_parameters or {}) and case.method != "DELETE":
            case.path_parameters["run_id"] = fuzzed.run_id
        if case.headers:
            case.headers.pop("Authorization", None)
        answer = case.call(base_url=fuzzed.api.url, session=fuzzed.session, timeout=20)
        case.validate_response(answer, checks=CHECKS)

    try:
        fuzz()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE and not list(operation.iter_parameters()), "only this can't be got wrong"
    assert "Traceback" not in fuzzed.api.log()


def test_every_operation_was_fuzzed_and_none_does_without_a_token(fuzzed: Fuzzed) -> None:
    assert len(fuzzed.operations) == OPERATIONS, "put the new number in OPERATIONS"
    for operation in fuzzed.operations:
        path = operation.path.format(run_id="x", name="x", sha256="0" * 64, mesh_id="x", token_id="x")
        answer = requests.request(operation.method, fuzzed.api.url + path, timeout=20)
        is_open = path in ("/v1/healthz", "/v1/readyz", "/v1/metrics")
        assert answer.status_code == (200 if is_open else 401), f"{operation.method} {path}"
