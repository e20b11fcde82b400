"""Lineage: families, kinds, directions, claims and drawings, on simulated histories."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import FancyArrowPatch
from scipy.spatial.distance import pdist, squareform

from megasim.errors import UsageError
from megasim.lineage.claims import Claim, check_claims, claims_of_metadata, read_claims
from megasim.lineage.evidence import ModelFacts, PairFacts
from megasim.lineage.family_tree import build_lineage
from megasim.lineage.inner_products import Floats, without_mixed_estimates
from megasim.lineage.layout import lay_out
from megasim.lineage.result import Lineage
from megasim.lineage.step_costs import block_weights, family_steps
from megasim.matrix.distance_matrix import DistanceMatrix, LayerMatrices
from megasim.plots.lineage import lineage_figure
from megasim.plots.lineage_files import lineage_dot, lineage_html, save_lineage
from megasim.workspace import open_store

SIZE = 20000


def matrix_of(weights: dict[str, Floats]) -> tuple[DistanceMatrix, list[ModelFacts]]:
    values = squareform(pdist(np.stack(list(weights.values()))))
    facts = [ModelFacts(n, norms={"unet": float(np.linalg.norm(w))}) for n, w in weights.items()]
    return DistanceMatrix.from_values(list(weights), values), facts


def layers_of(names: tuple[str, ...], weights: dict[str, Floats]) -> LayerMatrices:
    """Return L2 by layer, each a block of its own."""
    return LayerMatrices(
        models=names,
        component="unet",
        metric="l2",
        keys=tuple(weights),
        blocks=tuple(weights),
        roles=("",) * len(weights),
        numels=np.array([w.shape[1] for w in weights.values()], dtype=np.int64),
        values=np.stack([squareform(pdist(w)) for w in weights.values()]),
    )


def history() -> dict[str, Floats]:
    """Return two families: a base with fine-tunes, a merge, and a fine-tune of the merge."""
    rng = np.random.default_rng(2)

    def step(size: float) -> Floats:
        return rng.normal(0, size, SIZE)

    w = {"base": step(1), "other": step(1)}
    for name in ("a", "b", "c"):
        w[name] = w["base"] + step(0.05)
    w["a1"] = w["a"] + step(0.03)
    w["a2"] = w["a1"] + step(0.03)
    w["mix"] = 0.4 * w["a"] + 0.6 * w["b"]
    w["mix1"] = w["mix"] + step(0.02)
    w["mixed_again"] = 0.5 * w["mix1"] + 0.5 * w["c"]
    w["other1"] = w["other"] + step(0.04)
    return w


TRUTH = {
    ("base", "a"), ("base", "b"), ("base", "c"), ("a", "a1"), ("a1", "a2"), ("a", "mix"),
    ("b", "mix"), ("mix", "mix1"), ("mix1", "mixed_again"), ("c", "mixed_again"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lineage() -> Lineage:
    matrix, facts = matrix_of(history())
    return build_lineage(matrix, facts=facts)


def test_families_and_edges_are_found(lineage: Lineage) -> None:
    assert [set(f.models) for f in lineage.families][1] == {"other", "other1"}
    drawn = {(e.parent, e.child) for e in lineage.edges if e.child not in ("other", "other1")}
    assert drawn == TRUTH
    assert lineage.families[0].root == "base"
    kinds = {e.child: e.kind for e in lineage.edges}
    assert kinds["mix"] == kinds["mixed_again"] == "merge"
    assert kinds["mix1"] == kinds["a"] == "fine-tune"
    weights = {(e.parent, e.child): e.weight for e in lineage.edges if e.kind == "merge"}
    assert weights["b", "mix"] == pytest.approx(0.6, abs=1e-6)


def test_every_piece_of_evidence_is_named(lineage: Lineage) -> None:
    for edge in lineage.edges:
        assert edge.evidence
        assert all(e.name and e.text for e in edge.evidence)
        assert 0 <= edge.confidence <= 1


def test_a_pair_without_other_evidence_is_undecided() -> None:
    matrix = DistanceMatrix.from_values(["x", "y"], [[0, 3], [3, 0]])
    (edge,) = build_lineage(matrix).edges
    assert not edge.decided
    assert edge.confidence == pytest.approx(0.5)
    assert "—" in edge.sentence()


def test_step_counts_decide_and_name_an_epoch() -> None:
    matrix = DistanceMatrix.from_values(["x", "y", "z"], [[0, 3, 4], [3, 0, 5], [4, 5, 0]])
    unit, norms = ("epoch count", "epoch"), {"unet": 50.0}
    counts = {"x": 9, "y": 4, "z": 20}
    facts = [ModelFacts(n, counts={unit: c}, norms=norms) for n, c in counts.items()]
    first, second = build_lineage(matrix, facts=facts).edges
    assert (first.parent, first.child, first.kind, first.decided) == ("x", "z", "epoch step", True)
    assert (second.parent, second.child, second.kind) == ("y", "x", "epoch step")
    assert [e.evidence[0].text for e in (first, second)] == ["epoch 9 → 20", "epoch 4 → 9"]


@pytest.mark.parametrize("names", [("a-base", "b-child"), ("b-base", "a-child")])
def test_evidence_is_worded_in_the_direction_of_the_step(names: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(0, 1, SIZE)
    weights = dict(zip(names, (base, base + rng.normal(0, 0.2, SIZE)), strict=True))
    matrix, facts = matrix_of(dict(sorted(weights.items())))
    (edge,) = build_lineage(matrix, facts=sorted(facts, key=lambda f: f.name)).edges
    assert (edge.parent, edge.child) == names
    growth = next(e for e in edge.evidence if e.name == "norm growth")
    assert growth.log_odds > 0
    assert growth.text.startswith("squared norm changes by +")


def test_epochs_of_one_run_are_a_chain() -> None:
    rng = np.random.default_rng(4)
    base, course = rng.normal(0, 1, SIZE), rng.normal(0, 1, SIZE)
    w = {"base": base, "sibling": base + rng.normal(0, 0.05, SIZE)}
    now = base
    for i, size in enumerate((0.08, 0.05, 0.03, 0.02)):
        now = now + size * (0.7 * course + 0.7 * rng.normal(0, 1, SIZE))
        w[f"e{i}"] = now
    matrix, facts = matrix_of(w)
    found = build_lineage(matrix, facts=facts)
    edges = {(e.parent, e.child): e for e in found.edges}
    assert {("base", "e0"), ("e0", "e1"), ("e1", "e2"), ("e2", "e3")} <= set(edges)
    assert edges["e1", "e2"].kind == edges["e2", "e3"].kind == "epoch step"
    assert sum(e.decided for e in edges.values()) >= 3


def test_published_epochs_are_a_chain(shared: Path) -> None:
    data = json.loads((shared / "published" / "v2" / "aobp.json").read_text())
    matrix = DistanceMatrix.from_values(data["ml"], data["dm"]["unet"], source="imported")
    found = build_lineage(matrix)
    truth = [m for m in sorted(data["ml"]) if m.startswith("ABP")]
    drawn = {frozenset((e.parent, e.child)) for e in found.edges}
    chain = ["animefull-final-pruned.ckpt", *truth]
    assert drawn == {frozenset(p) for p in pairwise(chain)}
    decided = [(e.parent, e.child) for e in found.edges if e.decided]
    assert len(decided) >= 5
    assert all(chain.index(a) < chain.index(b) for a, b in decided)


@pytest.mark.parametrize(("file", "family"), [("aobp", 10), ("sdxl0", 11)])
def test_published_results_in_a_store_have_families(
    shared: Path, tmp_path: Path, file: str, family: int
) -> None:
    # How many keys a published distance covers is not known: that is not few.
    with open_store(tmp_path / "store.duckdb") as store:
        store.import_path(shared / "published" / "v2" / f"{file}.json")
        matrix = store.matrix("unet")
        found = store.lineage("unet")
    off = ~np.eye(family, dtype=bool)
    assert np.isnan(matrix.coverage[off]).all()
    assert [len(f.models) for f in found.families] == [family]
    assert found.unrelated == found.uncompared == ()
    assert not any("share less" in note for note in found.notes)
    drawn = {frozenset((e.parent, e.child)) for e in found.edges}
    if file == "aobp":
        epochs = sorted(m for m in matrix.models if m.startswith("ABP"))
        assert len(epochs) == 9
        assert drawn == {frozenset(p) for p in pairwise(["animefull-final-pruned", *epochs])}
    else:
        degree = {m: sum(m in pair for pair in drawn) for m in matrix.models}
        assert max(degree, key=lambda m: degree[m]) == "_x25-sd_xl_base_1.0"
        assert sum(e.parent == "_x25-sd_xl_base_1.0" for e in found.edges) >= 5


def test_models_that_were_never_compared_are_not_told_to_be_unrelated(lineage: Lineage) -> None:
    values = np.array([[0, 1, np.nan], [1, 0, np.nan], [np.nan, np.nan, 0.0]])
    found = build_lineage(DistanceMatrix.from_values(["a", "b", "new"], values))
    assert found.uncompared == ("new",)
    assert found.unrelated == ()
    headings = [text for text, _ in lay_out(found).headings]
    assert headings == ["family 1: 2 models", "compared with no other: 1"]
    assert lineage.uncompared == ()


def test_published_add_difference_is_found(shared: Path) -> None:
    # Its author describes ACertainThing as ACertainModel with what Anything added.
    data = json.loads((shared / "published" / "v2" / "main.json").read_text())
    matrix = DistanceMatrix.from_values(data["ml"], data["dm"]["unet"], source="imported")
    (recipe,) = build_lineage(matrix).recipes
    assert recipe.model == "ACertainThing.ckpt"
    assert recipe.verdict == "add-difference"
    weights = {p.model: p.weight for p in recipe.parents}
    assert weights["Anything-V3.0-pruned-fp32.ckpt"] == pytest.approx(1, abs=0.02)
    assert weights["animefull-final-pruned.ckpt"] == pytest.approx(-1, abs=0.02)
    assert recipe.unexplained < 0.01


def test_casts_prunings_and_swaps_hang_on_the_fullest_model() -> None:
    w = history()
    for twin in ("base-fp16", "base-pruned", "base-swapped"):
        w[twin] = w["base"]
    matrix, facts = matrix_of(w)
    keys = {"base": 1000, "base-pruned": 700}
    facts = [
        ModelFacts(
            f.name, keys=keys.get(f.name, 1000), norms=f.norms,
            dtype="float16" if f.name == "base-fp16" else "float32",
        )
        for f in facts
    ]  # fmt: skip
    same = {"unet": {"identical": 600}}
    pairs = [
        PairFacts("base-pruned", "base", same | {"ema": {"missing_a": 300}}),
        PairFacts("base", "base-swapped", same | {"vae": {"changed": 200}}),
        PairFacts("base", "base-fp16", {"unet": {"same_at_fp16": 600}}),
    ]
    found = build_lineage(matrix, facts=facts, pairs=pairs)
    edges = {e.child: e for e in found.edges}
    for child, kind, decided in (
        ("base-pruned", "pruned", True),
        ("base-fp16", "cast", True),
        ("base-swapped", "component swap", False),
    ):
        edge = edges[child]
        assert (edge.parent, edge.kind, edge.decided) == ("base", kind, decided)


def test_unrelated_models_stand_alone_and_gaps_are_told() -> None:
    rng = np.random.default_rng(0)
    w = {f"m{i}": rng.normal(0, 1, SIZE) for i in range(4)}
    matrix, facts = matrix_of(w)
    found = build_lineage(matrix, facts=facts)
    assert [len(f.models) for f in found.families] == [1, 1, 1, 1]
    assert found.edges == ()
    gap = np.array([[0, 1, np.nan], [1, 0, 1], [np.nan, 1, 0.0]])
    gapped = build_lineage(DistanceMatrix.from_values("abc", gap))
    assert len(gapped.families) == 1
    assert any("lack distances" in note for note in gapped.notes)
    with pytest.raises(UsageError, match="L2"):
        build_lineage(DistanceMatrix.from_values("ab", [[0, 1], [1, 0]], metric="l1"))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25))
def test_any_orthogonal_tree_is_found_and_models_in_any_order_give_it(
    seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    parents = [0] + [int(rng.integers(0, i)) for i in range(1, count)]
    steps = np.diag(rng.uniform(0.5, 2, count))
    points = np.zeros((count, count))
    for i in range(1, count):
        points[i] = points[parents[i]] + steps[i]
    order = rng.permutation(count)
    values = squareform(pdist(points[order]))
    found = build_lineage(DistanceMatrix.from_values([f"m{i:02d}" for i in order], values))
    drawn = {frozenset((e.parent, e.child)) for e in found.edges}
    assert drawn == {frozenset((f"m{i:02d}", f"m{parents[i]:02d}")) for i in range(1, count)}
    assert nx.is_directed_acyclic_graph(found.to_graph())


def test_claims_are_held_against_the_weights(lineage: Lineage) -> None:
    matrix, _ = matrix_of(history())
    claims = [
        Claim("mix", ("a", "b"), (0.4, 0.6), "file"),
        Claim("mix", ("a", "b"), (0.6, 0.4), "file"),
        Claim("mix", ("a", "b"), (), "file"),
        Claim("c", ("a", "b"), (0.5, 0.5), "file"),
        Claim("mix", ("a", "gone"), (0.4, 0.6), "file"),
        Claim("a2", ("models/BASE.safetensors",), (), "file"),
        Claim("a", ("other",), (), "file"),
        Claim("base", ("a1",), (), "file"),
    ]
    checked = check_claims(claims, matrix, lineage=lineage)
    assert [c.verdict for c in checked] == [
        "confirmed", "contradicted", "confirmed", "contradicted", "not decidable", "confirmed",
        "contradicted", "contradicted",
    ]  # fmt: skip
    assert "claimed 0.6" in checked[1].reason
    assert json.dumps([c.to_json() for c in checked], allow_nan=False)


def test_claims_are_read_from_metadata_and_files(tmp_path: Path) -> None:
    recipe = {
        "type": "webui", "primary_model_hash": "h1", "secondary_model_hash": "h2",
        "tertiary_model_hash": "h3", "interp_method": "Add difference", "multiplier": 0.5,
    }  # fmt: skip
    models = {f"h{i}": {"name": f"m{i}.safetensors"} for i in (1, 2, 3)}
    weighted = recipe | {"interp_method": "Weighted sum", "multiplier": 0.3}
    facts = [
        ModelFacts("x", metadata={
            "sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(models),
        }),
        ModelFacts("y", metadata={"sd_merge_recipe": json.dumps(weighted)}),
        ModelFacts("z", metadata={
            "modelspec.merged_from": "a, b", "ss_sd_model_name": "base.ckpt",
        }),
        ModelFacts("rubbish", metadata={"sd_merge_recipe": "{" * 9000, "ss_sd_model_name": 3}),
    ]  # fmt: skip
    found = claims_of_metadata(facts)
    assert [(c.model, c.parents, c.weights) for c in found] == [
        ("x", ("m1.safetensors", "m2.safetensors", "m3.safetensors"), (1.0, 0.5, -0.5)),
        ("y", ("h1", "h2"), (0.7, 0.3)),
        ("z", ("a", "b"), ()),
        ("z", ("base.ckpt",), ()),
    ]
    table = tmp_path / "claims.csv"
    table.write_text("model,parents,weights\nm,a;b,0.3;0.7\nn,a,\n")
    listed = tmp_path / "claims.json"
    listed.write_text(
        '[{"model": "m", "parents": {"a": 0.3, "b": 0.7}}, {"model": "n", "parents": ["a"]}]'
    )
    for path in (table, listed):
        read = read_claims(path)
        assert [(c.model, c.parents, c.weights) for c in read] == [
            ("m", ("a", "b"), (0.3, 0.7)), ("n", ("a",), ()),
        ]  # fmt: skip
    for bad in ("{", "[1]", '[{"model": "m"}]', '[{"model": "m", "parents": [], "weights": []}]',
                '[{"model": "m", "parents": ["a", "b"], "weights": [1]}]'):  # fmt: skip
        listed.write_text(bad)
        with pytest.raises(UsageError, match="not a file of claims"):
            read_claims(listed)


def test_every_form_is_written_and_the_same_again(lineage: Lineage, tmp_path: Path) -> None:
    for ending in ("html", "png", "svg", "dot", "graphml", "json"):
        first, second = tmp_path / f"1.{ending}", tmp_path / f"2.{ending}"
        save_lineage(lineage, first)
        save_lineage(lineage, second)
        assert first.read_bytes() == second.read_bytes()
    graph = nx.read_graphml(tmp_path / "1.graphml")
    assert set(graph.edges) == {(e.parent, e.child) for e in lineage.edges}
    data = json.loads((tmp_path / "1.json").read_text())
    assert data["edges"][0].keys() >= {"parent", "child", "kind", "length", "evidence", "decided"}
    ElementTree.parse(tmp_path / "1.svg")
    page = (tmp_path / "1.html").read_text()
    assert "<svg" in page
    without_namespaces = re.sub(r'(xmlns(:\w+)?|rdf:resource)="[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#)|@import|url\((?!#)|<script', without_namespaces)
    with pytest.raises(UsageError, match=r"\.html"):
        save_lineage(lineage, tmp_path / "x.bmp")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    names = [
        '<script>alert("x")</script>', 'a"; b -> c [label="\\', "\x1b[31mred$^{x", "\\",
        "nul\0 and \x07 and \ud800", "]]><x y='&amp;'",
    ]  # fmt: skip
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, SIZE)
    matrix, facts = matrix_of({n: base + rng.normal(0, 0.1, SIZE) for n in names})
    found = build_lineage(matrix, facts=facts)
    page = lineage_html(found)
    assert "<script" not in page
    assert "\x1b" not in page
    dot = lineage_dot(found)
    assert "\x1b" not in dot
    for line in dot.splitlines():
        quotes = re.sub(r"\\\\|\\\"", "", line).count('"')
        assert quotes % 2 == 0
    for ending in ("graphml", "json", "html", "svg", "dot"):
        path = tmp_path / f"lineage.{ending}"
        save_lineage(found, path)
        text = path.read_text(encoding="utf-8")
        assert not set(text) & {"\x1b", "\0", "\x07"}
    graph = nx.read_graphml(tmp_path / "lineage.graphml")
    assert len(graph) == len(names)
    assert graph.number_of_edges() == len(found.edges)
    ElementTree.parse(tmp_path / "lineage.svg")


def test_a_long_run_is_laid_out_without_recursion() -> None:
    points = np.cumsum(np.eye(200), axis=0)
    names = [f"e{i:04d}" for i in range(200)]
    unit = ("step count", "global step")
    norms = {"unet": 100.0}
    facts = [ModelFacts(n, counts={unit: i}, norms=norms) for i, n in enumerate(names)]
    matrix = DistanceMatrix.from_values(names, squareform(pdist(points)))
    found = build_lineage(matrix, facts=facts)
    layout = lay_out(found)
    assert [layout.places[n][0] for n in names] == list(range(200))
    assert all(e.decided for e in found.edges)


def test_many_models_are_drawn_in_a_page_s_width(lineage: Lineage) -> None:
    names = [f"a model of a longer name {i}" for i in range(60)]
    points = np.cumsum(np.random.default_rng(3).normal(size=(60, 200)), axis=0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    long = build_lineage(DistanceMatrix.from_values(names, distances, component="unet"))
    width, height = lineage_figure(long).get_size_inches()
    assert width < 10
    assert height > 0.2 * 60
    rows = [row for _, row in lay_out(long, outline=True).places.values()]
    assert len(set(rows)) == len(rows)
    page = lineage_html(lineage)
    assert "#ffffff" not in page[page.index("<svg") :]
    assert "var(--figure-ink)" in page[page.index("<svg") :]


def test_a_block_in_which_trainings_go_the_same_way_counts_little() -> None:
    # Four fine-tunes of a base: in the block "shared" all go one way, in "own" each its own.
    rng = np.random.default_rng(4)
    way = rng.normal(size=400)
    names = ("base", "a", "b", "c", "d")
    weights = {
        block: np.stack([np.zeros(400), *(bias * way + rng.normal(size=(4, 400)))])
        for block, bias in (("own", 0.0), ("shared", 1.5))
    }
    layers = layers_of(names, weights)
    steps = family_steps(np.square(layers.total()), layers)
    star = [(0, i) for i in range(1, 5)]
    errors = steps.errors(star, ())
    assert steps.blocks == ("own", "shared")
    assert errors.shape == (6, 2)
    assert errors[:, 1].min() > errors[:, 0].max()
    told = block_weights([(steps, errors)])
    assert told["own"] > 0.9
    assert block_weights([(steps, errors[:0])]) == pytest.approx({"own": 0.5, "shared": 0.5})
    # A block that the trainings left as it was tells nothing of them.
    still = replace(steps, squared=steps.squared * np.array([0.0, 1.0])[:, None, None])
    assert (still.errors(star, ())[:, 0] == 1).all()

    lineage = build_lineage(DistanceMatrix.from_values(names, layers.total()), layers=layers)
    assert {frozenset((e.parent, e.child)) for e in lineage.edges} == {
        frozenset(("base", name)) for name in names[1:]
    }


def test_elements_count_as_untouched_between_models_that_were_not_rounded() -> None:
    # b was trained from a, and left alone what that had left alone; the lengths say nothing. Two
    # that were rounded are alike by that, and were made from the base.
    names = ("base", "a", "b", "half", "other half")
    squared = np.full((5, 5), 2.0) - 2 * np.eye(5)
    alike = np.array(
        [
            [9, 6, 3, 2, 2],
            [6, 9, 6, 1, 1],
            [3, 6, 9, 0, 0],
            [2, 1, 0, 9, 8],
            [2, 1, 0, 8, 9],
        ]
    )

    def drawn(dtypes: Sequence[str]) -> set[frozenset[str]]:
        lineage = build_lineage(
            DistanceMatrix.from_values(names, np.sqrt(squared)),
            layers=replace(
                layers_of(names, {"block": np.zeros((5, 10))}), values=np.sqrt(squared)[None]
            ),
            changed=DistanceMatrix.from_values(
                names, np.where(np.eye(5), 0, 10 - alike), metric="l0"
            ),
            facts=[ModelFacts(n, dtype=d) for n, d in zip(names, dtypes, strict=True)],
        )
        return {frozenset((e.parent, e.child)) for e in lineage.edges}

    trained = {frozenset(("base", "a")), frozenset(("a", "b"))}
    halves = {frozenset(("base", "half")), frozenset(("base", "other half"))}
    assert drawn(["float32"] * 3 + ["float16"] * 2) == trained | halves
    # where all were rounded, no pair is alike by that more than another
    assert drawn(["float16"] * 5) == trained | {
        frozenset(("half", "other half")),
        frozenset(("base", "half")),
    }


def test_in_an_outline_no_edge_crosses_a_label() -> None:
    rng = np.random.default_rng(5)
    weights = {"the base of all": rng.normal(size=3000)}
    for i in range(20):
        weights[f"fine-tune {i:02d}"] = weights["the base of all"] + rng.normal(0, 0.05, 3000)
    for i in range(12):
        a, b = rng.choice(20, size=2, replace=False)
        weights[f"merge {i}"] = (
            0.4 * weights[f"fine-tune {a:02d}"] + 0.6 * weights[f"fine-tune {b:02d}"]
        )
    matrix, facts = matrix_of(weights)
    figure = lineage_figure(build_lineage(matrix, facts=facts))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    labels = [text.get_window_extent() for text in axes.texts]
    arrows = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == 20 + 2 * 12
    for arrow in arrows:
        path = arrow.get_transform().transform_path(arrow.get_path())
        head = [i for i, code in enumerate(path.codes) if code == path.MOVETO][1:2]
        end = head[0] if head else len(path.codes)
        line = type(path)(path.vertices[:end], path.codes[:end])
        assert not any(line.intersects_bbox(label, filled=False) for label in labels)


def test_models_that_share_few_keys_are_not_told_to_be_kin() -> None:
    rng = np.random.default_rng(6)
    weights = {n: rng.normal(size=500) for n in ("base", "stranger")}
    weights["child"] = weights["base"] + rng.normal(0, 0.1, 500)
    matrix, facts = matrix_of(weights)
    place = {n: i for i, n in enumerate(matrix.models)}
    # The stranger shares one key in ten with the others, and that nearly unchanged.
    values, coverage = matrix.values.copy(), matrix.coverage.copy()
    for other in ("base", "child"):
        for i, j in ((place[other], place["stranger"]), (place["stranger"], place[other])):
            values[i, j], coverage[i, j] = 0.2, 0.1
    whole = build_lineage(replace(matrix, values=values), facts=facts)
    assert len(whole.families) == 1
    lineage = build_lineage(replace(matrix, values=values, coverage=coverage), facts=facts)
    assert [f.models for f in lineage.families] == [("base", "child"), ("stranger",)]
    assert any("share less than half of their keys" in note for note in lineage.notes)


def test_a_vocabulary_of_another_size_does_not_draw_a_model_between_two_others() -> None:
    # The embeddings of `wider` are of another shape: its distances leave them out.
    rng = np.random.default_rng(8)
    names = ("base", "tuned", "wider")
    body = np.cumsum(rng.normal(0, 0.1, (3, 900)), axis=0)
    embeddings = rng.normal(size=(3, 2000))
    layers = layers_of(names, {"embed": embeddings, **{f"l{i}": body + i for i in range(4)}})
    values = layers.values.copy()
    values[0, 2, :2] = values[0, :2, 2] = np.nan
    gapped = replace(layers, values=values)
    distances = np.sqrt(np.nansum(np.square(values), axis=0))
    matrix = DistanceMatrix.from_values(names, distances)
    assert matrix.values[0, 1] > matrix.values[0, 2] > matrix.values[1, 2]
    found = build_lineage(matrix, layers=gapped)
    drawn = {frozenset((e.parent, e.child)) for e in found.edges}
    assert drawn == {frozenset(("base", "tuned")), frozenset(("tuned", "wider"))}
    assert any("rests on the 4 keys" in note for note in found.notes)
    # the length of a step is what every other answer says of the pair, over all keys of the two
    for edge in found.edges:
        at = names.index(edge.parent), names.index(edge.child)
        assert edge.length == matrix.values[at]


def test_estimates_beside_measured_distances_are_left_aside() -> None:
    values = squareform([1.0, 2, 3, 2, 3, 2])
    matrix = DistanceMatrix.from_values(list("abcd"), values)
    assert without_mixed_estimates(matrix) == (matrix, ())
    sources = np.full((4, 4), "estimated", dtype="U9")
    np.fill_diagonal(sources, "")
    alike = replace(matrix, sources=sources)
    assert without_mixed_estimates(alike) == (alike, ())
    sources = sources.copy()
    sources[:3, :3] = matrix.sources[:3, :3]
    kept, notes = without_mixed_estimates(replace(matrix, sources=sources))
    assert len(kept.missing_pairs()) == 3
    assert {m for pair in kept.missing_pairs() for m in pair} == set("abcd")
    assert np.array_equal(kept.values[:3, :3], values[:3, :3])
    (note,) = notes
    assert note.startswith("3 pair(s)")
    assert "--estimate" in note
    assert "megasim compare" in note
