"""Libraries of nearest neighbours beside megasim's blocked products, on the same folds.

python -m benchmarks.neighbour_libraries 10000    needs faiss-cpu and usearch, which are not locked

All against all, 40 candidates of each of so many simulated models of one component, on one core.
`true 10` is the share of the true ten nearest that are among the candidates. Indexes are built and
asked with their usual settings, and with ones that look at more.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from benchmarks.scale import recall
from benchmarks.simulated_models import simulated_folds
from megasim.estimate.indexed_neighbours import indexed_candidates
from megasim.estimate.neighbours import nearest_vectors

_CANDIDATES = 40

Places = npt.NDArray[np.int64]
Folds = npt.NDArray[np.float32]


def main() -> None:
    """Measure and print."""
    models = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    ways: dict[str, Callable[[Folds], Places]] = {
        "megasim": lambda folds: nearest_vectors(folds.copy(), _CANDIDATES).places,
        "megasim with faiss": lambda folds: indexed_candidates(folds.copy(), _CANDIDATES),
        "faiss flat": _faiss_flat,
        "faiss IVF, 1/64 of the lists": lambda folds: _faiss_ivf(folds, 64),
        "faiss IVF, 1/8 of the lists": lambda folds: _faiss_ivf(folds, 8),
        "faiss HNSW 32, 64 looked at": lambda folds: _faiss_hnsw(folds, 64),
        "faiss HNSW 32, 256 looked at": lambda folds: _faiss_hnsw(folds, 256),
        "usearch, 64 looked at": lambda folds: _usearch(folds, 64),
        "usearch, 256 looked at": lambda folds: _usearch(folds, 256),
    }
    folds = simulated_folds(models)
    with threadpool_limits(1):
        for name, way in ways.items():
            begun = time.process_time()
            places = way(folds)
            cpu = time.process_time() - begun
            kept = recall(models, places)[0]
            print(json.dumps({"way": name, "models": models, "core s": cpu, "true 10": kept}))


def _others(places: Places) -> Places:
    """Return what was found of each but itself, wherever it stands."""
    own = places == np.arange(len(places))[:, None]
    own[~own.any(axis=1), -1] = True  # one too many
    return places[~own].reshape(len(places), -1)


def _faiss_flat(folds: Folds) -> Places:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatL2(folds.shape[1])
    index.add(folds)
    return _others(index.search(folds, _CANDIDATES + 1)[1])


def _faiss_ivf(folds: Folds, share: int) -> Places:
    import faiss

    faiss.omp_set_num_threads(1)
    lists = int(4 * np.sqrt(len(folds)))
    index = faiss.index_factory(folds.shape[1], f"IVF{lists},Flat")
    index.train(folds)
    index.add(folds)
    index.nprobe = max(lists // share, 1)
    return _others(index.search(folds, _CANDIDATES + 1)[1])


def _faiss_hnsw(folds: Folds, looked_at: int) -> Places:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(folds.shape[1], 32)
    index.hnsw.efSearch = looked_at
    index.add(folds)
    return _others(index.search(folds, _CANDIDATES + 1)[1])


def _usearch(folds: Folds, looked_at: int) -> Places:
    from usearch.index import Index

    index = Index(ndim=folds.shape[1], metric="l2sq", dtype="f32", expansion_search=looked_at)
    index.add(np.arange(len(folds)), folds, threads=1)
    found = index.search(folds, _CANDIDATES + 1, threads=1)
    return _others(np.asarray(found.keys, dtype=np.int64))


if __name__ == "__main__":
    main()
