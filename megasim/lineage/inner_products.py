"""Inner products of differences between models, from squared distances alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from megasim.errors import NoAnswerError, UsageError, printable
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.wording.sentences import number_or_none

Floats = npt.NDArray[np.float64]


def difference_product(squared: Floats, a: int, b: int, c: int, d: int) -> Floats:
    """Return ⟨b − a, d − c⟩ of models given by their rows.

    Args:
        squared: (…, N, N) squared distances; leading axes are layers or blocks.

    Returns:
        (…) float64, by the polarisation identity ½(D²(a,d) + D²(b,c) − D²(a,c) − D²(b,d)).

    >>> line = np.square(np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]))
    >>> float(difference_product(line, 0, 1, 0, 2))
    3.0
    """
    s = squared
    return np.asarray((s[..., a, d] + s[..., b, c] - s[..., a, c] - s[..., b, d]) / 2)


def step_cosine(squared: Floats, a: int, b: int, c: int) -> float:
    """Return the cosine between the steps a→b and b→c; 0 where one has no length."""
    return difference_cosine(squared, a, b, b, c)


def difference_cosine(squared: Floats, a: int, b: int, c: int, d: int) -> float:
    """Return the cosine between b − a and d − c; 0 where one has no length."""
    size = float(np.sqrt(squared[a, b] * squared[c, d]))
    return float(difference_product(squared, a, b, c, d)) / size if size > 0 else 0.0


def gram(squared: Floats, origin: int) -> Floats:
    """Return the (…, N, N) inner products ⟨i − origin, j − origin⟩.

    >>> line = np.square(np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]))
    >>> gram(line, 0)[1, 2].item()
    3.0
    """
    from_origin = squared[..., origin, :]
    return np.asarray((from_origin[..., :, None] + from_origin[..., None, :] - squared) / 2)


def effective_dimensions(matrix: DistanceMatrix) -> float:
    """Return how many numbers the estimated distances of a matrix rest on; inf when exact.

    A sketch of m numbers gives a distance within 1/√(2m), so m = ½ (value / error)²; the
    median over the estimated pairs.
    """
    estimated = (matrix.sources == "estimated") & (matrix.errors > 0) & (matrix.values > 0)
    if not estimated.any():
        return float("inf")
    return float(np.median(np.square(matrix.values[estimated] / matrix.errors[estimated])) / 2)


def source_of(matrix: DistanceMatrix) -> str:
    """Return "exact", "estimated" or "imported", the weakest of a matrix's values."""
    found = set(np.unique(matrix.sources).tolist()) - {""}
    for source in ("estimated", "imported", "exact"):
        if source in found:
            return source
    return ""


def without_mixed_estimates(matrix: DistanceMatrix) -> tuple[DistanceMatrix, tuple[str, ...]]:
    """Return a matrix without estimates beside measured distances, and a note if it had any.

    Estimates are distances between sketches, the others between weights: together they are not
    distances of points, and what follows from both is wrong by more than either. Where all are
    estimates they stay.
    """
    estimated = matrix.sources == "estimated"
    if not estimated.any() or estimated[matrix.sources != ""].all():
        return matrix, ()
    pairs = int(np.triu(estimated).sum())
    note = (
        f"{pairs} pair(s) that are only estimated were left aside, since others are measured: "
        "`megasim compare` measures all, --estimate takes all from the sketches; a model that was "
        "read as a sample is measured once `megasim ingest` has read it in full"
    )
    kept = replace(
        matrix,
        values=np.where(estimated, np.nan, matrix.values),
        sources=np.where(estimated, "", matrix.sources),
        errors=np.where(estimated, np.nan, matrix.errors),
    )
    return kept, (note,)


def sum_by_block(layers: LayerMatrices) -> tuple[tuple[str, ...], Floats]:
    """Return the names of the B blocks, in order of first key, and their (B, N, N) sums of D².

    Layers that no block is named for are summed as the block "".
    A pair that lacks a layer is NaN in that layer's block.
    """
    names = tuple(dict.fromkeys(layers.blocks))
    place = {name: i for i, name in enumerate(names)}
    squared = np.zeros((len(names), *layers.values.shape[1:]))
    for block, values in zip(layers.blocks, layers.values, strict=True):
        squared[place[block]] += np.square(values)
    return names, squared


@dataclass(frozen=True)
class BlockCosine:
    """The cosine of two changes inside one block."""

    block: str
    cosine: float
    error: float


@dataclass(frozen=True)
class ChangeSimilarity:
    """How far the change A→B is the change C→D.

    Attributes:
        models: A, B, C, D.
        cosine: of B − A and D − C over the component: 1 the same direction, 0 unrelated.
        error: standard error of the cosine when distances are estimated; 0 when exact.
        lengths: ‖B − A‖ and ‖D − C‖.
        spread: standard deviation of the cosine over layers, weighted by the product of the
            lengths; NaN without layers.
        blocks: the same cosine for each block where both changes are not zero.
    """

    models: tuple[str, str, str, str]
    component: str
    cosine: float
    error: float
    lengths: tuple[float, float]
    spread: float
    blocks: tuple[BlockCosine, ...]
    source: str

    def sentence(self) -> str:
        """Return the finding in words."""
        a, b, c, d = (printable(m, 60) for m in self.models)
        error = f" ± {self.error:.3f}" if self.error > 0 else ""
        return (
            f"{a} → {b} and {c} → {d} have a cosine of {self.cosine:.3f}{error} "
            f"over {self.component} (lengths {self.lengths[0]:.4g} and {self.lengths[1]:.4g})"
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data; NaN becomes None."""
        return {
            "models": list(self.models),
            "component": self.component,
            "cosine": self.cosine,
            "error": self.error,
            "lengths": list(self.lengths),
            "spread": number_or_none(self.spread),
            "blocks": [
                {"block": x.block, "cosine": x.cosine, "error": x.error} for x in self.blocks
            ],
            "source": self.source,
        }


def direction(
    matrix: DistanceMatrix,
    a: str,
    b: str,
    c: str,
    d: str,
    layers: LayerMatrices | None = None,
) -> ChangeSimilarity:
    """Return the cosine between the changes A→B and C→D, from L2 distances only.

    Is a fine-tune the same change applied to another base; is a LoRA baked in?

    Args:
        matrix: L2 distances with A, B, C and D among its models; A may be C.
        layers: the same models by layer, for the cosine of each block and the spread.

    Raises:
        UsageError: a model that is not in the matrix, or a metric other than L2.
        NoAnswerError: a pair without distance, or a change of length 0.

    >>> corners = np.sqrt([[0, 1, 1, 2], [1, 0, 2, 1], [1, 2, 0, 1], [2, 1, 1, 0]])
    >>> square = DistanceMatrix.from_values(["a", "b", "c", "d"], corners)
    >>> round(direction(square, "a", "b", "c", "d").cosine, 6)
    1.0
    """
    require_l2(matrix.metric)
    four = matrix.subset(list(dict.fromkeys((a, b, c, d))))
    if not four.complete:
        x, y = four.missing_pairs()[0]
        raise NoAnswerError(
            f"{printable(x)} and {printable(y)} have no distance over {matrix.component}",
            "run `megasim compare`, or use --estimate, which takes the sketches",
        )
    place = [four.models.index(name) for name in (a, b, c, d)]
    squared = four.squared()
    cosine, lengths = _cosine(squared, *place)
    for length, (start, end) in zip(lengths, ((a, b), (c, d)), strict=True):
        if not length > 0:
            raise NoAnswerError(
                f"{printable(start)} and {printable(end)} are the same over "
                f"{matrix.component}: their change has no direction",
                "choose two models that differ, or another component",
            )
    sketched = effective_dimensions(four)
    error = float((1 - cosine**2) / np.sqrt(sketched))
    spread = float("nan")
    blocks: list[BlockCosine] = []
    if layers is not None:
        at = [layers.models.index(name) for name in (a, b, c, d)]
        products = difference_product(np.square(layers.values), *at)
        sizes = layers.values[:, at[0], at[1]] * layers.values[:, at[2], at[3]]
        known = np.isfinite(products) & (sizes > 0)
        if known.any():
            each = products[known] / sizes[known]
            mean = np.average(each, weights=sizes[known])
            spread = float(np.sqrt(np.average(np.square(each - mean), weights=sizes[known])))
        names, by_block = sum_by_block(layers)
        for name, block in zip(names, by_block, strict=True):
            value, (first, second) = _cosine(block, *at)
            if first > 0 and second > 0 and np.isfinite(value):
                share = np.square(first / lengths[0]) * sketched
                blocks.append(
                    BlockCosine(name, value, float((1 - value**2) / np.sqrt(max(share, 1))))
                )
    return ChangeSimilarity(
        (a, b, c, d), matrix.component, cosine, error, lengths, spread, tuple(blocks),
        source_of(four),
    )  # fmt: skip


def require_l2(metric: str) -> None:
    """Raise UsageError unless the metric is L2, the only one inner products follow from."""
    if metric != "l2":
        raise UsageError(
            f"inner products follow from L2 distances only, not from {metric}",
            "leave out --metric, or use --metric l2",
        )


def _cosine(squared: Floats, a: int, b: int, c: int, d: int) -> tuple[float, tuple[float, float]]:
    lengths = float(np.sqrt(squared[a, b])), float(np.sqrt(squared[c, d]))
    size = lengths[0] * lengths[1]
    product = float(difference_product(squared, a, b, c, d))
    return (float(np.clip(product / size, -1, 1)) if size > 0 else float("nan")), lengths
