"""Each damage done by hand is found by its check and repaired; sound stores are found sound."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
import torch

from megasim import cli, open_store
from megasim.doctor.checks import CHECKS, find_faults
from megasim.doctor.diagnosis import Diagnosis, examine
from megasim.store.rows import Store
from tests.doctor.damages import DAMAGES
from tests.doctor.sound_stores import STORES, of_estimates, of_published_pairs, of_samples
from tests.models import nudged, random_model, write_model


def diagnosed(path: Path, *, files: bool = False, mend: bool = False) -> Diagnosis:
    mode = "update" if mend else "read"
    with Store(path, mode, all_rows=True) as store, ThreadPoolExecutor(1) as executor:  # type: ignore[arg-type]
        return examine(store, executor=executor, files=files, mend=mend)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of four models: one with renamed keys, one rounded, one with a NaN; all metrics."""
    folder = tmp_path_factory.mktemp("sound")
    base = random_model(0, keys=6, shape=(64, 64))
    base["small"] = torch.tensor([1.0, 2.0, -3.0])
    other = nudged(base, 2)
    models = {
        "a": base,
        "b": nudged(base, 1),
        "c": {
            f"outer.{key}": value
            for key, value in {**other, "block.0.weight": base["block.0.weight"]}.items()
        },
        "d": {key: value.half() for key, value in base.items()},
    }
    models["d"]["block.5.weight"][0, 0] = float("nan")
    for name, model in models.items():
        write_model(folder / "models" / f"{name}.safetensors", model)
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder / "models")
        store.compare(metrics=("linf", "cossim"))
        assert store.sql("select count(*) as n from renamed_key")["n"].item() > 0
    return folder / "s.duckdb"


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(sound.read_bytes())
    return copy


def answers(path: Path) -> dict[str, list[tuple]]:
    """Return what the views say, but for when it was read, and the last digits of cossim."""
    with open_store(path, "read") as store:
        asked = {
            view: store.store.connection.execute(
                f"select columns(lambda c: c <> 'ingested_at') from {view} order by all"
            ).fetchall()
            for view in ("models", "layers", "layer_distances", "component_distances")
        }
    return {
        view: [tuple(f"{x:.12g}" if isinstance(x, float) else x for x in row) for row in rows]
        for view, rows in asked.items()
    }


def test_a_sound_store_has_no_fault(path: Path) -> None:
    before = path.read_bytes()
    found = diagnosed(path, files=True)
    assert (found.faults, found.files, found.notes, found.is_sound) == ((), (), (), True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found(path: Path, damage: str) -> None:
    check, statement = DAMAGES[damage]
    with duckdb.connect(str(path)) as con:
        con.execute(statement)
    found = diagnosed(path)
    assert check in {fault.check for fault in found.faults}
    assert not found.is_sound


# of each check one damage: (check, SQL)
ONE_OF_EACH = dict(reversed(DAMAGES.values()))


@pytest.mark.parametrize("check", ONE_OF_EACH)
def test_repair_ingest_and_compare_give_back_what_was_there(
    path: Path, sound: Path, check: str
) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute(ONE_OF_EACH[check])
    repaired = diagnosed(path, mend=True)
    assert repaired.is_sound, [fault.found for fault in repaired.remaining]
    with open_store(path, "update") as store:
        store.ingest(sound.parent / "models")
        store.compare(metrics=("linf", "cossim"))
    healed, truth = answers(path), answers(sound)
    if check in ("models_of_no_file", "rows_of_no_model"):  # read as a new model, after the others
        assert healed["layers"] == truth["layers"]
    else:
        assert healed == truth


def test_every_check_has_a_damage() -> None:
    by_hand = {check for check, _ in DAMAGES.values()}
    others = {
        "imported_sums_that_do_not_follow",
        "imported_that_cannot_be",
        "estimates_that_do_not_follow",
        "samples_that_cannot_be",
        "sampled_sums_that_do_not_follow",
    }
    assert by_hand | others == set(CHECKS)
    assert len(DAMAGES) >= 40
    assert len(STORES) >= 20


def test_files_are_held_against_the_store(path: Path, sound: Path) -> None:
    # the digest follows the altered hash, as a forger or another program would have it
    with duckdb.connect(str(path)) as con:
        con.execute(
            "update tensor set value_hash = reverse(value_hash), digest = null "
            "where id = (select min(id) from tensor where dtype = 'float32')"
        )
    assert diagnosed(path).is_sound
    found = diagnosed(path, files=True)
    assert not found.is_sound
    assert found.files is not None
    assert "other hashes of 1 keys" in found.files[0].problem
    assert diagnosed(path, files=True, mend=True).is_sound
    with open_store(path, "update") as store:
        assert store.ingest(sound.parent / "models").replaced
        store.compare(metrics=("linf", "cossim"))
    assert diagnosed(path, files=True).is_sound
    assert answers(path) == answers(sound)


def test_a_file_that_went_or_changed_is_told_and_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        write_model(tmp_path / f"{name}.safetensors", random_model(ord(name)))
    db = str(tmp_path / "s.duckdb")
    assert cli.run(["--db", db, "ingest", str(tmp_path)]) == 0
    (tmp_path / "a.safetensors").unlink()
    write_model(tmp_path / "b.safetensors", random_model(9))
    os.truncate(tmp_path / "c.safetensors", 100)
    capsys.readouterr()
    assert cli.run(["--db", db, "doctor", "--files"]) == 0
    told = capsys.readouterr()
    assert "a: its file is gone" in told.err
    assert "b: its file changed since" in told.err
    assert "c: its file cannot be read" in told.err


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
def test_sound_stores_are_found_sound(
    make: Callable[[Path, Path], None], tmp_path: Path, shared: Path
) -> None:
    make(tmp_path, shared)
    found = diagnosed(tmp_path / "s.duckdb", files=True)
    assert [fault.found[:3] for fault in found.faults] == []
    assert found.files == ()
    repaired = diagnosed(tmp_path / "s.duckdb", mend=True)
    assert repaired.is_sound


def test_damaged_estimates_and_published_sums_are_found(tmp_path: Path, shared: Path) -> None:
    for make, check, statement in (
        (of_estimates, "estimates_that_do_not_follow", "l2 = l2 * 1.01"),
        (of_published_pairs, "imported_sums_that_do_not_follow", "l2 = l2 * 1.01"),
    ):
        folder = tmp_path / check
        folder.mkdir()
        make(folder, shared)
        path = folder / "s.duckdb"
        with duckdb.connect(str(path)) as con:
            con.execute(
                f"update component_distance set {statement} where source <> 'exact' "
                "and keys_compared > 0"
            )
        assert {fault.check for fault in diagnosed(path).faults} == {check}
        assert diagnosed(path, mend=True).is_sound
    with duckdb.connect(str(path)) as con:
        con.execute("update imported_layer set l2 = -1 where rowid = 0")
    found = diagnosed(path, mend=True)
    assert {fault.check for fault in found.remaining} == {"imported_that_cannot_be"}


def test_damaged_samples_are_found_and_healed(tmp_path: Path, shared: Path) -> None:
    of_samples(tmp_path, shared)
    sound = tmp_path / "s.duckdb"
    truth = answers(sound)
    changed = "where status = 'changed'"
    for number, (check, statement) in enumerate(
        (
            ("samples_that_cannot_be", f"update sampled_distance set l0 = 0 {changed}"),
            ("samples_that_cannot_be", "delete from sampled_distance where rowid = 0"),
            ("samples_that_cannot_be", "insert into sampled_distance from sampled_distance"),
            (
                "sampled_sums_that_do_not_follow",
                "update component_distance set l2 = l2 * 1.001 where l2 > 0 and l2_error > 0",
            ),
            (
                "sampled_sums_that_do_not_follow",
                "delete from component_distance where same_in_sample > 0",
            ),
        )
    ):
        path = tmp_path / f"{number}.duckdb"
        path.write_bytes(sound.read_bytes())
        with duckdb.connect(str(path)) as con:
            con.execute(statement)
        assert check in {fault.check for fault in diagnosed(path).faults}, statement
        assert diagnosed(path, mend=True).is_sound, statement
        with open_store(path, "update") as store:
            store.compare()
        assert answers(path) == truth, statement


def test_exit_codes_and_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = ["--db", str(path)]
    assert cli.run([*db, "doctor"]) == 0
    assert capsys.readouterr().out == f"sound: {len(CHECKS)} checks found nothing\n"
    with duckdb.connect(str(path)) as con:
        con.execute("delete from tensor_distance")
    assert cli.run([*db, "doctor"]) == 5
    out = capsys.readouterr().out
    assert "done_without_distances" in out
    assert cli.run([*db, "doctor", "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["is_sound"], told["repaired"]) == (False, False)
    assert "done_without_distances" in [fault["check"] for fault in told["faults"]]
    assert cli.run([*db, "doctor", "--repair"]) == 0
    told = capsys.readouterr()
    assert "`megasim compare`" in told.out + told.err
    assert cli.run([*db, "doctor"]) == 0
    assert cli.run([*db, "compare"]) == 0


def test_repairing_can_be_interrupted_and_repeated(path: Path) -> None:
    with duckdb.connect(str(path)) as con:
        con.execute("delete from tensor_distance where rowid % 2 = 0")
        con.execute("update component_distance set l2 = l2 * 2")
    with Store(path, "update", all_rows=True) as store:
        faults = find_faults(store)
    assert len(faults) >= 2
    assert diagnosed(path, mend=True).is_sound
    assert diagnosed(path, mend=True).faults == ()
