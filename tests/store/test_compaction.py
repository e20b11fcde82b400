"""A store written anew holds what the old one held, whenever it is stopped; forgetting is whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from megasim import cli, open_store
from megasim.errors import MegasimError, StoreTooOldError
from megasim.resources import resource_path
from megasim.store.compaction import COPIED_BY
from megasim.store.connection import connect, migrations
from megasim.store.statements import named_statements
from megasim.workspace.jobs import compact
from tests.models import nudged, random_model, write_model


def rows_of(path: Path) -> dict[str, list[tuple]]:
    """Return every row of every table, in the tables' order."""
    with duckdb.connect(str(path), read_only=True) as con:
        names = con.execute(
            "select table_name from duckdb_tables() where not internal order by 1"
        ).fetchall()
        return {name: con.execute(f'from "{name}"').fetchall() for (name,) in names}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of six models, one with a content of its own that is large."""
    folder = tmp_path_factory.mktemp("compared")
    base = random_model(0, keys=6, shape=(64, 64))
    for i in range(6):
        write_model(folder / f"m{i}.safetensors", nudged(base, i, f"block.{i}.weight"))
    with open_store(folder / "s.duckdb") as store:
        store.ingest(folder)
        store.compare(metrics=("linf", "cossim"))
    return folder / "s.duckdb"


@pytest.fixture
def path(compared: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "s.duckdb"
    copy.write_bytes(compared.read_bytes())
    return copy


def test_every_table_is_copied() -> None:
    con = duckdb.connect()
    con.execute(resource_path("sql", "schema.sql").read_text(encoding="utf-8"))
    tables = {name for (name,) in con.execute("select table_name from duckdb_tables()").fetchall()}
    assert set(COPIED_BY) == tables - {"schema_version", "view_text"}
    copies = {name for name in named_statements("compaction.sql") if name.startswith("copy_")}
    assert copies == set(COPIED_BY.values())


def test_a_compacted_store_holds_the_same(path: Path) -> None:
    before = rows_of(path)
    path.chmod(0o640)
    done = compact(path)
    assert rows_of(path) == before
    assert (done.rows_dropped, done.bytes_after) == (0, path.stat().st_size)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["s.duckdb"]
    with open_store(path) as store:  # and it is a store to write to
        assert store.compare().pairs_known == 15


def test_forgetting_and_compacting_give_the_space_back(path: Path) -> None:
    with open_store(path) as store:
        names = list(store.store.model_ids())
        half = store.bytes_held_alone(*names[:5])
        assert half == store.forget(*names[:5])
        assert store.store.rows("pairs") == []
        held = store.sql("select tensor_id from model_tensor")["tensor_id"]
        assert sorted(store.sql("select id from tensor")["id"]) == sorted(held)
        assert store.sql("select count(*) as n from tensor_distance")["n"].item() == 0
    done = compact(path)
    assert done.bytes_after < done.bytes_before
    with open_store(path) as store:
        store.forget(names[5])
    empty = path.with_name("empty.duckdb")
    connect(empty, "write").close()
    assert compact(path).bytes_after <= compact(empty).bytes_after


def test_what_no_model_holds_is_left_behind(path: Path) -> None:
    with connect(path, "update") as con:
        con.execute("delete from model_tensor where model_id = 1")
        con.execute("delete from model where id = 1")
    done = compact(path)
    assert done.rows_dropped > 0
    rows = rows_of(path)
    held = {row[1] for row in rows["model_tensor"]}
    assert {row[0] for row in rows["tensor"]} == held
    for table in ("tensor_distance", "tensor_linf", "tensor_cossim"):
        assert all({row[0], row[1]} <= held for row in rows[table])
    assert all(1 not in row[:2] for row in rows["model_pair"] + rows["component_distance"])


def test_a_table_of_somebody_else_is_not_lost(path: Path) -> None:
    with connect(path, "update") as con:
        con.execute("create table notes as select 1 as mine; create view mine as from notes")
    before = rows_of(path)
    with pytest.raises(MegasimError, match="table notes, view mine"):
        compact(path)
    assert rows_of(path) == before


def test_a_link_stays_a_link(path: Path) -> None:
    link = path.with_name("link.duckdb")
    link.symlink_to(path)
    compact(link)
    assert link.is_symlink()
    assert not path.is_symlink()


STOP_AT = """if True:
    import os, pathlib, sys
    from megasim.store import compaction
    from megasim.workspace.jobs import compact
    wanted, calls = int(sys.argv[2]), 0
    def counted(function):
        def stop(*arguments):
            global calls
            calls += 1
            if calls == wanted:
                os.kill(os.getpid(), 9)
            return function(*arguments)
        return stop
    compaction.statement = counted(compaction.statement)
    compaction._make_durable = counted(compaction._make_durable)
    pathlib.Path.replace = counted(pathlib.Path.replace)
    compact(sys.argv[1])
    print(calls)
"""


def test_killed_anywhere_the_store_is_whole(path: Path) -> None:
    before = rows_of(path)

    def run(stop_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", STOP_AT, str(path), str(stop_at)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for stop_at in stops(int(run(0).stdout)):
        assert run(stop_at).returncode == -9, stop_at
        assert rows_of(path) == before, stop_at
    compact(path)
    assert rows_of(path) == before
    assert [p.name for p in path.parent.iterdir()] == ["s.duckdb"]


def stops(last: int) -> Iterator[int]:
    """The first, one in the midst of the copying, and the last ones: the file takes its name."""
    yield from (1, last // 2, *range(last - 4, last + 1))


def test_forgetting_several_is_one_change(path: Path) -> None:
    die = """if True:
        import os, sys
        from megasim import cli
        from megasim.store.rows import Store
        write = Store.write
        def stop(self, name, **given):
            if name == "remove_models":
                os.kill(os.getpid(), 9)
            write(self, name, **given)
        Store.write = stop
        sys.exit(cli.run(["--db", sys.argv[1], "forget", "m0", "m1", "m2"]))
    """
    before = rows_of(path)
    command = [sys.executable, "-c", die, str(path)]
    assert subprocess.run(command, check=False).returncode == -9
    assert rows_of(path) == before
    assert cli.run(["--db", str(path), "forget", "m0", "m1", "m2"]) == 0
    with open_store(path, "read") as store:
        assert list(store.models()["name"]) == ["m3", "m4", "m5"]


def test_forgetting_says_what_it_frees(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--db", str(path), "forget", "--dry-run", "m0"]) == 0
    out, err = capsys.readouterr()
    assert (out, "would be free, and `megasim compact`" in err) == ("would forget m0\n", True)
    assert cli.run(["--db", str(path), "forget", "m0"]) == 0
    out, err = capsys.readouterr()
    assert (out, "`megasim compact` gives it back" in err) == ("forgot m0\n", True)
    assert cli.run(["--db", str(path), "compact"]) == 0
    assert " before, " in capsys.readouterr().out


def test_a_store_that_was_killed_before_its_views_opens(path: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.duckdb"
    die = """if True:
        import os, pathlib, sys
        from megasim.store import connection
        connection._make_views = lambda *_: os.kill(os.getpid(), 9)
        path, unlimited = pathlib.Path(sys.argv[1]), {"memory": None, "threads": None}
        if sys.argv[2] == "as it was":  # when stores were made under their own name
            connection._migrate(connection._open(path, read_only=False, **unlimited), 0)
        connection.connect(path, "write")
    """
    run = [sys.executable, "-c", die, str(new)]
    assert subprocess.run([*run, "as it is"], check=False).returncode == -9
    assert not new.exists()
    assert subprocess.run([*run, "as it was"], check=False).returncode == -9
    with open_store(new, "read") as store:
        assert store.models().empty
    # older views are made anew for who reads, and the store stays as it is
    with connect(path, "update") as con:
        con.execute("create or replace view models as select 1 as old")
        con.execute("update view_text set text = 'old'")
    before = path.read_bytes()
    with open_store(path, "read") as store:
        assert list(store.models()["name"]) == [f"m{i}" for i in range(6)]
        assert len(store.sql("from layer_distances")) == 90
        assert "name" in list(store.sql("describe models")["column_name"])
    assert path.read_bytes() == before


def test_reading_an_older_store_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.duckdb"
    number, name, sql = migrations()[0]
    with duckdb.connect(str(path)) as con:
        con.execute(sql)
        con.execute("insert into schema_version values ($1, $2)", [number, name])
        con.execute("insert into model (id, name, source) values (1, 'a', 'imported')")
    before = path.read_bytes()
    with pytest.raises(StoreTooOldError, match="schema 1"):
        open_store(path, "read")
    assert path.read_bytes() == before
    open_store(path, "update").close()
    with open_store(path, "read") as store:
        assert list(store.models()["name"]) == ["a"]
