"""Merges by formulas of single elements, made as sd-mecha makes them, are named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from megasim.compare.elements import KeyElements
from megasim.lineage.element_formulas import FormulaFit, formula_fit
from megasim.words import MergeMethod

N = 20_000
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
Made = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def train_difference(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    mask = alpha * 1.8 * torch.nan_to_num((b - a).abs() / ((b - a).abs() + (b - c).abs()), nan=0)
    return a.addcmul(b - c, mask)


def add_opposite(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    away = (a - b).abs()
    return a.addcmul(
        b - c, alpha * 2 * torch.nan_to_num(away / (away + (a + b - 2 * c).abs()), nan=0)
    )


def strict_opposite(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    most = torch.maximum(torch.abs(a - c), torch.abs(b - c))
    mask = alpha * torch.clamp(torch.nan_to_num((c - a) * (b - c) / most**2, nan=0), 0) * 2
    return a.addcmul(b - c, mask)


def clamped(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    added = a.addcmul(b - c, torch.tensor(alpha))
    return torch.minimum(torch.maximum(added, torch.minimum(a, b)), torch.maximum(a, b))


def quotient(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    of_a, of_b = torch.log(a.abs()) - torch.log(c.abs()), torch.log(b.abs()) - torch.log(c.abs())
    most = torch.maximum(of_a.abs(), of_b.abs())
    power = alpha * torch.clamp(-torch.nan_to_num(of_a * of_b / most**2, nan=0), 0)
    made = (
        a * (torch.complex(b, torch.zeros_like(b)) / torch.complex(c, torch.zeros_like(c))) ** power
    )
    return torch.where(torch.isnan(made), a, made).real


def geometric(a: Tensor, b: Tensor, c: Tensor, alpha: float) -> Tensor:
    a, b = (torch.complex(x, torch.zeros_like(x)) for x in (a, b))
    return (a ** (1 - alpha) * b**alpha).real


METHODS: dict[MergeMethod, Made] = {
    MergeMethod.TRAIN_DIFFERENCE: train_difference,
    MergeMethod.ADD_OPPOSITE: add_opposite,
    MergeMethod.ADD_STRICT_OPPOSITE: strict_opposite,
    MergeMethod.CLAMPED_DIFFERENCE: clamped,
    MergeMethod.MULTIPLY_QUOTIENT: quotient,
    MergeMethod.GEOMETRIC_SUM: geometric,
}


def parents(dtype: str) -> list[Tensor]:
    """Return a base and four models from it, in float32, as a dtype keeps them."""
    random = torch.Generator().manual_seed(3)
    base = torch.randn(N, generator=random) * 0.05
    moved = [base + 0.02 * torch.randn(N, generator=random) for _ in range(4)]
    return [x.to(DTYPES[dtype]).float() for x in (base, *moved)]


def told(made: Tensor, models: list[Tensor], dtype: str) -> FormulaFit | None:
    values = torch.stack([made.to(DTYPES[dtype]).float(), *models]).double().numpy()
    halves = np.split(values, 2, axis=1)
    names = (dtype,) * len(values)
    sample = [KeyElements(str(i), "", "", N // 2, names, half) for i, half in enumerate(halves)]
    return formula_fit(sample, [1, 2])


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_a_formula_is_named_with_its_models(method: MergeMethod, dtype: str, alpha: float) -> None:
    if method == MergeMethod.GEOMETRIC_SUM and alpha == 1:
        pytest.skip("that is B")
    models = parents(dtype)
    base, first, second = models[0], models[3], models[1]
    found = told(METHODS[method](first, second, base, alpha), models, dtype)
    assert found is not None and found.method == method
    ways = [(4, 2, 1)]
    if method == MergeMethod.GEOMETRIC_SUM:
        ways = [(4, 2), (2, 4)]
    elif method == MergeMethod.CLAMPED_DIFFERENCE and alpha == 1:
        ways = [(4, 2, 1), (2, 4, 1)]
    assert found.models in ways
    meant = 1 - alpha if found.models == (2, 4) else alpha
    assert found.alpha == pytest.approx(meant, abs=0.01)
    assert found.explained > 0.98 and found.unexplained < 0.01


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_other_models_follow_no_formula(dtype: str) -> None:
    models = parents(dtype)
    random = torch.Generator().manual_seed(9)
    base, a, b = models[:3]
    trained = train_difference(a, b, base, 1.0) + 0.005 * torch.randn(N, generator=random)
    others = [
        a + 0.02 * torch.randn(N, generator=random),
        torch.where(torch.rand(N, generator=random) < 0.5, a, b),
        torch.lerp(a, b, 0.3) + 0.01 * torch.randn(N, generator=random),
        trained,
    ]
    assert [told(other, models, dtype) for other in others] == [None] * len(others)


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_models_on_a_line_follow_weights_and_no_formula(dtype: str) -> None:
    base, a, b, *_ = parents(dtype)
    kept = DTYPES[dtype]
    line = [torch.lerp(a, b, share).to(kept).float() for share in (0.3, 0.303, 0.6)]
    assert told(b, [base, a, *line], dtype) is None


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_an_edited_copy_follows_no_formula(dtype: str) -> None:
    base, a, b, *_ = parents(dtype)
    random = torch.Generator().manual_seed(11)
    step = 0.005 * torch.randn(N, generator=random)
    some = torch.rand(N, generator=random) < 0.03
    one_part = torch.arange(N) < N // 40
    copies = [b, torch.where(some, b + step, b), torch.where(one_part, b + step, b)]
    near_a = torch.where(one_part, base, a)  # B − C is B − A in nearly all elements
    for models in ([base, a, b], [near_a, a, b], [a, near_a, b]):
        assert [told(copy, models, dtype) for copy in copies] == [None] * len(copies)
