"""A Dask cluster gives what threads give, whatever becomes of its workers and its scheduler."""

from __future__ import annotations

import os
import pickle
import site
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

import megasim
import megasim.compare.plan
import megasim.ingest.reading
from megasim.compare.runs import run_pair_piece
from megasim.errors import LostWorkError, MegasimError, MissingExtraError, UsageError
from megasim.workspace.executors import ClusterExecutor, cluster_executor
from tests.compare.test_executors import models, results
from tests.models import random_model, write_model
from tests.read_counts import count_reads

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
__all__ = ["models"]  # a fixture


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterExecutor]:
    with cluster_executor("local:2") as executor:
        yield executor


@pytest.fixture(scope="module")
def expected(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return results(tmp_path_factory.mktemp("one"), models, workers=1)


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key and each tensor a piece of its own."""
    monkeypatch.setattr(megasim.compare.plan, "_PIECE_ELEMENTS", 1)
    monkeypatch.setattr(megasim.ingest.reading, "PIECE_BYTES", 1)


class Watched(Executor):
    """Passes pieces on to a cluster, notes them, and does something before one of them."""

    def __init__(self, inner: Executor, before: int = -1, act: Any = None) -> None:
        self.inner, self.before, self.act = inner, before, act
        self.sent: list[tuple[Any, ...]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.sent.append((fn, *args))
        if len(self.sent) == self.before:
            self.act()
        return self.inner.submit(fn, *args, **kwargs)


def test_a_cluster_changes_nothing(
    tmp_path: Path,
    models: Path,
    expected: dict[str, bytes],
    cluster: ClusterExecutor,
    many_pieces: None,
) -> None:
    watched = Watched(cluster)
    assert results(tmp_path, models, executor=watched) == expected
    assert len(watched.sent) > 20
    # only descriptions travel
    assert max(len(pickle.dumps(work)) for work in watched.sent) < 10_000
    # each content once for its key, however many workers there are
    refs = [
        r
        for fn, *given in watched.sent
        if fn is run_pair_piece
        for position in given[0].positions
        for r in position.refs
    ]
    assert len(refs) == len({(r.path, r.offset, r.key) for r in refs})


def test_four_workers_give_the_same_and_read_each_byte_once(
    tmp_path: Path, models: Path, expected: dict[str, bytes], many_pieces: None
) -> None:
    for name in ("few", "many"):
        (tmp_path / name).mkdir()
    for seed in range(3):
        model = random_model(seed, keys=12, shape=(256, 300))
        write_model(tmp_path / "models" / f"{seed}.safetensors", model)
    files = sorted((tmp_path / "models").iterdir())
    with cluster_executor("local:4") as executor:
        # where megasim is installed, the folder of the tests is not on the path of the workers
        executor._client.run(site.addsitedir, str(Path(__file__).parents[2]))
        executor._client.run(count_reads)
        assert results(tmp_path / "few", models, executor=executor) == expected
        before = sum(executor._client.run(count_reads).values())
        with megasim.open_store(tmp_path / "many" / "s.duckdb") as store:
            store.ingest(*files, executor=executor)
            ingested = sum(executor._client.run(count_reads).values()) - before
            compared = store.compare(executor=executor)
            read = sum(executor._client.run(count_reads).values()) - before - ingested
    total = sum(path.stat().st_size for path in files)
    # of all workers together; headers are read here
    assert 0.98 * total <= ingested <= 1.02 * total
    assert 0.98 * total <= read <= 1.02 * total
    assert read == compared.bytes_read


def test_a_dead_worker_takes_nothing_along(
    tmp_path: Path,
    models: Path,
    expected: dict[str, bytes],
    cluster: ClusterExecutor,
    many_pieces: None,
) -> None:
    def kill_one() -> None:
        pids = cluster._client.run(os.getpid)
        os.kill(next(iter(pids.values())), 9)

    for before in (3, 25):  # while files are read, and while they are compared
        folder = tmp_path / str(before)
        folder.mkdir()
        watched = Watched(cluster, before, kill_one)
        assert results(folder, models, executor=watched) == expected
        assert len(watched.sent) > 25


def test_a_piece_that_ends_three_workers_is_set_aside(cluster: ClusterExecutor) -> None:
    deadly = cluster.submit(os._exit, 1)
    others = [cluster.submit(pow, 2, i) for i in range(20)]
    assert [other.result() for other in others] == [2**i for i in range(20)]
    with pytest.raises(LostWorkError, match="each worker that ran it"):
        deadly.result()


def test_work_that_is_lost_leaves_its_pairs_open_and_no_others(
    tmp_path: Path, models: Path, expected: dict[str, bytes], many_pieces: None
) -> None:
    class Losing(Executor):
        """Loses the pieces of one key."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            done: Future[Any] = Future()
            refs = [ref for p in getattr(args[0], "positions", ()) for ref in p.refs]
            if any(ref.key.endswith("half") for ref in refs):
                done.set_exception(LostWorkError("lost", "look"))
            else:
                done.set_result(fn(*args, **kwargs))
            return done

    with megasim.open_store(tmp_path / "s.duckdb") as store:
        store.ingest(models)
        result = store.compare(executor=Losing(), workers=2)
        assert result.set_aside > 0
        assert {type(error) for error in result.failed} == {LostWorkError}
        half = "select distinct model_a, model_b from layer_distances where canonical_key = 'half'"
        assert 0 < result.pairs_done < result.pairs_asked
        assert store.sql(half + " and l2 is null").empty
        again = store.compare()
        assert result.pairs_done + again.pairs_done == again.pairs_asked
        assert again.tensor_pairs_computed < 10


def test_a_lost_scheduler_ends_the_job_and_the_next_one_goes_on(
    tmp_path: Path, models: Path, many_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(megasim.workspace.executors, "_CONNECT_SECONDS", 5.0)
    with (
        megasim.open_store(tmp_path / "s.duckdb") as store,
        megasim.open_store(tmp_path / "t.duckdb") as whole,
    ):
        store.ingest(models)
        whole.ingest(models)
        everything = whole.compare().tensor_pairs_computed
        with (
            distributed.LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs="CRITICAL",
            ) as started,
            cluster_executor(started.scheduler_address) as executor,
        ):
            assert executor.workers == 1
            watched = Watched(executor, 6, started.close)
            with pytest.raises(MegasimError, match="cluster was lost"):
                store.compare(executor=watched, workers=1)
        saved = len(store.sql("from layer_distances"))
        rest = store.compare()
        done = store.store.connection.execute("select count(*) from tensor_distance").fetchall()
        assert rest.tensor_pairs_computed < everything
        assert done == [(everything,)], saved


@pytest.mark.parametrize("address", ["local:", "local:0", "local:x", "somewhere"])
def test_there_is_no_such_cluster(address: str) -> None:
    with pytest.raises(UsageError, match="write --cluster"), cluster_executor(address):
        pass


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megasim.workspace.executors, "_CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(MegasimError, match="no Dask scheduler answers"),
        cluster_executor("tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(megasim.errors.EXTRAS, "cluster", ("there_is_no_such_module",))
    with pytest.raises(MissingExtraError, match=r"megasim\[cluster\]"), cluster_executor("local:1"):
        pass
