"""What is simulated is what a comparison would have left."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from megasim.compare.pairs import sum_up_pairs
from megasim.store.rows import Store
from megasim.zoo.architectures import sd1_shapes
from tests.simulated_store import model_names, simulate_store

SHAPES = {key: shape for key, shape in sd1_shapes(1 / 16).items() if ".1." in key or "conv" in key}


def known(path: Path) -> pd.DataFrame:
    with Store(path, "read") as store:
        return store.connection.sql(
            "from component_distance order by model_a, model_b, component"
        ).df()


@pytest.mark.parametrize("shared", [{}, {"unet": 1, "text_encoder": 2, "vae_decoder": 3}])
def test_components_are_the_sums_of_the_layers(tmp_path: Path, shared: dict[str, int]) -> None:
    path = tmp_path / "s.duckdb"
    simulate_store(path, model_names(7), SHAPES, shared=shared, sketch_size=16)
    simulated = known(path)
    with Store(path, "write") as store:
        pairs = [(a, b) for a, b, *_ in store.rows("pairs")]
        sum_up_pairs(store, pairs)
    summed = known(path)
    assert len(pairs) == 21 and len(summed) == 21 * summed["component"].nunique()
    numbers = ["l1", "l2"]
    pd.testing.assert_frame_equal(simulated.drop(columns=numbers), summed.drop(columns=numbers))
    np.testing.assert_allclose(simulated[numbers], summed[numbers], rtol=1e-12)
