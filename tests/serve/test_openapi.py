"""Whatever is asked of the API that its description allows, or nearly, is answered as it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tests.serve.service_fixture import client_of, small_store

checks = pytest.importorskip("schemathesis.checks", reason="schemathesis is missing")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is missing")

_EXAMPLES = settings(
    max_examples=int(os.environ.get("API_EXAMPLES", "5")),  # more, by hand, for a release
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = small_store(tmp_path_factory.mktemp("store"))
    with client_of(path, sql_seconds=2.0, host_names=("testserver",)) as client:
        yield client


def test_every_answer_is_one_that_is_described(client: Any) -> None:
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", client.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @given(case=operation.as_strategy(generation_mode=mode))
            @_EXAMPLES
            def ask(case: Any) -> None:
                case.call_and_validate(
                    base_url="http://testserver",
                    checks=[
                        checks.not_a_server_error,
                        checks.status_code_conformance,
                        checks.content_type_conformance,
                        checks.response_headers_conformance,
                        checks.response_schema_conformance,
                    ],
                )

            with suppress(Unsatisfiable):  # nothing about it could be wrong
                ask()


def test_the_description_names_all_views_and_examples(client: Any) -> None:
    told = client.get("/api/v1/openapi.json").json()
    for view in ("models", "layers", "layer_distances", "component_distances"):
        content = told["paths"][f"/api/v1/{view}"]["get"]["responses"]["200"]["content"]
        assert content["application/json"]["example"]["rows"]
    assert told["paths"]["/api/v1/sql"]["post"]["requestBody"]["required"]
