"""The smallest true relation is said of two models, and no headline contradicts its lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megasim.findings.component_groups import shared_components
from megasim.findings.overview import findings_report
from megasim.findings.relations import model_relations
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.words import RelationKind
from megasim.workspace import open_store
from tests.findings.sentences import related, told
from tests.models import random_model
from tests.small_networks import convolutional, language_model, lora, noise
from tests.small_sd import cast, compared_store, small_sd, with_ema

StateDict = dict[str, torch.Tensor]


def relation_texts(store: Store) -> list[str]:
    return [relation.text for relation in model_relations(store)]


WHOLE = random_model(1)
HALF = cast(WHOLE, torch.float16)


def test_two_keys_of_four_bit_for_bit_are_a_part(tmp_path: Path) -> None:
    part = {key: WHOLE[key] for key in list(WHOLE)[:1]}
    with Store(compared_store(tmp_path, {"part": part, "whole": WHOLE})) as store:
        (finding,) = pair_findings(store)
        assert finding.verdict == "contained"
        (relation,) = model_relations(store)
    assert relation.text == "part is a part of whole: 1 of its 4 keys"
    assert relation.kind == RelationKind.PART_OF


def test_two_files_that_each_hold_keys_alone(tmp_path: Path) -> None:
    keys = list(WHOLE)
    one = {key: WHOLE[key] for key in keys[:3]}
    two = {key: WHOLE[key] for key in keys[1:]}
    (text,) = related(tmp_path, one=one, two=two)
    assert text == (
        "one and two are equal in the 2 keys that both hold; one alone holds block.0.weight; "
        "two alone holds block.3.weight"
    )


def test_shards_without_an_index(tmp_path: Path) -> None:
    whole = language_model(3)
    keys = list(whole)
    first = {key: whole[key] for key in keys[:8]}
    second = {key: whole[key] for key in keys[8:]}
    names = {"m-00001-of-00002": first, "m-00002-of-00002": second, "whole": whole}
    texts = related(tmp_path, **names)
    assert "m-00001-of-00002 is shard 1 of 2 of whole" in texts
    assert "m-00002-of-00002 is shard 2 of 2 of whole" in texts
    assert not any("changed" in text for text in texts)


def test_shards_whose_whole_is_not_here(tmp_path: Path) -> None:
    keys = list(whole := language_model(3))
    shards = {
        f"m-0000{i + 1}-of-00003": {key: whole[key] for key in keys[6 * i : 6 * i + 6]}
        for i in range(3)
    }
    path = compared_store(tmp_path, shards | {"n-00002-of-00003": random_model(3)})
    texts = told(path)
    start = "m-00001-of-00003 and m-00002-of-00003 have no key in common: by their names, they are"
    assert texts[0] == f"{start} shards 1 and 2 of the 3 of one model"
    assert len(texts) == 3
    with Store(path) as store:
        verdicts = {pair.verdict for pair in findings_report(store).pairs}
        assert verdicts == {"disjoint"}  # no shape of theirs disagrees
        assert "another architecture" not in findings_report(store).to_text()


def test_tied_weights_and_a_trained_head(tmp_path: Path) -> None:
    tied = language_model(3, head=False)
    embedding = tied["model.embed_tokens.weight"]
    texts = related(
        tmp_path,
        tied=tied,
        untied=tied | {"lm_head.weight": embedding.clone()},
        trained=tied | {"lm_head.weight": embedding + noise(8, 32, 8)},
    )
    assert texts[0] == (
        "tied and untied hold the same weights; untied holds its head beside, "
        "which repeats model.embed_tokens.weight"
    )
    assert "tied is trained without its head" in texts
    assert "untied and trained hold the same weights, but for 1 of 16 keys: lm_head.weight" in texts


def test_a_head_of_several_keys_that_was_replaced(tmp_path: Path) -> None:
    base = convolutional(1, 5)
    files = {
        name: base | {"fc.weight": noise(seed, 10, 8), "fc.bias": noise(seed + 1, 10)}
        for name, seed in (("a", 30), ("b", 40))
    }
    (text,) = related(tmp_path, **files)
    assert text == "a and b: fc unlike, features unchanged"


def test_counters_of_batches_are_no_weights(tmp_path: Path) -> None:
    one = convolutional(1, 10)
    later = convolutional(1, 5010)
    trained = {
        k: v if v.dtype == torch.int64 else v + 0.001 * noise(3, *v.shape) for k, v in later.items()
    }
    with Store(compared_store(tmp_path, {"one": one, "later": later, "trained": trained})) as store:
        findings = {(f.model_a, f.model_b): f for f in pair_findings(store)}
        texts = relation_texts(store)
    assert findings["one", "later"].verdict == "same_where_used"
    assert findings["one", "later"].l2 == 0
    assert (findings["one", "trained"].l2 or 99) < 1
    assert texts[0] == "one and later hold the same weights; counters of training steps differ"
    assert not any("everything" in text for text in texts)


def test_another_noise_schedule_is_used_where_it_is_there(tmp_path: Path) -> None:
    base = small_sd(1) | {"alphas_cumprod": torch.linspace(1, 0, 1000)}
    other = base | {"alphas_cumprod": torch.linspace(1, 0, 1000) ** 2}
    plain = small_sd(1)
    texts = related(tmp_path, base=base, other=other, plain=plain)
    assert (
        "base and other hold the same weights, but another noise schedule (alphas_cumprod), "
        "which samplers use where it is there"
    ) in texts
    assert "plain is base without its noise schedule" in texts


def test_keys_that_decide_how_a_model_is_run_are_named(tmp_path: Path) -> None:
    base = small_sd(1)
    marked = base | {"v_pred": torch.ones(1), "ztsnr": torch.ones(1)}
    with Store(compared_store(tmp_path, {"base": base, "marked": marked})) as store:
        findings = {f.component: f for f in pair_findings(store)}
        (text,) = relation_texts(store)
    assert findings["other"].detail == "2 keys: v_pred, ztsnr"
    assert text == "base is marked without 2 keys (v_pred, ztsnr)"


def test_no_unet_is_spoken_of_where_there_is_none(tmp_path: Path) -> None:
    state = random_model(1)
    (text,) = related(tmp_path, full=with_ema(state, 2) | state, small=state)
    assert "UNet" not in text


def test_a_model_that_holds_a_component_twice_counts_once(tmp_path: Path) -> None:
    decoder = random_model(1)
    train = {
        **{"enc." + key: value for key, value in random_model(2).items()},
        **{"dec." + key: value for key, value in decoder.items()},
        **{"dec2." + key: value for key, value in decoder.items()},
    }
    voice = {"dec." + key: value for key, value in decoder.items()}
    with Store(compared_store(tmp_path, {"train": train, "voice": voice})) as store:
        groups = shared_components(store)
    assert all(len(set(group.models)) == len(group.models) for group in groups)
    assert ("train", "voice") in {group.models for group in groups}


def test_what_holds_for_a_clique_is_said_for_all_its_pairs(tmp_path: Path) -> None:
    models = {f"copy{i}": dict(WHOLE) for i in range(4)}
    others = {f"other{i}": random_model(50 + i) for i in range(7)}
    with Store(compared_store(tmp_path, models | others)) as store:
        assert len(store.model_ids()) * (len(store.model_ids()) - 1) // 2 > 40
        same = {frozenset((r.model, r.other)) for r in model_relations(store)}
        assert len(same) == 6
        text = findings_report(store).to_text()
    assert "copy0, copy1, copy2, copy3 hold the same weights" in text


@pytest.mark.parametrize("most", [2, 48])
def test_what_holds_for_many_is_said_for_all_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Ten copies and four casts of them, as a few described pairs tell and as all of them do."""
    monkeypatch.setattr("megasim.findings.relations._MOST_IN_ALL_PAIRS", most)
    models = {f"copy{i}": dict(WHOLE) for i in range(10)} | {f"half{i}": HALF for i in range(4)}
    path = compared_store(tmp_path, models)
    with Store(path) as store:
        relations = model_relations(store)
        lines = findings_report(store).to_text().splitlines()
    kinds = {frozenset((r.model, r.other)): r.kind for r in relations}
    assert len(kinds) == len(relations)
    alike = [pair for pair, kind in kinds.items() if kind == RelationKind.SAME_WEIGHTS]
    assert len(alike) == 10 * 9 // 2 + 4 * 3 // 2
    if most > len(models):
        assert len(kinds) == 14 * 13 // 2
    said = [line for line in lines if "cast to float16" in line]
    assert said == ["  half0 is copy0 cast to float16"]  # it holds of all that are the same
    assert "  half0, half1, half2, half3 hold the same weights" in lines


def test_many_renamed_tensors_are_one_line(tmp_path: Path) -> None:
    state = lora(1, 8)
    renamed = {
        k.replace("lora_unet_", "lora.unet.").replace(".lora_down", ".down"): v
        for k, v in state.items()
    }
    with Store(compared_store(tmp_path, {"a": state, "b": renamed})) as store:
        (pair,) = findings_report(store).pairs
    assert len([sentence for sentence in pair.sentences if sentence.startswith("renamed")]) <= 3


def test_an_adapter_lacks_no_text_encoder(tmp_path: Path) -> None:
    with Store(compared_store(tmp_path, {"a": lora(1, 8), "b": lora(2, 8)})) as store:
        assert "no text encoder" not in findings_report(store).to_text()


KEYS = [f"layers.{i}.{name}.weight" for i in range(4) for name in ("q", "k", "v")]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kept=st.sets(st.sampled_from(KEYS), min_size=1),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_any_subset_of_keys_is_a_part(
    tmp_path_factory: pytest.TempPathFactory, kept: set[str], dtype: torch.dtype
) -> None:
    whole = {key: noise(at, 8, 16) for at, key in enumerate(KEYS)}
    part = {key: whole[key].to(dtype) for key in sorted(kept)}
    folder = tmp_path_factory.mktemp("subset")
    with Store(compared_store(folder, {"part": part, "whole": whole})) as store:
        (finding,) = pair_findings(store)
        (relation,) = model_relations(store)
    if len(kept) == len(KEYS):
        assert relation.kind == ("same_weights" if dtype == torch.float32 else "cast")
        return
    assert finding.verdict == "contained"
    assert finding.keys_changed == 0
    assert (relation.kind, relation.model, relation.other) == ("part_of", "part", "whole")
    assert ("float16" in relation.text) == (dtype == torch.float16)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    moved=st.sets(st.sampled_from(KEYS)),
    lost=st.sets(st.sampled_from(KEYS), max_size=4),
    added=st.integers(0, 3),
)
def test_a_headline_never_contradicts_its_lines(
    tmp_path_factory: pytest.TempPathFactory, moved: set[str], lost: set[str], added: int
) -> None:
    one = {key: noise(at, 8, 16) for at, key in enumerate(KEYS)}
    two = {
        key: value + 0.1 * noise(99, 8, 16) if key in moved else value
        for key, value in one.items()
        if key not in lost
    } | {f"new.{i}.weight": noise(200 + i, 8, 16) for i in range(added)}
    folder = tmp_path_factory.mktemp("pair")
    with Store(compared_store(folder, {"one": one, "two": two})) as store:
        findings = pair_findings(store)
        relations = model_relations(store)
    changed = sum(f.keys_changed or 0 for f in findings)
    assert changed == len(moved - lost)
    for relation in relations:
        if relation.kind in ("same_weights", "cast", "same_where_used"):
            assert not changed and not lost and not added
        if relation.kind in ("part_of", "overlap"):
            assert not changed and (lost or added)
        if "everything" in relation.text:
            assert changed == len(KEYS) - len(lost)
        if "changed" in relation.text or "but for" in relation.text:
            assert changed
    assert relations or changed


def test_parts_of_a_training_file_are_known_again(tmp_path: Path) -> None:
    raw = random_model(1)
    average = {key: value + 0.01 * noise(5, *value.shape) for key, value in raw.items()}
    torch.save({"model": raw, "ema": average}, tmp_path / "train.pt")
    torch.save(average, tmp_path / "released.pt")
    torch.save(raw, tmp_path / "wrong_upload.pt")
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*sorted(tmp_path.glob("*.pt")))
        workspace.compare()
        texts = relation_texts(workspace.store)
    assert "released is the EMA of train" in texts
    assert "wrong_upload is the raw weights of train" in texts


def test_what_differs_beside_equal_weights_is_said(tmp_path: Path) -> None:
    raw = random_model(1)
    for name, seed in (("a", 5), ("b", 6)):
        average = {key: value + 0.01 * noise(seed, *value.shape) for key, value in raw.items()}
        torch.save({"state_dict": raw, "ema_state_dict": average}, tmp_path / f"{name}.pt")
    with open_store(tmp_path / "store.duckdb") as workspace:
        workspace.ingest(*sorted(tmp_path.glob("*.pt")))
        workspace.compare()
        (text,) = [r.text for r in model_relations(workspace.store, [("a", "b")])]
    assert text.startswith("a and b hold the same weights; their files differ in the part")


def test_other_keys_that_one_model_lacks_are_named_in_the_headline(tmp_path: Path) -> None:
    plain = random_model(1)
    marked = {**plain, "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    texts = related(tmp_path, eps=plain, v=marked)
    assert texts == ["eps is v without 2 keys (v_pred, ztsnr)"]


def test_codes_of_a_quantised_model_have_no_cosine_with_weights(tmp_path: Path) -> None:
    names = [f"block.{i}.fc" for i in range(3)]
    plain = {f"{name}.weight": noise(i, 50, 50) for i, name in enumerate(names)}
    plain |= {f"{name}.bias": noise(9 + i, 50) for i, name in enumerate(names)}
    codes = {key: (value * 50).to(torch.float8_e4m3fn) for key, value in plain.items()}
    scales = {f"{key}_scale": torch.tensor(0.02) for key in plain}
    assert not any("cosine" in text for text in related(tmp_path, a=plain, b={**codes, **scales}))
