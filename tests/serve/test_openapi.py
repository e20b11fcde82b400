"""Whatever is asked of the API that its description allows, or nearly, is answered as it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tests.serve.service_fixture import small_store

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


@schemathesis.serializer("application/vnd.apache.parquet")
def as_it_is(context: Any, value: Any) -> bytes:
    """Send bytes that were made up as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    from megasim.serve.app import create_app
    from megasim.serve.settings import Settings

    path = small_store(tmp_path)
    settings = Settings(path, allow_jobs=True, host_names=("testserver",))
    app = create_app(settings)  # its jobs wait: schemathesis starts it when it likes
    yield app
    app.state.service.close()


def test_every_answer_is_one_that_is_described(app: Any) -> None:
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
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


def test_an_event_is_one_that_is_described(app: Any) -> None:
    """Not left to chance: whether a job is there depends on what was asked for before."""
    jobs = app.state.service.jobs
    job = jobs.cancel(jobs.ask("compare", {}).id)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    operation = schema["/api/v1/jobs/{job_id}/events"]["GET"]
    answer = operation.Case(path_parameters={"job_id": job.id}).call_and_validate(
        base_url="http://testserver", checks=[checks.response_schema_conformance]
    )
    assert "event: job" in answer.text


def test_the_description_names_all_views_and_examples(app: Any) -> None:
    told = app.openapi()
    for view in ("models", "layers", "layer_distances", "component_distances"):
        content = told["paths"][f"/api/v1/{view}"]["get"]["responses"]["200"]["content"]
        assert content["application/json"]["example"]["rows"]
    assert told["paths"]["/api/v1/sql"]["post"]["requestBody"]["required"]
