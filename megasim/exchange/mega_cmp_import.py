"""mega_cmp results → store. What others measured takes part beside what was measured here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from megasim.anatomy.classification import CanonicalTensor, classify_keys
from megasim.anatomy.natures import key_natures
from megasim.checkpoint.folders import SUFFIXES
from megasim.errors import MegasimError, UsageError, printable
from megasim.exchange.fingerprint_file import ImportResult
from megasim.exchange.mega_cmp_names import MAP_NAME, NO_MAP, PairMap, read_pair_map
from megasim.exchange.mega_cmp_reading import PublishedMatrices, PublishedPair, read_published
from megasim.exchange.mega_cmp_zeros import ZeroVerdict, judge_zeros
from megasim.matrix.distance_matrix import Floats
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.batches import pair_table
from megasim.store.rows import HeldModel, Model, Pair, Store
from megasim.wording.sentences import counted

# The components of version 2 by the names they have there.
COMPONENTS = {
    "te": "text_encoder",
    "te0": "text_encoder_1",
    "te1": "text_encoder_2",
    "vae": "vae",
    "unet": "unet",
    "other": "other",
}
_COMPARED = ("identical", "changed")
_SHOWN = 6  # names in one sentence


def import_path(store: Store, path: Path, *, progress: Progress = NO_PROGRESS) -> ImportResult:
    """Import a published result of mega_cmp, or all of them in a folder and the folders in it.

    Models of a name the store knows are taken to be those; others are saved without weights. A
    `model_map.json` beside a file tells which models its name means. A pair that was compared
    here, or that is known layer by layer, takes nothing weaker; a file of a name that was
    imported before replaces what it said of its pairs.

    Raises:
        UsageError: no such path, or a folder without JSON files.
    """
    files = _find_files(path)
    run = _Import(store, ImportResult(), store.model_ids())
    progress.start("Importing", len(files), "files")
    try:
        for file in run.take_models(files):
            run.add_file(file)
            progress.advance(1)
    finally:
        progress.finish()
    return run.result


def _find_files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise UsageError(f"there is no {printable(path, 400)}", "check the path")
        if path.name.endswith(SUFFIXES):
            raise UsageError(
                f"{printable(path, 400)} is a checkpoint, not a result",
                "read it with `megasim ingest`",
            )
        return [path]
    files = sorted(p for p in path.rglob("*.json") if p.name != MAP_NAME and p.is_file())
    if not files:
        raise UsageError(
            f"{printable(path, 400)} holds no JSON files", "name a folder of mega_cmp results"
        )
    return files


@dataclass
class _Import:
    """What the files of one import share."""

    store: Store
    result: ImportResult
    ids: dict[str, int]
    maps: dict[Path, PairMap] = field(default_factory=dict)
    noted: set[str] = field(default_factory=set)

    def map_beside(self, file: Path) -> PairMap:
        path = file.parent / MAP_NAME
        if path not in self.maps:
            self.maps[path] = NO_MAP
            if path.is_file():
                try:
                    self.maps[path] = read_pair_map(path)
                except MegasimError as error:
                    self.result.failed.append(error)
        return self.maps[path]

    def take_models(self, files: Sequence[Path]) -> list[Path]:
        """Save the models that some files name, and return the files that can be read.

        The first model of a pair gets the smaller id where it can be, so that the pair stands in
        the store the way its file has it.
        """
        readable = []
        before: dict[str, dict[str, None]] = {}
        for file in files:
            try:
                found, _ = self.read(file)
            except MegasimError as error:
                self.result.failed.append(error)
                continue
            readable.append(file)
            if isinstance(found, PublishedPair):
                before.setdefault(found.model_a, {})
                before.setdefault(found.model_b, {})[found.model_a] = None
            else:
                before.update((name, before.get(name, {})) for name in found.models)
        try:
            order = list(TopologicalSorter(before).static_order())
        except CycleError:
            order = list(before)
        for name in order:
            if name not in self.ids:
                self.ids[name] = self.store.save_model(HeldModel(Model(name, source="imported")))
                self.result.models.append(name)
        return readable

    def read(self, file: Path) -> tuple[PublishedPair | PublishedMatrices, str]:
        """Return what a file holds, under the names its models have in the store."""
        known = self.map_beside(file)
        found, note = read_published(file, known)
        if isinstance(found, PublishedPair):
            names = (found.model_a, found.model_b)
            own = known.own_names.get(file.stem, names)
            a, b = (o if o in self.ids else n for o, n in zip(own, names, strict=True))
            found = replace(found, model_a=a, model_b=b)
        return found, note

    def add_file(self, file: Path) -> None:
        found, note = self.read(file)
        origin = printable(file.name)
        if note:
            self.result.notes.append(f"{origin}: {note}.")
        if isinstance(found, PublishedPair):
            self.add_pair(found, origin)
            files = self.map_beside(file).files
            for name in (found.model_a, found.model_b):
                self._tell_of_files(name, files.get(name, ()))
        else:
            self.add_matrices(found, origin)

    def _tell_of_files(self, name: str, files: Sequence[str]) -> None:
        if len(files) > 1 and name not in self.noted:
            self.noted.add(name)
            self.result.notes.append(
                f"{MAP_NAME} gives the name {printable(name)} to {len(files)} files "
                f"({_listed(files)}); here it is one model."
            )

    def add_pair(self, pair: PublishedPair, origin: str) -> None:
        """Save a file of version 1."""
        a, b = self.ids[pair.model_a], self.ids[pair.model_b]
        names = _pair_text(pair.model_a, pair.model_b)
        if a > b:
            pair, a, b = pair.flipped(), b, a
        batch = {"batch": pair_table([(a, b)])}
        known = self.store.rows("components_of_pairs", tables=batch)
        better = _better_known(row for row in known if row[4] != origin)
        if better:
            self.result.left_out.append(f"{origin}: {names} {better[a, b]}.")
        else:
            layers = _layer_frame(pair, (a, b), origin)
            components = layers[["model_a", "model_b", "component"]].drop_duplicates()
            with self.store.transaction():
                self.store.write("drop_imported_layers", tables=batch)
                self.store.write("drop_imported_components", tables=batch)
                self.store.write("drop_estimated_components", tables={"batch": components})
                self.store.write("add_imported_layers", tables={"batch": layers})
                self.store.write("add_imported_components", tables=batch)
            self._tell_of_layers(layers, names, origin)
        if pair.group is not None:
            self.store.add_groups({pair.group: [(a, b)]})

    def _tell_of_layers(self, layers: pd.DataFrame, names: str, origin: str) -> None:
        compared = int(layers["status"].isin(_COMPARED).sum())
        self.result.imported.append(
            f"{origin}: {names}, {compared} of {len(layers)} keys compared."
        )
        doubled = int(layers["canonical_key"].duplicated().sum())
        if doubled:
            self.result.notes.append(
                f"{origin}: {counted(doubled, 'tensor')} of {names} have other names in one model "
                "than in the other and were not compared; they count as missing in both."
            )

    def add_matrices(self, published: PublishedMatrices, origin: str) -> None:
        """Save a file of version 2."""
        ids = np.array([self.ids[name] for name in published.models])
        i, j = np.triu_indices(len(ids), 1)
        a, b = np.minimum(ids[i], ids[j]), np.maximum(ids[i], ids[j])
        pairs: list[Pair] = list(zip(a.tolist(), b.tolist(), strict=True))
        known = self.store.rows("components_of_pairs", tables={"batch": pair_table(pairs)})
        better = _better_known(known)
        frames = [pd.DataFrame(columns=["model_a", "model_b", "component", "unproven", "l2"])]
        for name, values in self._telling(published, origin):
            verdict = judge_zeros(values)
            self._tell_of_lost(published.models, f"{origin}: {name}", verdict)
            elsewhere = {
                (row[0], row[1]): row[4]
                for row in known
                if row[2] == COMPONENTS[name] and row[3] == "imported" and row[4] != origin
            }
            free = np.array([pair not in better and pair not in elsewhere for pair in pairs])
            frame = pd.DataFrame(
                {
                    "model_a": a,
                    "model_b": b,
                    "component": COMPONENTS[name],
                    "unproven": verdict.unproven[i, j],
                    "l2": _nullable(values[i, j]),
                }
            )[free & ~verdict.not_compared[i, j]]
            frames.append(frame)
            self._tell_of_values(frame, f"{origin}: {name}")
            twice = [pair for pair in pairs if pair in elsewhere and pair not in better]
            if twice:
                files = _listed(sorted({elsewhere[pair] for pair in twice}))
                self.result.left_out.append(
                    f"{origin}: {name} of {counted(len(twice), 'pair')}: known from {files}."
                )
        if better:
            name_of = dict(zip(ids.tolist(), published.models, strict=True))
            first = min(better)
            self.result.left_out.append(
                f"{origin}: {counted(len(better), 'pair')}, as "
                f"{_pair_text(*(name_of[k] for k in first))}, {better[first]}."
            )
        batch = {"batch": pd.concat(frames[1:] or frames, ignore_index=True)}
        with self.store.transaction():
            tables = {"batch": pair_table(pairs)}
            self.store.write("drop_imported_values", tables=tables, origin=origin)
            self.store.write("drop_estimated_components", tables=batch)
            self.store.write("add_imported_values", tables=batch, origin=origin)
        self.store.add_groups({Path(origin).stem: pairs})

    def _telling(self, published: PublishedMatrices, origin: str) -> Iterator[tuple[str, Floats]]:
        """Yield the matrices that say something, with the name they have in the file."""
        for name, values in published.matrices.items():
            what = f"{origin}: {printable(name)}"
            if name not in COMPONENTS:
                self.result.left_out.append(f"{what} is not a component of mega_cmp.")
            elif not (np.isnan(values) | (values > 0)).any():
                self.result.left_out.append(
                    f"{what} is 0 everywhere, which may mean identical or not compared."
                )
            elif name == "te" and _covers_others(values, published.matrices):
                self.result.left_out.append(f"{what} covers te0 and te1 again, which are taken.")
            else:
                yield name, values

    def _tell_of_values(self, frame: pd.DataFrame, what: str) -> None:
        if len(frame):
            zeros = int(frame["unproven"].sum())
            note = f", of which {zeros} at 0, unproven: it may mean not compared" if zeros else ""
            self.result.imported.append(f"{what} of {counted(len(frame), 'pair')}{note}.")

    def _tell_of_lost(self, models: Sequence[str], what: str, verdict: ZeroVerdict) -> None:
        if verdict.silent:
            self.result.left_out.append(
                f"{what} of {_listed([models[k] for k in verdict.silent])}: at 0 from every "
                "model, though these differ, so not compared."
            )
        lost = verdict.not_compared.copy()
        lost[list(verdict.silent), :] = lost[:, list(verdict.silent)] = False
        places = np.argwhere(np.triu(lost)).tolist()
        if places:
            pairs = [_pair_text(models[i], models[j]) for i, j in places]
            self.result.left_out.append(
                f"{what} of {_listed(pairs)}: 0, which other distances contradict, so not compared."
            )


def _better_known(rows: Iterable[tuple[Any, ...]]) -> dict[Pair, str]:
    """Return the pairs that were compared here or are known by layer, with the reason.

    Args:
        rows: of `components_of_pairs`.
    """
    found: dict[Pair, str] = {}
    for a, b, _, source, origin, by_layer in rows:
        if source == "exact":
            found[a, b] = "was compared here from the weights"
        elif source == "imported" and by_layer:
            found[a, b] = f"is known layer by layer from {origin}"
    return found


def _layer_frame(pair: PublishedPair, ids: Pair, origin: str) -> pd.DataFrame:
    """Return the rows of `imported_layer`; each key is classified among those of its own side."""
    parts_a = _parts([it.key_a for it in pair.layers])
    parts_b = _parts([it.key_b for it in pair.layers])
    parts = [
        parts_a[it.key_a] if it.key_a is not None else parts_b[str(it.key_b)] for it in pair.layers
    ]
    names = {str(key) for it in pair.layers for key in (it.key_a, it.key_b) if key is not None}
    natures = key_natures(dict.fromkeys(sorted(names), ((), None)))
    return pd.DataFrame(
        {
            "model_a": ids[0],
            "model_b": ids[1],
            "canonical_key": [part.canonical_key for part in parts],
            "key_a": [it.key_a for it in pair.layers],
            "key_b": [it.key_b for it in pair.layers],
            "component": [part.component for part in parts],
            "block": [part.block for part in parts],
            "role": [part.role for part in parts],
            "status": [it.status for it in pair.layers],
            # An object column keeps None apart from NaN, which DuckDB would take as a number.
            "l2": pd.Series([it.l2 for it in pair.layers], dtype=object),
            "origin": origin,
            "nature": [
                natures[it.key_a if it.key_a is not None else str(it.key_b)] for it in pair.layers
            ],
        }
    )


def _parts(keys: Sequence[str | None]) -> Mapping[str, CanonicalTensor]:
    return _parts_of(frozenset(key for key in keys if key is not None))


@lru_cache(maxsize=16)
def _parts_of(keys: frozenset[str]) -> Mapping[str, CanonicalTensor]:
    """Return what each key is; most files of a folder have the same keys."""
    anatomy = classify_keys(dict.fromkeys(sorted(keys), ()))
    return {source: part for part in anatomy.parts for source in part.sources}


def _covers_others(te: Floats, matrices: Mapping[str, Floats]) -> bool:
    """Whether some pair has a distance both in `te` and in te0 or te1.

    No model has an encoder of SD1 or SD2 and those of SDXL: then `te` is the sum of the others.
    """
    return any(bool(((te > 0) & (matrices[k] > 0)).any()) for k in ("te0", "te1") if k in matrices)


def _nullable(values: Floats) -> pd.Series[Any]:
    numbers = pd.Series(values.astype(object), dtype=object)
    return numbers.where(~np.isnan(values), None)


def _pair_text(a: str, b: str) -> str:
    return f"{printable(a, 80)} – {printable(b, 80)}"


def _listed(names: Sequence[str]) -> str:
    shown = [printable(name, 160) for name in names[:_SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
