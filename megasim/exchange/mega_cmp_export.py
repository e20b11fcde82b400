"""store → mega_cmp results of version 1: a JSON file and a histogram for each pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from megasim.errors import UsageError, printable
from megasim.exchange.mega_cmp_names import MAP_NAME, file_stem, load_json, read_pair_map
from megasim.exchange.mega_cmp_reading import renamed_key
from megasim.output_files import write_file
from megasim.plots.figure_files import save_figure
from megasim.plots.histogram import component_histogram, role_histogram
from megasim.progress import NO_PROGRESS, Progress
from megasim.store.rows import Pair, Store

_NO_GROUP = "all"


@dataclass
class ExportResult:
    """The files written, and what was left out, in sentences."""

    written: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return plain lists."""
        return {"written": [str(path) for path in self.written], "left_out": self.left_out}


def export_mega_cmp(
    store: Store,
    folder: Path,
    pairs: Sequence[Pair] | None = None,
    *,
    figures: bool = True,
    progress: Progress = NO_PROGRESS,
) -> ExportResult:
    """Write `group_a_b.json` and `group_a_b.png` of each pair, and a `model_map.json` of all.

    The group is the first, by name, that the pair belongs to, else "all". Importing the folder
    gives the same layers, with what the form cannot say lost: l0, l1 and the identity tiers
    beyond 0, and renames other than NovelAI's, whose keys are written as model a spells them.
    Files of the same names are replaced; a model map that is there is added to.

    Args:
        folder: made when it is not there.
        pairs: model ids, smaller first; all whose layers are known when None.
        figures: whether to draw the histograms: attn1, attn2 and others of the UNet, or one panel
            for each component where there is no UNet.

    Raises:
        UsageError: `folder` is a file, its model map is none, or two pairs get the same file name.
    """
    names = {model.id: model.name for model in store.models()}
    paths = {model.name: model.path or model.name for model in store.models()}
    known = [(a, b) for a, b in store.rows("pairs_with_layers")]
    layered = set(known)
    wanted = known if pairs is None else list(dict.fromkeys(pairs))
    group_of = _first_groups(store)
    result = ExportResult()
    stems: dict[str, tuple[str, str, str]] = {}
    jobs: list[tuple[str, Pair]] = []
    for pair in wanted:
        a, b = names[pair[0]], names[pair[1]]
        if pair not in layered:
            result.left_out.append(
                f"{printable(a, 80)} – {printable(b, 80)}: no distances of layers are known."
            )
            continue
        group = group_of.get(pair, _NO_GROUP)
        stem = file_stem(group, a, b)
        if stem in stems:
            raise UsageError(
                f"two pairs would both be written to {stem}.json",
                "export them one by one into folders of their own",
            )
        stems[stem] = (group, a, b)
        jobs.append((stem, pair))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"{printable(folder, 400)} is a file", "name a folder") from None
    merged = _merged_map(folder / MAP_NAME, list(stems.values()), paths)
    progress.start("Exporting", len(jobs), "pairs")
    try:
        for stem, pair in jobs:
            layers = store.frame("layers_of_pair", model_a=pair[0], model_b=pair[1])
            _write(folder / f"{stem}.json", _document(layers), result)
            if figures:
                _draw(folder / f"{stem}.png", layers, stems[stem], result)
            progress.advance(1)
    finally:
        progress.finish()
    if jobs:
        _write(folder / MAP_NAME, merged, result)
    return result


def _first_groups(store: Store) -> dict[Pair, str]:
    found: dict[Pair, str] = {}
    for name, pairs in store.groups().items():
        for pair in pairs:
            found.setdefault(pair, name)
    return found


def _document(layers: pd.DataFrame) -> dict[str, Any]:
    """Return the layers of a pair as version 1 writes them; a key without a number is NaN."""
    kv: dict[str, float] = {}
    lists: dict[str, list[str]] = {"da": [], "db": [], "err": []}
    columns = (layers[name].tolist() for name in ("key_a", "key_b", "status", "l2"))
    for key_a, key_b, status, l2 in zip(*columns, strict=True):
        if status == "missing_b":
            lists["da"].append(key_a)
        elif status == "missing_a":
            lists["db"].append(key_b)
        else:
            key = renamed_key(key_a, key_b)
            if key is not None:
                lists["da"].append(key_a)
                lists["db"].append(key_b)
            if status == "shape_mismatch":
                lists["err"].append(key or key_a)
            else:
                kv[key or key_a] = l2
    return {"kv": kv, **{name: sorted(keys) for name, keys in lists.items()}}


def _draw(
    path: Path, layers: pd.DataFrame, names: tuple[str, str, str], result: ExportResult
) -> None:
    drawn = layers[~layers["status"].isin(["missing_a", "missing_b"])]
    unet = drawn[drawn["component"] == "unet"]
    _, a, b = names
    if len(unet):
        figure = role_histogram(unet, a, b)
    elif len(drawn):
        figure = component_histogram(drawn, a, b)
    else:
        result.left_out.append(f"{path.name}: the two models have no key in common to draw.")
        return
    save_figure(figure, path)
    result.written.append(path)


def _write(path: Path, value: object, result: ExportResult) -> None:
    text = json.dumps(value, indent=4, sort_keys=True, ensure_ascii=False)
    write_file(path, text + "\n")
    result.written.append(path)


def _merged_map(
    path: Path, pairs: Sequence[tuple[str, str, str]], paths: dict[str, str]
) -> list[Any]:
    """Return a model map of the pairs, behind what the map at `path` holds already."""
    merged: list[Any] = []
    if path.exists():
        read_pair_map(path)
        merged = load_json(path)
    place: dict[str, list[Any]] = dict(merged)
    have = {(group, e[0][0], e[1][0]) for group, entries in merged for e in entries}
    for group, a, b in pairs:
        if group not in place:
            place[group] = []
            merged.append([group, place[group]])
        if (group, a, b) not in have:
            place[group].append([[a, paths[a]], [b, paths[b]]])
    return merged
