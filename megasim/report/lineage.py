"""The section of a report about descent: the family tree, recipes, and checked claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from megasim.anatomy.classification import component_title
from megasim.errors import printable
from megasim.findings.reference_model import known_by_layer
from megasim.lineage.claims import CheckedClaim
from megasim.lineage.from_store import changed_weights, lineage_and_claims
from megasim.lineage.recipe_result import Recipe, weighted_sum
from megasim.lineage.result import Lineage
from megasim.matrix.distance_matrix import DistanceMatrix
from megasim.plots.interactive_lineage import lineage_picture
from megasim.plots.lineage import lineage_figure
from megasim.report.parts import (
    Block,
    DataTable,
    Details,
    Section,
    answer_file,
    bullets,
    file_name,
    frame_file,
    note,
    picture,
    say,
    table,
)
from megasim.report.source import ReportSource
from megasim.store.matrices import MOST_LAYERED_MODELS
from megasim.wording.sentences import counted
from megasim.words import ClaimVerdict

_MOST_RECIPES = 20
_MOST_LED = 4  # of them, at the top
_NO_LAYERS = (
    "The layers of so many models are more than a report reads: this tree follows from the "
    "distances of the whole component. `megasim lineage` takes the layers too, and may draw some "
    "steps differently."
)


def lineage_section(source: ReportSource) -> Section:
    """Return who came from whom, over the first component that was compared."""
    title = "Lineage"
    for component in source.components:
        matrix = source.matrix(component)
        if not np.isnan(matrix.condensed()).all():
            blocks, lead = _lineage(source, component, matrix)
            return Section("lineage", title, tuple(blocks), lead)
    text = "No two models were compared, so nothing is known of their descent."
    return Section("lineage", title, (note(text),))


def _lineage(
    source: ReportSource, component: str, matrix: DistanceMatrix
) -> tuple[list[Block], tuple[str, ...]]:
    layers, l1 = source.layers_and_l1(component, matrix.models)
    changed = changed_weights(source.store, component, matrix.models)
    found, checked = lineage_and_claims(source.store, matrix, layers, l1, changed)
    blocks: list[Block] = []
    if not found.edges:
        names = counted(len(found.families), "model")
        return [note(f"None of {names} is related to another.")], ()
    name = file_name("lineage", component)
    distances = source.ask("report_distances", components=source.members(component))
    files = [
        frame_file(name, _edge_frame(found), "the edges with their evidence"),
        answer_file(file_name("distances", component), distances),
    ]
    recipes = [recipe.sentence() for recipe in found.recipes]
    if recipes:
        blocks.append(bullets(recipes[:_MOST_RECIPES]))
        if len(recipes) > _MOST_RECIPES:
            blocks.append(say(f"{len(recipes) - _MOST_RECIPES} more are in {name}.csv."))
    if checked:
        blocks.append(_claims_table(checked))
    kin = sum(len(family.models) > 1 for family in found.families)
    families = f"{kin} famil{'y' if kin == 1 else 'ies'}"
    undecided = sum(not edge.decided for edge in found.edges)
    title = printable(component_title(component))
    caption = (
        f"Descent of {counted(len(matrix.models), 'model')} by {title} distances: {families}, "
        f"{counted(len(found.edges), 'step')}, {undecided} of them without a decided direction. "
        "Each kind of step has its own colour and dashes; lengths are L2."
    )
    blocks.append(
        picture(
            lineage_figure(found),
            name,
            alt=f"Family tree of {counted(len(matrix.models), 'model')}",
            caption=caption,
            files=files,
            item=lineage_picture(found).item if source.interactive else "",
        )
    )
    if len(found.edges) <= _MOST_RECIPES * 3:
        steps = tuple(edge.sentence() for edge in found.edges)
        blocks.append(Details("Each step with its evidence", (("Steps", steps),)))
    by_layer = len(matrix.models) <= MOST_LAYERED_MODELS and known_by_layer(matrix).any()
    if layers is None and by_layer:
        blocks.append(note(_NO_LAYERS))
    blocks += [note(f"{text[0].upper()}{text[1:]}.") for text in found.notes if text]
    return blocks, _lead(found, checked)


def _claims_table(checked: Sequence[CheckedClaim]) -> DataTable:
    rows = [(c.claim.model, c.claim.sentence(), c.verdict, c.reason) for c in checked]
    frame = pd.DataFrame(rows, columns=["model", "claim", "verdict", "reason"])
    # contradictions first: they are what a reader must not miss
    order = frame["verdict"].map({"contradicted": 0, "confirmed": 1}).fillna(2)
    shown = frame.iloc[order.to_numpy().argsort(kind="stable")]
    return table(
        shown,
        [frame_file("claims", frame, "the table")],
        caption="What the metadata claims, checked against the weights.",
        columns=["claim", "verdict", "reason"],
    )


def _lead(found: Lineage, checked: Sequence[CheckedClaim]) -> tuple[str, ...]:
    """Return the merges that were recovered, and the claims that the weights contradict."""
    said = []
    merges = [recipe for recipe in found.recipes if recipe.claimed]
    if merges:
        of = "One merge was" if len(merges) == 1 else f"{len(merges)} merges were"
        shown = "; ".join(_recipe(recipe) for recipe in merges[:_MOST_LED])
        more = f"; and {len(merges) - _MOST_LED} more" if len(merges) > _MOST_LED else ""
        said.append(f"{of} recovered from the weights: {shown}{more}.")
    wrong = [claim for claim in checked if claim.verdict == ClaimVerdict.CONTRADICTED]
    if wrong:
        several = f"{len(wrong)} claims" if len(wrong) > 1 else "a claim"
        first = f"{wrong[0].claim.sentence()}: {wrong[0].reason}".rstrip(".")
        among = ", e.g." if len(wrong) > 1 else ":"
        said.append(f"The weights contradict {several} of the metadata{among} {first}.")
    return tuple(said)


def _recipe(recipe: Recipe) -> str:
    terms = weighted_sum([(p.model, p.weight) for p in recipe.parents])
    return f"{printable(recipe.model, 60)} = {terms}"


def _edge_frame(found: Lineage) -> pd.DataFrame:
    rows = [
        (
            *(edge.parent, edge.child, edge.kind, edge.length, edge.weight, edge.confidence),
            *(edge.decided, edge.edge_confidence, "; ".join(r.sentence() for r in edge.rivals)),
            "; ".join(f"{e.name}: {e.text}" for e in edge.evidence),
        )
        for edge in found.edges
    ]
    columns = ["parent", "child", "kind", "length", "weight", "confidence", "decided"]
    columns += ["edge_confidence", "rivals", "evidence"]
    return pd.DataFrame(rows, columns=columns)
