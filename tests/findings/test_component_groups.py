"""Who holds the same component; named fingerprints are recognised without weights."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest
import torch

from megasim.cli import run
from megasim.errors import CheckpointError, NoAnswerError, UsageError
from megasim.exchange.fingerprint_file import export_fingerprints, import_fingerprints
from megasim.findings.component_groups import group_sentences, other_holders, shared_components
from megasim.findings.verdicts import pair_findings
from megasim.store.rows import Store
from megasim.workspace import open_store
from tests.models import random_model, write_model
from tests.small_sd import UNET, VAE, cast, only, small_sd, trained


def models() -> dict[str, dict[str, torch.Tensor]]:
    base = small_sd(1)
    decoder = trained(base, 2, VAE + "decoder")
    return {
        "base": base,
        "half": cast(base, torch.float16),
        "tuned": trained(base, 3, UNET),
        "baked": trained(base, 4, UNET) | only(decoder, VAE),
        "vae": only(decoder, VAE),
        "stranger": small_sd(5),
    }


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("groups")
    files = [write_model(folder / f"{name}.safetensors", m) for name, m in models().items()]
    with open_store(folder / "store.duckdb") as workspace:
        assert not workspace.ingest(*files).failed
        yield workspace.store


def told(store: Store) -> list[tuple[str, tuple[str, ...], str]]:
    return [(group.component, group.models, group.verdict) for group in shared_components(store)]


def test_largest_first_and_a_vae_as_a_whole(ingested: Store) -> None:
    assert told(ingested) == [
        ("vae_encoder", ("base", "half", "tuned", "baked", "vae"), "same_at_fp16"),
        ("vae_quant", ("base", "half", "tuned", "baked", "vae"), "same_at_fp16"),
        ("text_encoder", ("base", "half", "tuned", "baked"), "same_at_fp16"),
        ("vae", ("base", "half", "tuned"), "same_at_fp16"),
        ("unet", ("base", "half"), "same_at_fp16"),
        ("vae", ("baked", "vae"), "identical"),
    ]


def test_which_of_them_are_identical_to_the_bit(ingested: Store) -> None:
    group = next(g for g in shared_components(ingested) if g.component == "text_encoder")
    assert group.identical == (("base", "tuned", "baked"), ("half",))
    assert group_sentences([group], 3) == [
        "text encoder: the same in 4 models (same at fp16): base, half and 2 more"
    ]


def test_what_the_same_models_share_is_said_at_once(ingested: Store) -> None:
    sentences = group_sentences(shared_components(ingested))
    assert sentences[0] == (
        "VAE encoder and VAE quant convolutions: the same in 5 models (same at fp16): "
        "base, half, tuned, baked, vae"
    )
    assert len(sentences) == 5


def test_who_else_holds_the_parts_of_a_pair(ingested: Store) -> None:
    groups = shared_components(ingested)
    assert other_holders(groups, ["base", "tuned"]) == [
        "text encoder of both: also in half, baked (same at fp16)",
        "VAE of both: also in half (same at fp16)",
        "UNet of base: also in half (same at fp16)",
    ]
    assert other_holders(groups, ["stranger", "vae"]) == [
        "VAE of vae: also in baked",
    ]
    assert other_holders(groups, list(ingested.model_ids())) == []


def test_no_distances_are_needed(ingested: Store) -> None:
    assert ingested.rows("finding_pairs") == []


def test_a_named_vae_is_recognised_without_its_weights(ingested: Store, tmp_path: Path) -> None:
    file = tmp_path / "known.parquet"
    count = export_fingerprints(
        ingested, file, models=["vae"], component="vae", names={"vae": "kl-f8-anime2"}
    )
    assert count == 5
    (mine,) = [write_model(tmp_path / "mine.safetensors", models()["baked"])]
    with open_store(tmp_path / "mine.duckdb") as workspace:
        workspace.ingest(mine)
        result = import_fingerprints(workspace.store, file)
        assert result.models == ["kl-f8-anime2"]
        (group,) = shared_components(workspace.store)
        assert group.known == ("kl-f8-anime2",)
        (sentence,) = group_sentences([group])
        assert sentence.endswith("known by fingerprint: kl-f8-anime2")
        (row,) = workspace.sql("select source, keys from models where name = 'kl-f8-anime2'").values
        assert tuple(row) == ("fingerprints", 5)
        how = "select distinct representation from layers where model = 'kl-f8-anime2'"
        assert workspace.sql(how)["representation"].tolist() == ["plain"]
        again = import_fingerprints(workspace.store, file)
        assert (again.models, len(again.left_out)) == ([], 1)


def test_components_are_named_on_the_command_line(ingested: Store, tmp_path: Path) -> None:
    db, file = str(tmp_path / "s.duckdb"), str(tmp_path / "known.parquet")
    mine = write_model(tmp_path / "mine.safetensors", models()["baked"])
    assert run(["--db", db, "ingest", str(mine)]) == 0
    export = ["--db", db, "export", "--fingerprints", file, "-c", "vae", "--as"]
    assert run([*export, "mine"]) == 2
    assert run([*export, "nobody=known"]) == 2
    assert run([*export, "mine=known"]) == 0
    assert run(["--db", db, "import", file]) == 0
    with Store(Path(db)) as store:
        (group,) = shared_components(store)
        assert (group.component, group.models, group.known) == (
            "vae",
            ("mine", "known"),
            ("known",),
        )
        with pytest.raises(NoAnswerError) as caught:
            pair_findings(store, [("mine", "known")])
        assert "--groups" in caught.value.remedy


def test_a_file_holds_all_of_a_fingerprint_and_nothing_of_its_owner(
    ingested: Store, tmp_path: Path
) -> None:
    file = tmp_path / "all.parquet"
    export_fingerprints(ingested, file)
    content = file.read_bytes()
    assert b"safetensors" not in content
    with Store(tmp_path / "copy.duckdb", "write") as copy:
        import_fingerprints(copy, file)
        of_tensors = "select * exclude (id) from tensor order by content_hash"
        of_models = "select * exclude (content_hash) from layers order by all"
        for query in (of_tensors, of_models):
            theirs = copy.connection.execute(query).df()
            assert theirs.equals(ingested.connection.execute(query).df())
        export_fingerprints(copy, tmp_path / "again.parquet")
        assert (tmp_path / "again.parquet").read_bytes() == content


def test_a_name_that_another_model_has(ingested: Store, tmp_path: Path) -> None:
    file = tmp_path / "known.parquet"
    export_fingerprints(ingested, file, models=["vae", "base"], names={"vae": "stranger"})
    result = import_fingerprints(ingested, file)
    assert [error.message for error in result.failed] == [
        f"{file}: another model of the store is named 'stranger'"
    ]
    assert len(result.left_out) == 1


def test_what_cannot_be_exported(ingested: Store, tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    with pytest.raises(UsageError, match="no such component"):
        export_fingerprints(ingested, file, component="lungs")
    with pytest.raises(UsageError, match="same name"):
        export_fingerprints(ingested, file, names={"base": "half"})
    with pytest.raises(NoAnswerError, match="vae has fingerprints"):
        export_fingerprints(ingested, file, models=["vae"], component="unet")
    with pytest.raises(FileNotFoundError, match=r"nowhere.f\.parquet"):
        export_fingerprints(ingested, tmp_path / "nowhere" / "f.parquet")
    assert not file.exists()


VERSIONS = "megasim_fingerprints: '2', fingerprint_version: '3', sketch_size: '256'"
ALTERED = {
    "an unknown dtype": "dtype = 'float128'",
    "a shape that its number of elements": "numel = 7",
    "counts that cannot be": "zeros = -1",
    "hashes that cannot be": "content_hash = 'no hash'",
    "a sketch that cannot be": "sketch = [1.0, 'nan'::float]",
    "norms that cannot be": "l2 = 'inf'::double",
    "names that are missing": "canonical_key = repeat('k', 5000)",
    "a key that stands twice": "canonical_key = 'k'",
    "a representation that cannot be": "representation = chr(27) || '[2J'",
    "two different entries": "value_hash = repeat('0', 32)",
}


def altered(source: Path, target: Path, change: str, versions: str | None = None) -> Path:
    """Write a fingerprint file over with something in it changed."""
    connection = duckdb.connect()
    connection.execute(f"create table t as from '{source}'")
    if change:
        connection.execute(f"update t set {change}")
    said = versions or VERSIONS
    connection.execute(f"copy t to '{target}' (format parquet, kv_metadata {{{said}}})")
    return target


@pytest.mark.parametrize("fault", ALTERED)
def test_a_file_that_says_what_cannot_be_is_refused(
    ingested: Store, tmp_path: Path, fault: str
) -> None:
    export_fingerprints(ingested, tmp_path / "good.parquet", models=["vae"])
    bad = altered(tmp_path / "good.parquet", tmp_path / "bad.parquet", ALTERED[fault])
    before = ingested.rows("finding_pairs"), len(ingested.models())
    with pytest.raises(CheckpointError, match=fault) as caught:
        import_fingerprints(ingested, bad)
    assert caught.value.remedy
    assert (ingested.rows("finding_pairs"), len(ingested.models())) == before


@pytest.mark.parametrize(
    ("versions", "problem"),
    [
        ("other: '1'", "not one of fingerprints"),
        ("megasim_fingerprints: '99'", "version 99"),
        ("megasim_fingerprints: '1', fingerprint_version: '0'", "of version 0"),
        (
            "megasim_fingerprints: '1', fingerprint_version: '3', sketch_size: '-5'",
            "sketch size cannot be",
        ),
        (
            "megasim_fingerprints: '1', fingerprint_version: '3', sketch_size: '64'",
            "have 64 numbers",
        ),
    ],
)
def test_a_file_of_another_kind_or_version(
    ingested: Store, tmp_path: Path, versions: str, problem: str
) -> None:
    export_fingerprints(ingested, tmp_path / "good.parquet", models=["vae"])
    bad = altered(tmp_path / "good.parquet", tmp_path / "bad.parquet", "", versions)
    with pytest.raises(CheckpointError, match=problem):
        import_fingerprints(ingested, bad)


def test_codes_travel_as_codes_and_files_of_version_1_leave_it_open(tmp_path: Path) -> None:
    weight = random_model(1, keys=1, shape=(32, 48))["block.0.weight"]
    coded = {
        "block.0.weight": (weight / 0.01).to(torch.float8_e4m3fn),
        "block.0.weight_scale": torch.tensor(0.01),
    }
    new, old = tmp_path / "new.parquet", tmp_path / "old.parquet"
    with open_store(tmp_path / "s.duckdb") as store:
        store.ingest(write_model(tmp_path / "coded.safetensors", coded))
        (said,) = store.sql("select distinct representation from layers")["representation"]
        assert said not in (None, "plain")
        store.export_fingerprints(new)
    of_version_1 = VERSIONS.replace("prints: '2'", "prints: '1'")
    duckdb.execute(
        f"copy (select * exclude (representation) from '{new}') to '{old}' "
        f"(format parquet, kv_metadata {{{of_version_1}}})"
    )
    for file, expected in ((new, said), (old, None)):
        with open_store(tmp_path / f"{file.stem}.duckdb") as store:
            assert store.import_path(file).models == ["coded"]
            assert store.store.connection.execute(
                "select distinct representation from layers"
            ).fetchall() == [(expected,)]


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_a_file_that_is_not_parquet(ingested: Store, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "not.parquet"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        import_fingerprints(ingested, path)
    with pytest.raises(CheckpointError, match="no such file"):
        import_fingerprints(ingested, tmp_path / "missing.parquet")


def test_a_file_without_a_column(ingested: Store, tmp_path: Path) -> None:
    export_fingerprints(ingested, tmp_path / "good.parquet", models=["vae"])
    connection = duckdb.connect()
    connection.execute(
        f"copy (select * exclude (sketch) from '{tmp_path / 'good.parquet'}') "
        f"to '{tmp_path / 'bad.parquet'}' (format parquet, kv_metadata {{{VERSIONS}}})"
    )
    with pytest.raises(CheckpointError, match="the column sketch"):
        import_fingerprints(ingested, tmp_path / "bad.parquet")


def test_what_never_was_trained_is_not_shared(tmp_path: Path) -> None:
    """A component of nothing but constants is no evidence."""
    ones = {"norm.weight": torch.ones(128), "layers.0.weight": torch.randn(16, 16)}
    twos = ones | {"layers.0.weight": torch.randn(16, 16)}
    paths = [write_model(tmp_path / f"{n}.safetensors", m) for n, m in (("a", ones), ("b", twos))]
    with open_store(tmp_path / "s.duckdb") as workspace:
        workspace.ingest(*paths)
        assert shared_components(workspace.store) == []
