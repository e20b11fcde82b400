"""Named fingerprints as a Parquet file: people recognise known components without their weights.

A file holds, for each tensor, its name and shape, hashes, norms and sketch; no weights, no paths,
no metadata. It is a claim of whoever wrote it: that it is well-formed is checked, that it is true
cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from megasim.anatomy.classification import component_members
from megasim.anatomy.natures import key_natures, nature_in
from megasim.checkpoint.dtypes import STORAGE_DTYPES
from megasim.errors import CheckpointError, MegasimError, NoAnswerError, UsageError, printable
from megasim.estimate.pairs import check_current
from megasim.fingerprint.sketch import LENGTH_FACTORS
from megasim.fingerprint.table import Fingerprint, FingerprintTable
from megasim.fingerprint.tensor import COMPARABLE_VERSIONS, FINGERPRINT_VERSION
from megasim.output_files import parquet_file
from megasim.store.batches import table_of
from megasim.store.rows import HeldModel, Model, ModelTensor, Store

# 2 says how the bytes of each tensor stand for its values, which 1 leaves open; both are read.
FORMAT_VERSION = 2
_READ_VERSIONS = ("1", "2")

# What of a tensor comes before its fingerprint, in the statement that reads a file.
_KEY_COLUMNS = (
    *("sources", "transposed", "canonical_key", "canonical_shape", "shape", "component"),
    *("block", "role", "representation"),
)

_COLUMNS = {
    **dict.fromkeys(("model", "family", "variant", "layout"), "VARCHAR"),
    **dict.fromkeys(("component", "block", "role", "canonical_key"), "VARCHAR"),
    "canonical_shape": "VARCHAR",
    "shape": "BIGINT[]",
    "sources": "VARCHAR[]",
    "transposed": "BOOLEAN",
    "representation": "VARCHAR",  # from version 2 on
    "dtype": "VARCHAR",
    "numel": "BIGINT",
    **dict.fromkeys(("content_hash", "value_hash", "fp16_hash", "bf16_hash"), "VARCHAR"),
    **dict.fromkeys(("l1", "l2", "linf", "mean", "std", "kurtosis"), "DOUBLE"),
    **dict.fromkeys(("zeros", "nans", "infs"), "BIGINT"),
    "is_constant": "BOOLEAN",
    "sketch": "FLOAT[]",
}
# A thousand models of ten thousand tensors each; more is not a file of named components.
_MOST_ROWS = 10_000_000
LARGEST_SKETCH = 65_536
_OTHER_FILE = "ask for a file that `megasim export --fingerprints` wrote"


@dataclass
class ImportResult:
    """What became of the files or models that were to be imported, in sentences.

    Attributes:
        imported: what came in; nothing changes where the same was there before.
        left_out: what did not come in, and why.
        notes: what a reader should know beside.
        models: names of the models that are new.
        failed: files that could not be read, models whose names others have; the rest is saved.
    """

    imported: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    failed: list[MegasimError] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return plain lists."""
        return {**vars(self), "failed": [error.message for error in self.failed]}


def joined(results: Iterable[ImportResult]) -> ImportResult:
    """Return what became of several imports, in their order.

    >>> joined([ImportResult(models=["a"]), ImportResult(models=["b"])]).models
    ['a', 'b']
    """
    whole = ImportResult()
    for result in results:
        for name, values in vars(result).items():
            getattr(whole, name).extend(values)
    return whole


def export_fingerprints(
    store: Store,
    path: Path,
    *,
    models: Sequence[str] | None = None,
    component: str = "all",
    names: Mapping[str, str] | None = None,
) -> int:
    """Write the fingerprints of models to a Parquet file, and return how many tensors it tells of.

    The same store gives the same bytes.

    Args:
        models: names; all models that have tensors here when None.
        component: what to write of them, e.g. "vae" for a file of named VAEs.
        names: names to write instead of those in the store, e.g. {"nai4g": "kl-f8-anime2"}.

    Raises:
        UsageError: an unknown model or component, or two models of one name.
        NoAnswerError: there is nothing to write, or a model's fingerprints are of an older version.
    """
    known = [name for name, _ in store.rows("components")]
    wanted = [c for c in component_members(component) if c in known] or known
    if component != "all" and not set(component_members(component)) & set(known):
        raise UsageError(
            f"no such component: {printable(component)!r}",
            "there are: " + ", ".join(map(printable, known)),
        )
    batch = pd.DataFrame({"component": wanted})
    holders = {
        name: int(i) for i, name in store.rows("fingerprint_models", tables={"batch": batch})
    }
    asked = store.model_ids(models)
    store.model_ids(list(names or ()))
    ids = {name: i for name, i in asked.items() if name in holders}
    if not ids or (models is not None and len(ids) < len(asked)):
        lacking = [name for name in asked if name not in holders] if models else []
        raise NoAnswerError(
            f"{', '.join(map(printable, lacking)) or 'no model'} has fingerprints to write",
            "ingest checkpoints first, in full; published distances, headers and samples have none",
        )
    check_current(store, ids.values())
    given = {name: (names or {}).get(name, name) for name in ids}
    if len(set(given.values())) < len(given):
        raise UsageError(
            "two models would have the same name in the file", "give each its own name"
        )
    sizes = {model.sketch_size for model in store.models() if model.name in ids}
    chosen = pd.DataFrame({"model_id": list(ids.values()), "name": list(given.values())})
    with parquet_file(path) as here:
        ((count,),) = store.rows(
            "write_fingerprints",
            tables={"chosen": chosen, "batch": batch},
            path=str(here),
            format_version=str(FORMAT_VERSION),
            fingerprint_version=str(FINGERPRINT_VERSION),
            sketch_size=str(max(size or 0 for size in sizes)),
        )
    return int(count)


def import_fingerprints(store: Store, path: Path) -> ImportResult:
    """Save the models of a fingerprint file, known by their fingerprints alone.

    A model that the store knows with the same contents is left as it is.

    Raises:
        CheckpointError: the file cannot be read, is not a fingerprint file, is of another version,
            or says what cannot be; then nothing of it is saved.
    """
    size = _check_file(store, path)
    result = ImportResult()
    known = {model.name: model for model in store.models()}
    for name, family, variant, layout in store.rows("fingerprint_file_models", path=str(path)):
        rows = store.rows("fingerprint_file_tensors", path=str(path), model=name)
        prints = [_fingerprint(row[len(_KEY_COLUMNS) :]) for row in rows]
        tensors = _tensors(rows, prints)
        shown = printable(name, 80)
        if name in known:
            contents = {
                (t.canonical_key, p.content_hash) for t, p in zip(tensors, prints, strict=True)
            }
            if contents <= set(store.rows("contents_of_model", id=known[name].id)):
                result.left_out.append(f"{shown}: is known with the same contents.")
            else:
                result.failed.append(
                    CheckpointError(
                        path,
                        f"another model of the store is named {shown!r}",
                        "rename that one, or remove it with `megasim forget`, and import again",
                    )
                )
            continue
        model = Model(
            name=name,
            source="fingerprints",
            format="fingerprints",
            family=family,
            variant=variant,
            layout=layout,
            fingerprint_version=FINGERPRINT_VERSION,
            sketch_size=size,
        )
        store.save_model(HeldModel(model, tensors, FingerprintTable.of(prints)))
        result.models.append(name)
        components = sorted({tensor.component for tensor in tensors})
        result.imported.append(
            f"{shown}: {len(tensors):,} tensors ({printable(', '.join(components))})."
        )
    return result


def _check_file(store: Store, path: Path) -> int:
    """Return the sketch size of a fingerprint file, after all of it has been checked."""
    if not path.is_file():
        raise CheckpointError(path, "there is no such file", "check the path")
    try:
        versions = dict(store.rows("fingerprint_file_versions", path=str(path)))
        size = _check_versions(store, path, versions)
        rows = sum(count for (count,) in store.rows("fingerprint_file_rows", path=str(path)))
        if rows > _MOST_ROWS:
            raise CheckpointError(path, f"{rows:,} rows are too many", _OTHER_FILE)
        columns = dict(store.rows("fingerprint_file_columns", path=str(path)))
        for name, kind in _COLUMNS.items():
            if name == "representation" and versions["megasim_fingerprints"] == "1":
                continue
            if columns.get(name) != kind:
                raise CheckpointError(path, f"the column {name} ({kind}) is missing", _OTHER_FILE)
        factors = table_of(["elements", "factor"], LENGTH_FACTORS)
        faults = store.rows(
            "fingerprint_file_faults",
            tables={"length_factors": factors},
            path=str(path),
            dtypes=list(STORAGE_DTYPES),
            sketch_size=size,
        )
        for fault, model, key in faults:
            raise CheckpointError(path, f"{fault}, in {printable(model, 80)}", _OTHER_FILE, key)
        for (content,) in store.rows("fingerprint_file_contradictions", path=str(path)):
            raise CheckpointError(
                path, f"it has two different entries for the content {content[:12]}…", _OTHER_FILE
            )
    except duckdb.Error as error:
        problem = printable(str(error).splitlines()[0])
        raise CheckpointError(path, f"cannot be read as Parquet: {problem}", _OTHER_FILE) from None
    return size


def _check_versions(store: Store, path: Path, versions: Mapping[str, str]) -> int:
    form = versions.get("megasim_fingerprints")
    if form is None:
        raise CheckpointError(path, "a Parquet file, but not one of fingerprints", _OTHER_FILE)
    if form not in _READ_VERSIONS:
        raise CheckpointError(
            path,
            f"its format is version {printable(form, 20)}",
            f"this megasim reads {' and '.join(_READ_VERSIONS)}",
        )
    version = versions.get("fingerprint_version", "")
    if version not in map(str, COMPARABLE_VERSIONS):
        raise CheckpointError(
            path,
            f"its fingerprints are of version {printable(version, 20)}, not {FINGERPRINT_VERSION}",
            "export it again with this version of megasim",
        )
    text = versions.get("sketch_size", "")
    if not text.isdecimal() or len(text) > 6 or not 0 < int(text) <= LARGEST_SKETCH:
        raise CheckpointError(path, "its sketch size cannot be", _OTHER_FILE)
    sizes = {m.sketch_size for m in store.models() if m.sketch_size is not None}
    if sizes and sizes != {int(text)}:
        raise CheckpointError(
            path,
            f"its sketches have {int(text)} numbers; those of this store have {min(sizes)}",
            "export it from a store with the same sketch size",
        )
    return int(text)


def _fingerprint(values: Sequence[Any]) -> Fingerprint:
    # a file has no profiles, the last two fields
    said = dict(zip([f.name for f in fields(Fingerprint)][:-2], values, strict=True))
    said["sketch"] = np.asarray(said["sketch"], dtype=np.float32)
    return Fingerprint(**said)


def _tensors(rows: Sequence[Sequence[Any]], prints: Sequence[Fingerprint]) -> list[ModelTensor]:
    """Return the tensors of one model, each with its nature: files do not say it."""
    keys = [dict(zip(_KEY_COLUMNS, row, strict=False)) for row in rows]
    shapes = [_sizes(key["shape"]) for key in keys]
    natures = key_natures(
        {key["sources"][0]: (shape, print_.dtype)
         for key, shape, print_ in zip(keys, shapes, prints, strict=True)}
    )  # fmt: skip
    return [
        ModelTensor(
            sources=tuple(key["sources"]),
            transposed=key["transposed"],
            canonical_key=key["canonical_key"],
            canonical_shape=_sizes(filter(None, key["canonical_shape"].split("x"))),
            shape=shape,
            component=key["component"],
            block=key["block"],
            role=key["role"],
            nature=nature_in(key["component"], natures[key["sources"][0]]),
            representation=key["representation"],
        )
        for key, shape in zip(keys, shapes, strict=True)
    ]


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
