"""Whatever is asked, the answer is one that the OpenAPI document names, in the form it names, and no server error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pellucid.app.served import Served  # noqa: E402
from pellucid.app.server import create_app  # noqa: E402
from pellucid.app.service import Settings  # noqa: E402

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def conforms(models: dict[str, Served], photo: Path, place: Path, examples: int) -> int:
    """Ask `examples` generated questions of every route; how many were asked in all."""
    app = create_app(models, Settings(hosts=frozenset({"testserver"}), jobs=place / "jobs.db", data=str(photo.parent)))
    input_id = app.state.service.keep(photo.read_bytes(), "fruit.png")
    store = app.state.runner.store
    asked = 0
    for found in schemathesis.openapi.from_asgi("/openapi.json", app).get_all_operations():

        @given(case=found.ok().as_strategy())
        @settings(max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
        def one(case: Any) -> None:
            nonlocal asked
            asked += 1
            if asked % 2 and isinstance(case.body, dict) and "input_id" in case.body:
                case.body["input_id"] = input_id  # else hardly any question would get beyond its input
                case.body.pop("file", None)
            if asked % 2 and "job" in case.path_parameters:
                case.path_parameters["job"] = id = store.add("{}", [("fruit.png", None)]).id
                store.end(id)
            case.call_and_validate(checks=CHECKS, timeout=60)

        one()
    app.state.service.close()
    store.close()
    return asked


def test_answers_are_those_of_the_document(models: dict[str, Served], photo: Path, tmp_path: Path) -> None:
    assert conforms(models, photo, tmp_path, 5) > 50


@pytest.mark.slow
def test_a_thousand_questions(models: dict[str, Served], photo: Path, tmp_path: Path) -> None:
    asked = conforms(models, photo, tmp_path, 100)
    print(asked, "examples")
    assert asked >= 1000


def test_every_route_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            assert {"400", "413", "421", "503", "504"} <= set(told["responses"]), (method, path)
            for status, answer in told["responses"].items():
                if not status.startswith("2"):
                    assert set(answer["content"]) == {"application/problem+json"}, (method, path, status)
    assert set(document["components"]["schemas"]["Problem"]["properties"]) == {"type", "title", "status", "detail", "hint"}  # fmt: skip
    assert not [name for name in document["components"]["schemas"] if "ValidationError" in name]
