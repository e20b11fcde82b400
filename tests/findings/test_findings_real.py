"""Findings on weights that others made and published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from megasim.findings.relations import model_relations
from megasim.findings.verdicts import Finding, pair_findings
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.real import fetch

pytestmark = pytest.mark.real


def compared(folder: Path, files: Mapping[str, Path]) -> Path:
    store = folder / "store.duckdb"
    with open_store(store) as workspace:
        assert not workspace.ingest(*files.values(), names=files).failed
        assert not workspace.compare().failed
    return store


def findings_of(store: Store, a: str, b: str) -> dict[str, Finding]:
    return {finding.component: finding for finding in pair_findings(store, [(a, b)])}


def unchanged_keys(store: Store, a: str, b: str) -> list[str]:
    rows = store.connection.execute(
        "select canonical_key from layer_distances "
        "where model_a in ($1, $2) and model_b in ($1, $2) and status = 'identical' order by all",
        [a, b],
    ).fetchall()
    return [key for (key,) in rows]


def test_silero_vad_versions(tmp_path: Path) -> None:
    files = {}
    for version in ("5.1.2", "6.0.0", "6.2.0", "6.2.3"):
        data = fetch(f"silero-vad=={version}") / "silero_vad" / "data"
        files[f"jit {version}"] = data / "silero_vad.jit"
    files["safetensors 6.2.3"] = data / "silero_vad_16k.safetensors"
    with Store(compared(tmp_path, files)) as store:
        (same,) = model_relations(store, [("jit 6.2.0", "jit 6.2.3")])
        assert same.kind == "same_weights"
        stft = ["_model.stft.forward_basis_buffer", "_model_8k.stft.forward_basis_buffer"]
        for older, newer in (("5.1.2", "6.0.0"), ("6.0.0", "6.2.0"), ("5.1.2", "6.2.3")):
            assert unchanged_keys(store, f"jit {older}", f"jit {newer}") == stft
            for finding in pair_findings(store, [(f"jit {older}", f"jit {newer}")]):
                assert (finding.verdict, finding.keys_changed) == ("partly_changed", 14)
        # The safetensors file holds other weights under other names; its STFT is the same.
        renamed = findings_of(store, "jit 6.2.3", "safetensors 6.2.3")["_model"]
        assert unchanged_keys(store, "jit 6.2.3", "safetensors 6.2.3") == stft[:1]
        assert "_model.stft.forward_basis_buffer → stft_conv.weight" in renamed.detail
        assert model_relations(store, [("jit 6.2.3", "safetensors 6.2.3")]) == []


def test_openff_nagl_releases(tmp_path: Path) -> None:
    folder = fetch("openff-nagl-models==2025.9.0")
    paths = sorted(folder.rglob("*.pt"))
    files = {path.stem.removeprefix("openff-gnn-am1bcc-"): path for path in paths}
    with Store(compared(tmp_path, files)) as store:
        assert {f.verdict for f in findings_of(store, "0.1.0-rc.2", "0.1.0-rc.3").values()} == {
            "identical"
        }
        (same,) = model_relations(store, [("0.1.0-rc.2", "0.1.0-rc.3")])
        assert same.kind == "same_weights"
        released = findings_of(store, "0.1.0-rc.3", "1.0.0")
        assert sum(f.keys_compared or 0 for f in released.values()) == 20
        assert sum(f.keys_changed or 0 for f in released.values()) == 0
        assert released["readout_modules"].verdict == "identical"
        assert released["convolution_module"].detail == (
            "16 of 18 keys equal; 2 keys of another shape: gcn_layers.0.fc_neigh.weight, "
            "gcn_layers.0.fc_self.weight (512x21 → 512x22)"
        )
        (version,) = model_relations(store, [("0.1.0-rc.3", "1.0.0")])
        assert version.kind == "widened"
        assert version.text.startswith("1.0.0 is 0.1.0-rc.3 with 2 keys (convolution_module.gcn")
        assert version.text.endswith("widened; the new elements are zero, the norms are the same")
        assert model_relations(store, [("0.0.1-alpha.1", "1.0.0")]) == []


def test_rxnfp_berts(tmp_path: Path) -> None:
    folder = fetch("rxnfp==0.1.0")
    files = {path.parent.name: path for path in folder.rglob("pytorch_model.bin")}
    with Store(compared(tmp_path, files)) as store:
        pair = findings_of(store, "bert_ft", "bert_pretrained")
        shared = {c: f for c, f in pair.items() if f.keys_compared}
        assert sum(f.keys_compared or 0 for f in shared.values()) == 199
        assert {f.verdict for f in shared.values()} == {"changed"}
        assert all(f.detail.endswith("renamed: (none) → bert.") for f in shared.values())
        total = sum((f.l2 or 0) ** 2 for f in shared.values()) ** 0.5
        assert total == pytest.approx(32.1, abs=0.1)
        assert pair["cls"].verdict == "absent_a"
        (relation,) = model_relations(store, [("bert_ft", "bert_pretrained")])
        assert relation.kind == "fine_tuned"
