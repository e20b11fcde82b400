"""Tiers of reading: a header, a sample, all; a model goes up, never down, and answers say so."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from safetensors.torch import save

import megasim
from megasim.compare import sample_plan, tiered_pairs
from megasim.compare.sample_piece import run_sample_piece
from megasim.errors import NoAnswerError, UsageError
from megasim.workspace.jobs import compact, doctor
from megasim.workspace.shards import compare_shard
from tests.models import write_model
from tests.object_servers import web_server

SHAPES = {
    **{f"model.layers.{i}.self_attn.q_proj.weight": (384, 256) for i in range(4)},
    **{f"model.layers.{i}.input_layernorm.weight": (256,) for i in range(4)},
    "model.embed_tokens.weight": (2000, 256),
}
COMPONENTS = ("layers", "embedding")


def network(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}


def tuned(weights: dict[str, torch.Tensor], seed: int, by: float = 0.1) -> dict[str, torch.Tensor]:
    """Return weights after a step whose rows are of unequal sizes, as those of training are."""
    steps, sizes = network(seed), network(seed + 100)
    return {
        key: w
        + by * steps[key] * torch.exp(0.4 * sizes[key][..., :1] if w.ndim > 1 else sizes[key])
        for key, w in weights.items()
    }


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two fine-tunes, their merge, a cast, and one in which two rows were changed."""
    folder = tmp_path_factory.mktemp("family")
    base = network(0)
    a, b = tuned(base, 1), tuned(base, 2, 0.15)
    few = {key: w.clone() for key, w in base.items()}
    few["model.embed_tokens.weight"][[3, 1700]] += 1
    models = {
        "base": base,
        "a": a,
        "b": b,
        "mix": {key: 0.7 * a[key] + 0.3 * b[key] for key in a},
        "few": few,
    }
    for name, weights in models.items():
        write_model(folder / f"{name}.safetensors", weights)
    return folder


@pytest.fixture
def store(tmp_path: Path):
    with megasim.open_store(tmp_path / "s.duckdb") as opened:
        yield opened


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, family: Path):
    """All of the family at 5 %, compared."""
    with megasim.open_store(tmp_path_factory.mktemp("sampled") / "s.duckdb") as opened:
        opened.ingest(family, sample="5%")
        opened.compare()
        yield opened


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, family: Path):
    with megasim.open_store(tmp_path_factory.mktemp("full") / "s.duckdb") as opened:
        opened.ingest(family)
        opened.compare()
        yield opened


def tiers(store: Any) -> dict[str, str]:
    frame = store.models()
    return dict(zip(frame["name"], frame["tier"], strict=True))


def test_a_header_costs_nothing_and_tells_what_is_there(family: Path, store: Any) -> None:
    result = store.ingest(family / "a.safetensors", header=True)
    assert (result.added, result.bytes_read) == (["a"], 0)
    (row,) = store.models().to_dict("records")
    assert row["tier"] == "header" and row["sampled"] == 0
    assert row["keys"] == len(SHAPES)
    assert row["parameters"] == sum(int(np.prod(shape)) for shape in SHAPES.values())
    assert sorted(row["components"]) == sorted(COMPONENTS)
    assert row["dtypes"] == ["float32"]


def test_a_model_goes_up_in_place_and_never_down(family: Path, store: Any) -> None:
    path = family / "a.safetensors"
    store.ingest(path, header=True)
    before = store.store.model_ids()
    steps = [
        ({"sample": "5%"}, "sample", True),
        ({"header": True}, "sample", False),
        ({"sample": "20%"}, "sample", True),
        ({"sample": "5%"}, "sample", False),
        ({"header": True, "reread": True}, "sample", None),
        ({}, "full", True),
        ({"sample": "5%"}, "full", False),
        ({"sample": "5%", "reread": True}, "full", None),
    ]
    read = 0
    for options, tier, rises in steps:
        result = store.ingest(path, **options)
        assert tiers(store) == {"a": tier}
        (now,) = store.models()["sampled"]
        if rises is None:
            assert (result.replaced, now) == (["a"], read)
        else:
            assert (result.raised, result.known) == ((["a"], []) if rises else ([], ["a"]))
            assert now > read if rises else now == read
        read = now
    assert store.store.model_ids() == before
    assert len(store.sql("select * from layers")) == len(SHAPES)


def test_a_model_smaller_than_its_sample_is_read_in_full(family: Path, store: Any) -> None:
    store.ingest(family / "a.safetensors", sample="1G")
    assert tiers(store) == {"a": "full"}


def test_two_tiers_at_once_are_refused(family: Path, store: Any) -> None:
    with pytest.raises(UsageError, match="two tiers"):
        store.ingest(family, header=True, sample="5%")


def norms(store: Any) -> dict[tuple[str, str], float]:
    rows = store.store.connection.execute(
        "select name, component, sqrt(sum(h.l2 * h.l2)) from held_keys h "
        "join model on id = model_id group by all"
    ).fetchall()
    return {(name, component): norm for name, component, norm in rows}


def test_sampled_distances_are_near_and_their_errors_honest(sampled: Any, full: Any) -> None:
    """At 5 %: within 2 % of exact, as far off as they say, and cosines within 0.02."""
    frame = sampled.models()
    assert (frame["sampled"] <= 0.05 * frame["parameters"]).all()
    sql = "select model_a, model_b, component, source, l2, l2_error from component_distances"
    exact = {tuple(r[:3]): r[4] for r in full.sql(sql).values.tolist()}
    # of rows that no block holds, no sample can tell: see "few" below
    rows = [r for r in sampled.sql(sql).values.tolist() if "few" not in r[:2]]
    assert len(rows) == 2 * 6 and {row[3] for row in rows} == {"estimated"}
    true = np.array([exact[tuple(row[:3])] for row in rows])
    l2, error = np.array([row[4:] for row in rows], dtype=float).T
    assert np.mean(np.abs(l2 / true - 1) < 0.02) >= 0.95
    assert (error > 0).all() and (error < 0.04 * l2).all()
    z = np.abs(l2 - true) / error
    assert np.mean(z < 1) >= 0.6 and np.mean(z < 2) >= 0.9
    of_whole, of_samples = norms(full), norms(sampled)
    for (a, b, component, *_), d_true, d in zip(rows, true, l2, strict=True):
        cosines = [
            (of[a, component] ** 2 + of[b, component] ** 2 - distance**2)
            / (2 * of[a, component] * of[b, component])
            for of, distance in ((of_whole, d_true), (of_samples, d))
        ]
        assert cosines[0] == pytest.approx(cosines[1], abs=0.02)


class Breaking(ThreadPoolExecutor):
    """One thread that fails at a piece."""

    def __init__(self, at: int) -> None:
        super().__init__(1)
        self.at, self.submitted = at, 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.submitted += fn is run_sample_piece
        if self.submitted == self.at:
            raise RuntimeError("the machine goes down")
        return super().submit(fn, *args, **kwargs)


def test_a_comparison_of_samples_goes_on_where_it_ended(
    family: Path, store: Any, sampled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_plan, "_PIECE_ELEMENTS", 1)  # a piece for each key
    monkeypatch.setattr(tiered_pairs, "_SAVED_ELEMENTS", 1)
    store.ingest(family, sample="5%")
    with Breaking(7) as executor, pytest.raises(RuntimeError, match="goes down"):
        store.compare(executor=executor, workers=1)
    saved = store.store.connection.execute("from sampled_distance").fetchall()
    assert saved
    assert store.sql("from layer_distances").empty  # of pairs of which not all is known
    assert store.sql("from component_distances").empty
    with Breaking(0) as executor:
        result = store.compare(executor=executor, workers=1)
        assert result.pairs_done == 10
        assert 0 < executor.submitted < len(SHAPES)
    for sql in ("from layer_distances", "from component_distances"):
        rows = [
            s.store.connection.execute(f"{sql} order by all").fetchall() for s in (store, sampled)
        ]
        assert rows[0] == rows[1]


def test_what_samples_do_not_tell_apart_is_not_called_the_same(sampled: Any) -> None:
    text = sampled.findings("base", "few").to_text()
    assert "layers: the same in all sampled elements" in text
    assert "may differ unseen" in text and "identical" not in text
    assert "base, few: read as a sample" in text
    rows = sampled.sql(
        "select status, l2_error from component_distances c, layer_distances l where "
        "c.model_a = 'base' and c.model_b = 'few' and c.component = 'layers' and l.model_a = "
        "c.model_a and l.model_b = c.model_b and l.component = 'layers' and l.numel > 300"
    )
    assert set(rows["status"]) == {"same_in_sample"} and rows["l2_error"].isna().all()
    assert not sampled.shared_components()
    edges = sampled.lineage("layers").edges
    assert all(e.kind != "copy" for e in edges)
    assert sampled.pair_findings("base", "few")[0].equal is False


def test_pictures_of_samples_are_drawn_and_say_what_they_show(sampled: Any) -> None:
    assert "same_in_sample" in set(sampled.tiers()["verdict"])
    figure = sampled.heatmap(tiers=True)
    words = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    words |= {t.get_text() for a in figure.axes if a.get_legend() for t in a.get_legend().texts}
    assert "same in all sampled elements" in words
    assert (sampled.matrix("layers").sources[0, 1:] == "estimated").all()


def test_a_recipe_of_samples_is_that_of_the_whole(sampled: Any, full: Any) -> None:
    found = [
        {p.model: p.weight for p in store.recipe("mix", component="layers").parents}
        for store in (sampled, full)
    ]
    assert found[0].keys() == found[1].keys() == {"a", "b"}
    assert found[0]["a"] == pytest.approx(found[1]["a"], abs=0.02)


def test_tiers_mix_in_one_store(family: Path, store: Any, full: Any) -> None:
    store.ingest(family / "a.safetensors")
    store.ingest(family / "b.safetensors", sample="10%")
    store.ingest(family / "mix.safetensors", sample="30%")
    store.ingest(family / "base.safetensors", header=True)
    result = store.compare()
    assert (result.sampled_pairs, result.header_pairs, result.pairs_done) == (3, 3, 6)
    assert store.compare().pairs_known == 6
    exact, found = full.matrix("layers"), store.matrix("layers")
    for a, b in (("a", "b"), ("b", "mix"), ("a", "mix")):
        value = found.subset([a, b]).values[0, 1]
        assert value == pytest.approx(exact.subset([a, b]).values[0, 1], rel=0.03)
    assert np.isnan(found.subset(["a", "base"]).values[0, 1])
    said = store.findings("a", "base").to_text()
    assert "layers: not read (8 keys of the same name and shape, of which a header alone" in said
    # once all is read, nothing is left of what was estimated
    store.ingest(family)
    store.compare()
    assert set(tiers(store).values()) == {"full"}
    assert set(store.sql("select source from component_distances")["source"]) == {"exact"}
    assert store.sql("select count(*) as c from layer_distances")["c"][0] > 0


def test_what_a_sample_cannot_answer_is_refused(family: Path, store: Any, tmp_path: Path) -> None:
    store.ingest(family / "a.safetensors", sample="10%")
    store.ingest(family / "b.safetensors", header=True)
    with pytest.raises(NoAnswerError, match="no sketches"):
        store.nearest("a")
    with pytest.raises(NoAnswerError, match="read as a header"):
        store.nearest("b")
    with pytest.raises(NoAnswerError, match="read as a header: its values"):
        store.kinship("b")
    with pytest.raises(UsageError, match="samples are not compared by shards"):
        compare_shard(tmp_path / "p.parquet", "1/2", tmp_path / "s.duckdb")
    with pytest.raises(UsageError, match="read as a sample: that proves nothing"):
        store.verify("a", family / "a.safetensors")
    with pytest.raises(NoAnswerError, match="headers and samples have none"):
        store.export_fingerprints(tmp_path / "f.parquet")


def test_a_store_of_all_tiers_is_sound_and_notices_what_changed(
    family: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(family, folder)
    db = tmp_path / "s.duckdb"
    with megasim.open_store(db) as store:
        store.ingest(folder / "a.safetensors", folder / "mix.safetensors", sample="10%")
        store.ingest(folder / "b.safetensors", header=True)
        store.ingest(folder / "base.safetensors")
        store.compare()
    compact(db)
    assert doctor(db, files=True).is_sound
    with duckdb.connect(db) as con:
        con.execute("update listed_key set content_hash = 'x' where sampled > 0")
    found = doctor(db, files=True)
    assert not found.is_sound
    assert [file.model for file in found.files or ()] == ["a", "mix"]


def test_a_changed_file_is_not_compared_by_its_sample(family: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(family, folder)
    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(folder / "a.safetensors", folder / "b.safetensors", sample="10%")
        path = folder / "a.safetensors"
        content = bytearray(path.read_bytes())
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        path.write_bytes(content)
        result = store.compare()
        assert (result.pairs_done, len(result.failed)) == (0, 1)
        assert store.sql("select count(*) as c from component_distances")["c"][0] == 0


def test_of_an_address_only_what_is_asked_for_is_fetched(tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = [{"w": torch.randn(2048, 1024), "small": torch.randn(64)} for _ in range(2)]
    here = write_model(tmp_path / "here.safetensors", weights[0])
    with web_server() as web, megasim.open_store(tmp_path / "s.duckdb") as store:
        web.files["/there.safetensors"] = save(weights[1])
        size = len(web.files["/there.safetensors"])
        address = f"{web.url}/there.safetensors"
        store.ingest(address, header=True)
        assert web.traffic.sent < 100_000
        web.traffic.clear()
        store.ingest(address, here, sample="2%")
        assert 0.01 * size < web.traffic.sent < 0.05 * size
        web.traffic.clear()
        store.compare()
        assert web.traffic.sent < 0.05 * size
        (found,) = store.sql("select l2, l2_error from component_distances where l2 > 100")[
            ["l2", "l2_error"]
        ].values.tolist()
    exact = float((weights[0]["w"] - weights[1]["w"]).norm())
    assert found[0] == pytest.approx(exact, rel=0.02) and found[1] < 0.02 * exact


def test_a_checkpoint_is_no_result_to_import(family: Path, store: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a checkpoint, not a result") as error:
        store.import_path(family / "a.safetensors")
    assert "megasim ingest" in error.value.remedy
    folder = tmp_path / "unet"
    folder.mkdir()
    shutil.copy(family / "a.safetensors", folder / "model.safetensors")
    with pytest.raises(UsageError, match="holds no JSON files"):
        store.import_path(folder)
    assert store.models().empty
