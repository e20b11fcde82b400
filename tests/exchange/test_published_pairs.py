"""The published pairs: each is imported as its file has it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from megasim.exchange.mega_cmp_import import import_path
from megasim.store.rows import HeldModel, Model, Store
from tests.exchange.files import (
    NOVELAI,
    PLAIN,
)


def component_by_hand(key: str) -> str:
    """What a key is of, by its beginning; not the code under test."""
    key = key.removeprefix("nai.")
    if "loss." in key or key in ("model_ema.decay", "model_ema.num_updates"):
        return "training_state"
    if key.startswith("model.diffusion_model."):
        return "unet"
    if key.startswith("model_ema."):
        return "ema"
    if key.startswith("cond_stage_model."):
        return "text_encoder"
    key = key.removeprefix("first_stage_model.")
    for part in ("encoder", "decoder"):
        if key.startswith(part + "."):
            return f"vae_{part}"
    return "vae_quant" if "quant_conv." in key else "training_state"


# counters, positions and schedules: compared, and in no sum
NO_WEIGHT = re.compile(
    r"num_updates$|num_batches_tracked$|ema\.decay$|position_ids$|betas$|alphas_cumprod|posterior_|scale_factor$|lvlb"
)


def counts_by_hand(document: dict[str, Any]) -> dict[str, dict[str, float]]:
    counts: dict[str, dict[str, float]] = {}

    def add(key: str, what: str, amount: float = 1.0) -> None:
        names = ("identical", "changed", "missing_a", "missing_b", "shape_mismatch", "squares")
        component = counts.setdefault(component_by_hand(key), dict.fromkeys(names, 0.0))
        component[what] += amount

    renamed = {key.removeprefix("nai.") for key in document["kv"] if key.startswith("nai.")}
    renamed |= {key.replace(NOVELAI, PLAIN) for key in renamed}
    for key, value in document["kv"].items():
        add(key, "changed" if value else "identical")
        if not NO_WEIGHT.search(key):
            add(key, "squares", value**2)
    for name, what in (("da", "missing_b"), ("db", "missing_a"), ("err", "shape_mismatch")):
        for key in document[name]:
            if key not in renamed:
                add(key, what)
    return counts


def test_component_counts_agree_with_all_published_files(v1: Store, shared: Path) -> None:
    files = list((shared / "published" / "v1").glob("*_*_*.json"))
    assert len(files) == 23
    for path in files:
        _, a, b = path.stem.split("_")
        expected = counts_by_hand(json.loads(path.read_text()))
        found = v1.connection.execute(
            "select * from component_distances where model_a = $a and model_b = $b",
            {"a": a, "b": b},
        ).df()
        assert set(found["component"]) == set(expected), path.name
        for row in found.to_dict("records"):
            hand = expected[row["component"]]
            for what in ("identical", "changed", "missing_a", "missing_b", "shape_mismatch"):
                assert row[what] == hand[what], (path.name, row["component"], what)
            compared = hand["identical"] + hand["changed"]
            assert row["keys_compared"] == compared
            assert row["source"] == "imported"
            assert row["origin"] == path.name
            assert not row["unproven"]
            total = sum(hand.values()) - hand["squares"]
            assert row["coverage"] == pytest.approx(compared / total)
            if compared:
                assert row["l2"] == pytest.approx(math.sqrt(hand["squares"]), rel=1e-12)
                assert row["l2_error"] == 0
            else:
                assert math.isnan(row["l2"])


def test_pairs_stand_the_way_their_files_have_them(v1: Store, shared: Path) -> None:
    files = (shared / "published" / "v1").glob("*_*_*.json")
    expected = {tuple(path.stem.split("_")[1:]) for path in files}
    found = v1.connection.sql("select distinct model_a, model_b from layer_distances").fetchall()
    assert set(found) == expected


def test_chain_of_the_design_comes_from_layer_distances_alone(v1: Store) -> None:
    """Design, section 7: the steps, the direct distance and the coherence, in SQL."""
    rows = v1.connection.sql("""
        with parts as (
            select
                model_a || '>' || model_b as pair,
                case when role in ('attn1', 'attn2') then role else 'others' end as part,
                sqrt(sum(l2 * l2)) as distance
            from layer_distances
            where component = 'unet'
            group by all
        ),
        chain as (
            select
                part,
                round(max(distance) filter (pair = 'ac>mk0'), 4)   as step_1,
                round(max(distance) filter (pair = 'mk0>mk3'), 4)  as step_2,
                round(max(distance) filter (pair = 'mk3>mk5'), 4)  as step_3,
                round(max(distance) filter (pair = 'mk5>nman'), 4) as step_4,
                round(max(distance) filter (pair = 'ac>nman'), 4)  as direct,
                sum(distance) filter (pair <> 'ac>nman')           as total,
                sum(distance ** 2) filter (pair <> 'ac>nman')      as squares,
                max(distance) filter (pair = 'ac>nman')            as far
            from parts
            where pair in ('ac>mk0', 'mk0>mk3', 'mk3>mk5', 'mk5>nman', 'ac>nman')
            group by part
        )
        select
            part, step_1, step_2, step_3, step_4, direct,
            round((far ** 2 - squares) / (total ** 2 - squares), 3) as coherence
        from chain
        order by part
    """).fetchall()
    assert rows == [
        ("attn1", 23.2504, 16.5754, 8.0633, 7.5967, 35.8125, 0.161),
        ("attn2", 26.0299, 13.6055, 4.6885, 5.7737, 30.5798, 0.011),
        ("others", 96.0301, 51.6394, 20.2971, 22.4227, 113.7759, 0.006),
    ]


def test_the_question_of_the_first_page_has_its_answer(v1: Store) -> None:
    found = v1.connection.sql(
        "select * from layer_distances where model_a = 'sd14' order by l2 desc limit 10"
    ).df()
    assert len(found) == 10
    assert found["canonical_key"][0] == "model_ema.num_updates"
    assert found["l2"].notna().all()
    assert found["l2"].is_monotonic_decreasing
    assert set(found["source"]) == {"imported"}


def test_novelai_keys_are_renamed_not_missing(v1: Store) -> None:
    found = v1.connection.sql("""
        select count(*), count(*) filter (status = 'identical'), min(key_a), min(key_b),
            bool_and(replace(key_b, 'transformer.', 'transformer.text_model.') = key_a),
            bool_and(canonical_key = key_a)
        from layer_distances
        where model_a = 'sd147g' and component = 'text_encoder'
    """).fetchall()
    first = "embeddings.position_embedding.weight"
    assert found == [(197, 197, PLAIN + first, NOVELAI + first, True, True)]


def test_groups_come_from_the_file_names(v1: Store) -> None:
    assert {name: len(pairs) for name, pairs in v1.groups().items()} == {
        "bp": 5,
        "nai": 4,
        "sd1": 1,
        "sd2": 7,
        "vae": 6,
    }


def test_a_name_of_two_files_is_told(store: Store, shared: Path) -> None:
    result = import_path(store, shared / "published" / "v1" / "sd2_sd14_sd21.json")
    assert len(result.notes) == 1
    assert "sd14 to 2 files (sd-v1-4-full-ema.ckpt, sd-v1-4.ckpt)" in result.notes[0]


def test_a_name_of_two_files_is_the_checkpoint_that_ingest_took_it_for(
    store: Store, shared: Path
) -> None:
    store.save_model(HeldModel(Model("sd14.sd-v1-4")))
    import_path(store, shared / "published" / "v1" / "sd2_sd14_sd21.json")
    assert [m.name for m in store.models()] == ["sd14.sd-v1-4", "sd21"]
