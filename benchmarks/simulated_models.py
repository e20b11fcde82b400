"""Simulated models of one component, of which the true distances are known, in a store.

Families of 250: each model a step away from an earlier one, in a direction of its own. So squared
steps add along a path. A model has 16 keys of 4,096 elements; its sketches of 256 numbers each are
those of such steps, with the errors of theory, and its folded sketch is made from them. There are
no files of these models, but of the first ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import megasim
from megasim.fingerprint.folded import LENGTH, fold_sketches
from megasim.store.rows import Store

COMPONENT = "net"
_KEYS = 16
_SIDE = 64  # of the matrix of a key
_SKETCH = 256
_FAMILY = 250
_ROOT = 30.0  # norm of a family's first model, against steps of about 1

Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ADD = {
    "model": (
        "insert into model by name select m.* replace (b.id as id, 'model ' || b.id as name, "
        "'/none/' || b.id as path, md5('m' || b.id) as contents_digest) "
        "from batch b, (from model where name = 'real-0') m"
    ),
    "tensor": (
        "insert into tensor by name select t.* replace (b.id as id, "
        "sha256(b.id::varchar) as content_hash, md5('v' || b.id) as value_hash, "
        "md5('h' || b.id) as fp16_hash, md5('b' || b.id) as bf16_hash, b.l2 as l2, "
        "b.sketch as sketch, null as digest) "
        "from contents b, (from tensor where id = 1) t"
    ),
    "model_tensor": (
        "insert into model_tensor by name select h.* replace (b.id as model_id, "
        "b.first_tensor + h.place as tensor_id) from batch b, (select *, "
        "row_number() over (order by canonical_key) - 1 as place from model_tensor "
        "where model_id = (select id from model where name = 'real-0')) h "
        "order by b.id, h.place".replace("h.*", "h.* exclude (place)")
    ),
    "folded_sketch": (
        "insert into folded_sketch by name select f.* replace (b.id as model_id, "
        "b.fold as sketch) from batch b, (from folded_sketch "
        "where model_id = (select id from model where name = 'real-0')) f"
    ),
}


def write_real_models(folder: Path, count: int) -> list[Path]:
    """Write files of models with the same keys: "real-0", and others a step from it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    base = {
        f"{COMPONENT}.layers.{i}.weight": rng.standard_normal((_SIDE, _SIDE), dtype=np.float32)
        for i in range(_KEYS)
    }
    paths = []
    for i in range(count):
        paths.append(folder / f"real-{i}.safetensors")
        moved = {
            key: value + np.float32(0.01 * i) * rng.standard_normal(value.shape, dtype=np.float32)
            for key, value in base.items()
        }
        save_file(moved, paths[-1])
    return paths


def write_simulated_store(path: Path, real: Path, models: int) -> Ints:
    """Write a store with a model that has a file, and simulated ones; return the ids of these."""
    path.unlink(missing_ok=True)
    with megasim.open_store(path) as workspace:
        workspace.ingest(real)
    with Store(path, "write", memory=1 << 30) as store:
        held = "select canonical_key from model_tensor order by canonical_key"
        keys = [str(key) for (key,) in store.connection.execute(held).fetchall()]
        places, signs = _fold_of(keys)
        # each checkpoint of the database writes the index of contents anew, which grows with them
        store.connection.execute("set checkpoint_threshold = '512MB'")
        for first, parents, steps in families(models):
            sketches = _sketches(first, parents, steps)
            _add(store, first, sketches, _folded(sketches, places, signs))
    return np.arange(2, models + 2)


def simulated_folds(models: int) -> Singles:
    """Return the (N, 4096) folds of such models, without a store."""
    keys = [f"{COMPONENT}.layers.{i}.weight" for i in range(_KEYS)]
    places, signs = _fold_of(keys)
    found = [
        _folded(_sketches(first, parents, steps), places, signs)
        for first, parents, steps in families(models)
    ]
    return np.concatenate(found)


def _add(store: Store, first: int, sketches: Singles, folds: Singles) -> None:
    """Add a family; its ids follow that of the one model that has a file, of 16 contents."""
    count = len(sketches)
    by_key = sketches.reshape(count * _KEYS, _SKETCH)
    ids = first + 2 + np.arange(count)
    con = store.connection
    tables = {
        "batch": {"id": ids, "first_tensor": (ids - 1) * _KEYS + 1, "fold": _objects(folds)},
        "contents": {
            "id": (first + 1) * _KEYS + 1 + np.arange(count * _KEYS),
            "l2": np.linalg.norm(by_key, axis=1),
            "sketch": _objects(by_key),
        },
    }
    with store.transaction():
        for name, table in tables.items():
            con.register(name, table)
        for statement in _ADD.values():
            con.execute(statement)
    for name in tables:
        con.unregister(name)


def _objects(rows: Singles) -> npt.NDArray[np.object_]:
    found = np.empty(len(rows), dtype=object)
    found[:] = list(rows)
    return found


def _fold_of(keys: list[str]) -> tuple[Ints, Singles]:
    """Return the place and the sign of each number of the sketches of a model in its fold."""
    shape = f"{_SIDE}x{_SIDE}"
    count = len(keys) * _SKETCH
    places, signs = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float32)
    for i in range(count):
        one = np.zeros(count, dtype=np.float32)
        one[i] = 1
        fold = fold_sketches(keys, [shape] * len(keys), list(one.reshape(len(keys), _SKETCH)))
        (places[i],) = np.nonzero(fold)[0]
        signs[i] = fold[places[i]]
    return places, signs


def _folded(sketches: Singles, places: Ints, signs: Singles) -> Singles:
    """Return the (N, 4096) folds of the sketches of N models."""
    folds = np.zeros((LENGTH, len(sketches)), dtype=np.float32)
    np.add.at(folds, places, (sketches * signs).T)
    return np.ascontiguousarray(folds.T)


def families(models: int) -> Iterator[tuple[int, Ints, Floats]]:
    """Yield the first model of each family, and of each member its parent and the step to it."""
    for first in range(0, models, _FAMILY):
        rng = np.random.default_rng(first)
        count = min(_FAMILY, models - first)
        parents = np.array([0, *(int(rng.integers(0, i)) for i in range(1, count))])
        yield first, parents, np.exp(rng.normal(0, 0.6, count))


def _sketches(first: int, parents: Ints, steps: Floats) -> Singles:
    """Return the (N, 4096) sketches of a family, those of a model one after another."""
    rng = np.random.default_rng((1, first))
    length = _KEYS * _SKETCH
    found = rng.standard_normal((len(parents), length), dtype=np.float32)
    found *= (steps / np.sqrt(length))[:, None].astype(np.float32)
    found[0] *= _ROOT / steps[0]
    for i, parent in enumerate(parents[1:].tolist(), 1):
        found[i] += found[parent]
    return found


def true_squares(parents: Ints, steps: Floats) -> Floats:
    """Return the (N, N) true squared distances within a family; inf on the diagonal."""
    count = len(parents)
    true = np.zeros((count, count))
    for i, parent in enumerate(parents[1:].tolist(), 1):
        true[i, :i] = true[:i, i] = true[parent, :i] + steps[i] ** 2
    np.fill_diagonal(true, np.inf)
    return true
