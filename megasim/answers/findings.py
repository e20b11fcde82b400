"""What is the same and what changed between models, as tables and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from megasim.findings.component_groups import main_components
from megasim.findings.reference_model import central_model
from megasim.findings.tier_overview import TierOverview, known_pairs, tier_overview
from megasim.findings.verdicts import FindingsReader
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.store.matrices import component_names, load_matrix
from megasim.store.rows import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from megasim.plots.style import Style

_TIER_COLUMNS = (
    *("model_a", "model_b", "component", "verdict"),
    *("keys_compared", "keys_changed", "l2"),
)


def tier_table(
    store: Store, against: str | None = None, *, models: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return a row for each pair and component.

    Columns: model_a, model_b, component, verdict, keys_compared, keys_changed, l2.

    Args:
        against: only the pairs of this model. See `tier_overview`.
    """
    findings = _overview(store, against, models).findings
    rows = [[getattr(finding, name) for name in _TIER_COLUMNS] for finding in findings]
    return pd.DataFrame(rows, columns=list(_TIER_COLUMNS))


def tier_heatmap(
    store: Store,
    against: str | None = None,
    *,
    models: Sequence[str] | None = None,
    style: Style | None = None,
) -> Figure:
    """Return pairs × components, coloured by the tier of identity. See `tier_figure`."""
    from megasim.plots.overview import tier_figure

    overview = _overview(store, against, models)
    return tier_figure(overview.findings, overview.title, style)


def _overview(store: Store, against: str | None, models: Sequence[str] | None) -> TierOverview:
    names = set(store.model_ids(models))

    def matrix(component: str) -> DistanceMatrix:
        whole = load_matrix(store, component)
        return whole.subset([name for name in whole.models if name in names])

    pairs = known_pairs(store, sorted(names))
    components = main_components(component_names(store))
    return tier_overview(
        FindingsReader(store),
        pairs,
        lambda: central_model(store, components, pairs, matrix),
        against,
    )
