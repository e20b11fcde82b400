"""What megasim says of the models: findings, matrices, maps, trees, as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from megasim.serve.api.descriptions import problems
from megasim.serve.dependencies import ReadStore, kept
from megasim.serve.formats import json_text, json_value
from megasim.serve.service import service_of
from megasim.words import Metric
from megasim.workspace import Workspace

router = APIRouter(prefix="/api/v1", tags=["answers"])

Model = Annotated[str, Query(description="A name, or the only one that begins so.")]
Component = Annotated[str, Query(description="unet, vae, …, or all; the UNet if empty.")]
Models = Annotated[list[str], Query(description="Only these models, in this order.")]


def _json(value: Any) -> Response:
    return Response(json_text(json_value(value)) + "\n", media_type="application/json")


def _answers(description: str, example: Any) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": description, "content": {"application/json": {"example": example}}},
        **problems(304, 400, 404, 503),
    }


@router.get(
    "/findings",
    summary="How each component of two models, or of all pairs, differs",
    responses=_answers(
        "One object for each pair and component",
        [{"model_a": "sd14", "model_b": "sd15", "component": "vae", "verdict": "identical"}],
    ),
)
def findings(
    request: Request, store: ReadStore, a: Model = "", b: Model = "", group: str = ""
) -> Response:
    """Return the verdict on each component of two models, the pairs of a group, or all pairs."""
    found = kept(
        request,
        ("pair_findings", a, b, group),
        lambda: [
            finding.to_json()
            for finding in store.pair_findings(a or None, b or None, group=group or None)
        ],
    )
    return _json(found)


@router.get(
    "/findings/overview",
    summary="What is found among all models, in sentences",
    responses=_answers("Relations, odd layers and what is not compared", {"relations": []}),
)
def overview(
    request: Request, store: ReadStore, a: Model = "", b: Model = "", group: str = ""
) -> Response:
    """Return what is found between two models, the pairs of a group, or all models."""
    key = ("findings", a, b, group)
    found = kept(
        request,
        key,
        lambda: store.findings(a or None, b or None, group=group or None).to_json(),
    )
    return _json(found)


@router.get(
    "/why",
    summary="How two models are related, in five sentences",
    responses=_answers("The sentences and what they rest on", {"sentences": []}),
)
def why(request: Request, store: ReadStore, a: Model, b: Model) -> Response:
    """Return how two models are related, how sure that is, and what to ask next."""
    return _json(kept(request, ("why", a, b), lambda: store.why(a, b).to_json()))


@router.get(
    "/matrix",
    summary="The distance matrix of a component",
    responses=_answers("Models, values, sources and coverage", {"models": ["a", "b"]}),
)
def matrix(
    request: Request,
    store: ReadStore,
    component: Component = "",
    metric: Metric = Metric.L2,
    models: Models = [],  # noqa: B006 - FastAPI copies it
    weights_only: bool = False,
) -> Response:
    """Return the distances of all pairs of models; null where a pair was not compared."""
    from megasim.matrix.files import matrix_to_json

    found = kept(
        request,
        ("matrix", component, metric, tuple(models), weights_only),
        lambda: store.matrix(
            component or None, metric, models=models or None, weights_only=weights_only
        ),
    )
    return _json(matrix_to_json(found))


@router.get(
    "/map",
    summary="The map of the models, with the test of the flat plane",
    responses=_answers("Coordinates and the verdict", {"models": ["a", "b", "c"]}),
)
def model_map(
    request: Request,
    store: ReadStore,
    component: Component = "",
    metric: Metric = Metric.L2,
    models: Models = [],  # noqa: B006
    path: Models = [],  # noqa: B006
) -> Response:
    """Return where the models lie by their distances, and whether they lie in a plane."""
    found = kept(
        request,
        ("map", component, metric, tuple(models), tuple(path)),
        lambda: store.map(component or None, metric, models=models or None, path=path),
    )
    return _json(found.to_json())


@router.get(
    "/lineage",
    summary="The family tree of the models, and what the weights say of claims",
    responses=_answers("Edges with their evidence, and claims", {"edges": [], "claims": []}),
)
def lineage(
    request: Request,
    store: ReadStore,
    component: Component = "",
    models: Models = [],  # noqa: B006
    use_metadata: bool = True,
) -> Response:
    """Return the family tree, each edge with its evidence and its rivals."""
    tree, claims = kept(
        request,
        ("lineage", component, tuple(models), use_metadata),
        lambda: store.lineage_and_claims(
            component or None, models=models or None, use_metadata=use_metadata
        ),
    )
    return _json({**tree.to_json(), "claims": [claim.to_json() for claim in claims]})


@router.get(
    "/changes",
    summary="How much of a change is in which block, role or layer",
    responses=_answers("Components and their groups", {"model_a": "a", "model_b": "b"}),
)
def changes(
    request: Request,
    store: ReadStore,
    a: Model,
    b: Model,
    by: Annotated[str, Query(pattern="^(block|role|layer)$")] = "block",
    component: Component = "",
) -> Response:
    """Return where a model changed: the share of each block, role or layer."""
    found = kept(
        request,
        ("changes", a, b, by, component),
        lambda: store.changes(a, b, by, component or None),  # type: ignore[arg-type]
    )
    return _json(found.to_json())


@router.get(
    "/shared",
    summary="The groups of models that hold the same component",
    responses=_answers("Groups, the largest first", {"groups": []}),
)
def shared(request: Request, store: ReadStore) -> Response:
    """Return which models share which component."""
    return _json(kept(request, "shared", lambda: _groups(store)))


def _groups(store: Workspace) -> list[dict[str, Any]]:
    return [group.to_json() for group in store.shared_components()]


@router.get(
    "/missing_files",
    summary="The models whose files are gone from the machine of the service",
    responses={
        200: {
            "description": "Names: of those whose folder is there, and of those whose is not",
            "content": {"application/json": {"example": {"gone": ["sd14"], "unreachable": []}}},
        },
        **problems(),
    },
    response_class=Response,
)
def missing(request: Request) -> Response:
    """Return the models whose files are gone, as it is now."""
    with service_of(request).reading() as store:
        found = store.missing_files()
    return _json({"gone": list(found.gone), "unreachable": list(found.unreachable)})
