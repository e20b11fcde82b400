"""Opening, migrating and refusing stores, with real files and real processes."""

from __future__ import annotations

import gc
import re
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import duckdb
import pytest

import megasim
from megasim.errors import (
    MegasimError,
    NoAnswerError,
    NotAStoreError,
    StoreLockedError,
    StoreTooNewError,
    StoreTooOldError,
)
from megasim.resources import resource_path
from megasim.store import connection as database
from megasim.store.connection import connect, migrations
from megasim.store.rows import Store
from megasim.store.statements import named_statements, purpose_of, statement


def structure(con: duckdb.DuckDBPyConnection) -> list[tuple]:
    return con.execute(
        "select table_name, column_name, data_type, is_nullable from duckdb_columns() "
        "where schema_name = 'main' and not internal order by all"
    ).fetchall()


def test_all_migrations_from_empty_equal_the_schema() -> None:
    by_migrations, by_schema = duckdb.connect(), duckdb.connect()
    for _, _, sql in migrations():
        by_migrations.execute(sql)
    by_schema.execute(resource_path("sql", "schema.sql").read_text())
    assert structure(by_migrations) == structure(by_schema)
    assert len(structure(by_schema)) > 50


def test_every_migration_has_a_number_of_its_own() -> None:
    numbers = [number for number, _, _ in migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_statement_says_its_purpose() -> None:
    folder = resource_path("sql", "queries.sql").parent
    for path in folder.glob("*.sql"):
        for name, sql in named_statements(path.name).items():
            assert len(purpose_of(sql)) > 10, f"{path.name}: {name}"


def test_names_are_unique_over_all_files() -> None:
    folder = resource_path("sql", "queries.sql").parent
    names = [n for p in folder.glob("*.sql") for n in named_statements(p.name)]
    assert len(names) == len(set(names))


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    connect(tmp_path / "s.duckdb", "write").close()
    broken = [*migrations(), (99, "broken", "create table half (a integer); select nonsense;")]
    monkeypatch.setattr(database, "migrations", lambda: broken)
    with pytest.raises(duckdb.Error):
        connect(tmp_path / "s.duckdb", "write")
    monkeypatch.undo()
    con = connect(tmp_path / "s.duckdb", "write")
    assert "half" not in {row[0] for row in structure(con)}


def test_a_newer_store_is_refused(tmp_path: Path) -> None:
    con = connect(tmp_path / "s.duckdb", "write")
    con.execute("insert into schema_version values (1000, 'from the future')")
    con.close()
    for mode in ("read", "write"):
        with pytest.raises(StoreTooNewError, match="schema 1000"):
            connect(tmp_path / "s.duckdb", mode)


def test_an_older_store_is_not_changed_by_reading(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s.duckdb"
    connect(path, "write").close()
    newest = migrations()[-1][0] + 1
    grown = [*migrations(), (newest, "add_notes", "create table notes (a integer);")]
    monkeypatch.setattr(database, "migrations", lambda: grown)
    before = path.read_bytes()
    with pytest.raises(StoreTooOldError, match=rf"schema {newest - 1}.*\n.*megasim migrate"):
        connect(path, "read")
    assert path.read_bytes() == before
    assert database.migrate_store(path) == ["add_notes"]
    assert database.migrate_store(path) == []
    assert "notes" in {row[0] for row in structure(connect(path, "read"))}


def test_what_changes_the_store_goes_through_write() -> None:
    """In the code: `rows`, `arrays` and `frame` name no statement that writes."""
    called = re.compile(r"\.(rows|arrays|frame|write)\(\s*f?\"(\w+)")
    writes = re.compile(r"^(insert|update|delete|drop|create|merge)\b", re.IGNORECASE)
    found = set()
    for path in sorted(Path(megasim.__file__).parent.rglob("*.py")):
        for method, name in called.findall(path.read_text(encoding="utf-8")):
            try:
                lines = statement(name).splitlines()
            except KeyError:
                continue  # the beginning of several names
            sql = "\n".join(line for line in lines if not line.startswith("--")).strip()
            if writes.match(sql):
                assert method == "write", f"{path.name}: {name}"
                found.add(name)
    assert len(found) > 20


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database\n" * 1000)
    other = tmp_path / "other.duckdb"
    duckdb.connect(str(other)).execute("create table mine (a integer)").close()
    for path in (text, other):
        before = path.read_bytes()
        for mode in ("read", "write"):
            with pytest.raises(NotAStoreError):
                connect(path, mode)
        assert path.read_bytes() == before


def test_reading_a_store_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NoAnswerError, match="megasim ingest"):
        connect(tmp_path / "none.duckdb")
    assert not (tmp_path / "none.duckdb").exists()


def test_a_store_is_made_only_to_write(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    with pytest.raises(NoAnswerError, match="megasim ingest"):
        connect(path, "update")
    assert not path.exists()
    connect(path, "write").close()
    connect(path, "update").execute("insert into view_text values ('x')").close()
    with pytest.raises(MegasimError, match="cannot be opened: No such file or directory"):
        connect(tmp_path / "nowhere" / "s.duckdb", "write")


def test_a_locked_store_gives_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "s.duckdb"
    hold = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match=f"process {holder.pid}"):
            connect(path, "read")
        holder.stdin.write("\n")
        holder.stdin.close()
    connect(path, "write").close()


def test_a_store_in_a_folder_called_lock_is_not_taken_for_locked(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "WAL").write_text("not a database\n" * 1000)
    with pytest.raises(NotAStoreError):
        connect(tmp_path / "lock" / "WAL")


def test_a_damaged_wal_is_named_and_can_be_moved_away(tmp_path: Path) -> None:
    path, wal = tmp_path / "s.duckdb", tmp_path / "s.duckdb.wal"
    connect(path, "write").close()
    die = """if True:
        import os, pathlib, sys
        from megasim.store.connection import connect
        con = connect(pathlib.Path(sys.argv[1]), "update")
        con.execute("create table late as select range as i from range(1000)")
        os._exit(0)  # before the changes have got into the store
    """
    subprocess.run([sys.executable, "-c", die, str(path)], check=True)
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wal.write_bytes(data)
    modes: list[database.Mode] = ["read", "update"]
    for mode in modes:
        with pytest.raises(MegasimError, match=r"cannot be opened: .*s\.duckdb\.wal") as caught:
            connect(path, mode)
        assert "move the .wal file" in caught.value.remedy
    wal.rename(tmp_path / "away")
    assert "late" not in {row[0] for row in structure(connect(path, "update"))}


def test_the_database_draws_no_progress_bar(tmp_path: Path) -> None:
    ask = """if True:
        import pathlib, sys
        from megasim.store.connection import connect
        con = connect(pathlib.Path(sys.argv[1]), "write")
        print(con.execute("select current_setting('enable_progress_bar')").fetchall())
    """  # by default it does so under python -c
    command = [sys.executable, "-c", ask, str(tmp_path / "s.duckdb")]
    assert subprocess.check_output(command, text=True) == "[(False,)]\n"


def test_an_interrupted_first_run_is_taken_up(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / "s.duckdb")).close()
    with pytest.raises(NoAnswerError, match="is empty"):
        connect(tmp_path / "s.duckdb", "read")
    connect(tmp_path / "s.duckdb", "write").close()
    connect(tmp_path / "s.duckdb", "read").close()


def test_a_store_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """Killed at each step of its making: the same command makes it."""
    steps = """if True:
        import os, sys
        import duckdb
        from megasim.store import connection
        wanted, calls = int(sys.argv[2]), 0
        def counted(function):
            def stop(*given, **named):
                global calls
                calls += 1
                if calls == wanted:
                    os.kill(os.getpid(), 9)
                return function(*given, **named)
            return stop
        connection._migrate = counted(connection._migrate)
        connection.migrations = counted(connection.migrations)
        os.link = counted(os.link)
        connection.Path.unlink = counted(connection.Path.unlink)
        connection.connect(connection.Path(sys.argv[1]), "write").close()
    """
    path = tmp_path / "s.duckdb"
    killed = 0
    for step in range(1, 100):
        run = [sys.executable, "-c", steps, str(path), str(step)]
        done = subprocess.run(run, capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        connect(path, "write").close()
        path.unlink()
    assert killed > 3
    assert path.exists()


def test_two_that_make_one_store_at_once_share_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "s.duckdb"
    migrate = database._migrate

    def meanwhile(con, version):
        if not path.exists():
            with duckdb.connect(str(path)) as other:  # another process was faster
                migrate(other, 0)
                other.execute("insert into model (id, name, source) values (1, 'a', 'imported')")
        migrate(con, version)

    monkeypatch.setattr(database, "_migrate", meanwhile)
    with connect(path, "write") as con:
        assert con.execute("select name from model").fetchall() == [("a",)]
    assert [p.name for p in tmp_path.iterdir()] == ["s.duckdb"]


def test_views_follow_the_code(tmp_path: Path) -> None:
    con = connect(tmp_path / "s.duckdb", "write")
    con.execute("create or replace view models as select 1 as old")
    con.execute("update view_text set text = 'old'")
    con.close()
    con = connect(tmp_path / "s.duckdb", "write")
    assert "family" in [row[0] for row in con.execute("describe models").fetchall()]


def test_a_transaction_does_not_hold_the_tables_of_its_statements(tmp_path: Path) -> None:
    """DuckDB keeps what was registered until the transaction ends; what it holds must go before."""

    class Text(str):
        __slots__ = ("__weakref__",)

    with megasim.open_store(tmp_path / "s.duckdb") as workspace, workspace.store.transaction():
        texts = [Text("a" * 64), Text("b" * 64)]
        held = [weakref.ref(text) for text in texts]
        batch = {"content_hash": texts, "version": [4, 4]}
        assert workspace.store.rows("known_tensors", tables={"batch": batch}) == []
        del texts, batch
        gc.collect()
        assert [one() for one in held] == [None, None]


def test_what_the_database_keeps_in_memory_is_capped_for_a_block(tmp_path: Path) -> None:
    def limit(store: Store) -> str:
        return str(store.connection.sql("select current_setting('memory_limit')").fetchall()[0][0])

    with Store(tmp_path / "a.duckdb", "write") as store:
        before = limit(store)
        with store.capped(300 << 20):
            assert limit(store) == "300.0 MiB"
        assert limit(store) == before
    with Store(tmp_path / "a.duckdb", memory=200 << 20) as store, store.capped(300 << 20):
        assert limit(store) == "200.0 MiB"
