"""Distance matrices out of the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megasim.anatomy.classification import DENOISERS, component_members
from megasim.errors import NoAnswerError, UsageError, printable
from megasim.matrix.distance_matrix import METRICS, DistanceMatrix, Floats, LayerMatrices
from megasim.store.rows import Store
from megasim.words import PartRole

# Of more models, the matrices of every layer would take more than 150 MB.
MOST_LAYERED_MODELS = 150
_EMPTY = "the store is empty: run `megasim ingest PATH…`"

_CELLS_AT_ONCE = 2_000_000  # layers of pairs that a query gives


def load_matrix(
    store: Store,
    component: str,
    metric: str = "l2",
    *,
    models: Sequence[str] | None = None,
    weights_only: bool = False,
) -> DistanceMatrix:
    """Return the distances of all models that hold `component`, or of `models` in their order.

    `component` may name a group, e.g. "vae" for its three parts: l0 and l1 add, l2 is the root
    of the sum of squares. Pairs that were not compared are NaN. `keys_compared` counts the keys
    that the distance is taken over.

    Args:
        weights_only: leave out the running statistics of normalisation layers, and estimates.

    Raises:
        UsageError: an unknown component, metric or model.
        NoAnswerError: no model holds the component.
    """
    _check_metric(metric)
    members = member_names(store, component)
    ids = holders(store, component, members, models)
    place = {model_id: i for i, model_id in enumerate(ids.values())}
    n = len(ids)
    tables: dict[str, Any] = {
        "batch": {"component": members},
        "chosen": {"model_id": list(place)},
    }
    if weights_only:
        found = store.arrays(
            "weight_values", metric=metric, components=members, models=sorted(place)
        )
    else:
        whole = members[0] if component != "all" else ""
        found = store.arrays("matrix_values", tables=tables, metric=metric, whole=whole, of=None)
    i = np.array([place[x] for x in found["model_a"].tolist()], dtype=np.intp)
    j = np.array([place[x] for x in found["model_b"].tolist()], dtype=np.intp)

    def square(column: str, missing: float, diagonal: float) -> Floats:
        grid = np.full((n, n), missing)
        grid[i, j] = grid[j, i] = np.ma.filled(np.ma.asarray(found[column], dtype=float), np.nan)
        np.fill_diagonal(grid, diagonal)
        return grid

    sources = np.full((n, n), "", dtype="U9")
    sources[i, j] = sources[j, i] = found["source"]
    return DistanceMatrix(
        models=tuple(ids),
        values=square("value", np.nan, 1.0 if metric == "cossim" else 0.0),
        component=component,
        metric=metric,
        sources=sources,
        errors=square("error", np.nan, 0.0),
        keys_compared=square("keys_compared", 0, 0).astype(np.int64),
        coverage=square("coverage", np.nan, 1.0),
    )


def load_distances_of(
    store: Store, component: str, model: str, among: Collection[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return the L2 distances of one model, as `load_matrix` has them in its row, as columns.

    Args:
        among: ids of models that hold the component, the one among them; all such when None.

    Returns:
        model_id of the other one, value, error, source, keys_compared and coverage; empty where
        the model does not hold `component`.

    Raises:
        UsageError, NoAnswerError: see `load_matrix`.
    """
    members = member_names(store, component)
    if among is None:
        ids = holders(store, component, members, None)
        of, chosen = ids.get(model, 0), list(ids.values())
    else:
        of, chosen = store.require_model(model), sorted(among)
    tables: dict[str, Any] = {"batch": {"component": members}, "chosen": {"model_id": chosen}}
    whole = members[0] if component != "all" else ""
    found = store.arrays("matrix_values", tables=tables, metric="l2", whole=whole, of=of)
    first, second = found.pop("model_a"), found.pop("model_b")
    return {"model_id": np.where(first == of, second, first), **found}


def load_layers(
    store: Store,
    component: str,
    metric: str = "l2",
    *,
    models: Sequence[str] | None = None,
    weights_only: bool = False,
) -> LayerMatrices:
    """Return one matrix for each canonical key of `component`, from exact and imported distances.

    Memory is 8·K·N² bytes: 76 MB for 686 keys of 118 models.

    Raises:
        UsageError: an unknown component, metric or model.
        NoAnswerError: no model holds the component.
    """
    (layers,) = _load_layers(store, component, (metric,), models, weights_only)
    return layers


def load_l2_and_l1_layers(
    store: Store, component: str, *, models: Sequence[str] | None = None
) -> tuple[LayerMatrices, LayerMatrices]:
    """Return the L2 and the L1 of each canonical key, found in one go; see `load_layers`."""
    l2, l1 = _load_layers(store, component, ("l2", "l1"), models, False)
    return l2, l1


def _load_layers(
    store: Store,
    component: str,
    metrics: Sequence[str],
    models: Sequence[str] | None,
    weights_only: bool,
) -> list[LayerMatrices]:
    """Return the layers of one metric, or of one and L1."""
    metric = metrics[0]
    _check_metric(metric)
    members = member_names(store, component)
    ids = holders(store, component, members, models)
    which: dict[str, Any] = {"components": members, "models": list(ids.values())}
    found = store.arrays("layer_keys", **which, weights_only=weights_only)
    keys = found["canonical_key"]
    tables = {"keys": {"canonical_key": keys, "place": np.arange(len(keys))}}
    n = len(ids)
    values = np.full((len(metrics), len(keys), n, n), np.nan)
    values[:, :, np.arange(n), np.arange(n)] = 1.0 if metric == "cossim" else 0.0
    place = np.zeros(max(ids.values()) + 1, dtype=np.intp)
    place[which["models"]] = np.arange(n)

    def fill(cells: Mapping[str, npt.NDArray[Any]], columns: Sequence[str]) -> None:
        i, j, k = place[cells["model_a"]], place[cells["model_b"]], cells["place"]
        for of_metric, column in zip(values, columns, strict=False):
            of_metric[k, i, j] = of_metric[k, j, i] = cells[column]

    if metric == "l2":
        fill(store.arrays("imported_cells", tables=tables, **which), ["value"])
    step = max(_CELLS_AT_ONCE // max(len(keys) * n, 1), 1)
    asked = {"metric": metric, "with_l1": "l1" in metrics[1:]}
    for start in range(0, n, step):
        firsts = which["models"][start : start + step]
        cells = store.arrays("layer_cells", tables=tables, firsts=firsts, **asked, **which)
        fill(cells, ["value", "l1"][: len(metrics)])
    layers = []
    for of_metric, name in zip(values, metrics, strict=True):
        # the others are keys of one model alone, or of models that were not compared
        known = np.triu(~np.isnan(of_metric), 1).any(axis=(1, 2))
        layers.append(
            LayerMatrices(
                models=tuple(ids),
                component=component,
                metric=name,
                keys=tuple(keys[known]),
                blocks=tuple(found["block"][known]),
                roles=tuple(found["role"][known]),
                numels=found["numel"][known].astype(np.int64),
                values=of_metric[known],
            )
        )
    return layers


def layers_beneath(
    store: Store, matrix: DistanceMatrix, *, weights_only: bool = False
) -> LayerMatrices | None:
    """Return the layers beneath a matrix, where any are known and `MOST_LAYERED_MODELS` allows."""
    if len(matrix.models) > MOST_LAYERED_MODELS:
        return None
    layers = load_layers(
        store, matrix.component, matrix.metric, models=matrix.models, weights_only=weights_only
    )
    return layers if layers.keys else None


def component_names(store: Store, model: str | None = None) -> list[str]:
    """Return the components of the store, or of one model; those that most models hold first."""
    if model is None:
        return [name for name, _ in store.rows("components")]
    return [name for (name,) in store.rows("components_of", id=store.require_model(model))]


def adapter_names(store: Store) -> list[str]:
    """Return the models that hold changes of weights instead of weights, in the order they came."""
    return [name for (name,) in store.rows("models_of_role", role=str(PartRole.ADAPTER))]


def main_component(store: Store) -> str:
    """Return the component meant where none is named: the denoiser, or "all" without one."""
    names = component_names(store)
    if not names:
        return DENOISERS[0]
    return next((name for name in DENOISERS if name in names), "all")


def member_names(store: Store, component: str) -> list[str]:
    """Return the stored components that a name stands for.

    "all" is every component but the training state and the EMA copy, which people do not run.
    """
    if component == "all":
        return [c for c in component_names(store) if c not in ("training_state", "ema")]
    return list(component_members(component))


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise UsageError(f"no such metric: {printable(metric)!r}", f"choose {', '.join(METRICS)}")


def require_component(store: Store, component: str, models: Sequence[str]) -> None:
    """Raise unless all of `models` hold a component.

    Raises:
        UsageError: an unknown model.
        NoAnswerError: one that does not hold it.
    """
    holders(store, component, member_names(store, component), models)


def holders(
    store: Store, component: str, members: Sequence[str], models: Sequence[str] | None
) -> dict[str, int]:
    """Return name → id of the models that hold a component, or of `models`, in their order."""
    found = {
        name: int(i) for i, name in store.rows("holders", tables={"batch": {"component": members}})
    }
    if not found:
        known = component_names(store)
        if not known and store.model_ids(None):
            raise NoAnswerError(
                "the store holds adapters alone, which have no weights to compare",
                "`megasim findings A B` compares the changes that two of them make",
            )
        raise NoAnswerError(
            f"no model in the store has a component {printable(component)!r}",
            f"there are: {', '.join(map(printable, ['all', *known]))}" if known else _EMPTY,
        )
    if models is None:
        return found
    asked = store.model_ids(models)
    without = [name for name in asked if name not in found]
    if without and (changes := [m for m in adapter_names(store) if m in without]):
        raise NoAnswerError(
            f"{', '.join(map(printable, changes))}: an adapter, which has no weights to compare",
            "leave it out, or ask `megasim adapter`",
        )
    if without:
        raise NoAnswerError(
            f"{', '.join(map(printable, without))} has no {component}",
            "leave it out, or choose another component with -c",
        )
    return asked
