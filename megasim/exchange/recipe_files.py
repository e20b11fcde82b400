"""Recipes as merge tools read them: mergekit's YAML, sd-mecha's .mecha, numbers by block.

The files were run with mergekit 0.1.5 and sd-mecha 1.1.8. See tests/exchange/test_recipe_files.py.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from megasim.errors import NoAnswerError, printable
from megasim.exchange.merge_plan import MergedKey, MergePlan, Weights, file_of
from megasim.store.rows import Model
from megasim.words import MergeMethod

RECIPE_ENDINGS = (".yaml", ".yml", ".mecha", ".json")

# The numbers of a merge by block, as SuperMerger and its kin list them.
MERGE_BLOCKS = (
    *(f"IN{i:02}" for i in range(12)),
    "M00",
    *(f"OUT{i:02}" for i in range(12)),
)
# What sd-mecha calls the layout of single files of a family.
_MECHA_CONFIGS = {"SD1": "sd1-ldm", "SDXL": "sdxl-sgm"}
_MERGEKIT_METHODS = {
    MergeMethod.MODEL_STOCK: "model_stock",
    MergeMethod.TIES: "ties",
    MergeMethod.DARE: "dare_linear",
    MergeMethod.DARE_TIES: "dare_ties",
    MergeMethod.BREADCRUMBS: "breadcrumbs",
    MergeMethod.BREADCRUMBS_TIES: "breadcrumbs_ties",
    MergeMethod.DELLA: "della_linear",
    MergeMethod.DELLA_TIES: "della",
}
# Weights that are normalised and add up to 1 within this were not scaled beside.
_NO_SCALE = 0.015
_DTYPES = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float32"}


def mergekit_yaml(plan: MergePlan) -> str:
    """Return a recipe for mergekit: `mergekit-pytorch` for files, `mergekit-yaml` for folders.

    Weights are told by parts of the names of keys, the first that fits counts.
    """
    folders = [_model_folder(file_of(model)) for model in plan.sources]
    whole = all(folders)
    if plan.runs and not whole:
        raise NoAnswerError(
            f"mergekit stacks layers of model folders alone, and {printable(plan.model)} is made "
            "of single files",
            "put each file into a folder with its config.json, and ingest the folders",
        )
    paths = [_quoted(str(path)) for path in (folders if whole else map(file_of, plan.sources))]
    command = "mergekit-yaml" if whole else "mergekit-pytorch"
    lines = [f"# {printable(plan.model, 200)}, run with: {command} THIS_FILE OUTPUT_FOLDER"]
    lines += [f"# {note}" for note in plan.notes]
    if plan.runs:
        lines += _slices(plan, dict(zip((m.name for m in plan.sources), paths, strict=True)))
    elif plan.method == MergeMethod.SLERP:
        lines += ["models:", *(f"- model: {path}" for path in paths)]
        lines += ["merge_method: slerp", f"base_model: {paths[0]}", "parameters:", "  t:"]
        lines += [f"  {line}" for line in _by_filters(plan, 1)]
    elif plan.merged:
        lines.append("models:")
        for place, path in enumerate(paths):
            lines += [f"- model: {path}", "  parameters:", "    weight:"]
            lines += [f"    {line}" for line in _by_filters(plan, place)]
        lines += ["merge_method: linear", "parameters:", "  normalize: false"]
    else:
        lines += _changes_from_base(plan, paths)
    if plan.method == MergeMethod.WEIGHTED_SUM:
        lines += ["dtype: float32", f"out_dtype: {_DTYPES.get(plan.dtype, 'float32')}"]
    else:  # as the tools do: in the dtype of the result
        lines.append(f"dtype: {_DTYPES.get(plan.dtype, 'float32')}")
    return "\n".join(lines) + "\n"


def _by_filters(plan: MergePlan, place: int) -> list[str]:
    """Return the weights of one source by parts of the names of keys, as YAML."""
    usual, groups = _by_weights(plan.merged)
    everything = [key for merged in plan.merged for key in merged.keys]
    lines = []
    for weights, keys in groups:
        held = set(keys)
        for text in _filters(keys, [key for key in everything if key not in held]):
            lines += [f"- filter: {_quoted(text)}", f"  value: {weights[place]}"]
    return [*lines, f"- value: {usual[place]}"]


def _slices(plan: MergePlan, paths: Mapping[str, str]) -> list[str]:
    lines = ["slices:"]
    for run in plan.runs:
        lines += ["- sources:", f"  - model: {paths[run.model]}"]
        lines.append(f"    layer_range: [{run.start}, {run.start + run.count}]")
    return [*lines, "merge_method: passthrough"]


def _changes_from_base(plan: MergePlan, paths: Sequence[str]) -> list[str]:
    """Return a merge by changes from a base: model stock, TIES, DARE and their like."""
    lines = ["models:"]
    for path, parameters in zip(paths, plan.parameters, strict=True):
        lines.append(f"- model: {path}")
        if parameters:
            lines.append("  parameters:")
            lines += [f"    {name}: {value}" for name, value in parameters.items()]
    at = [model.name for model in plan.sources].index(plan.base)
    lines += [f"merge_method: {_MERGEKIT_METHODS[plan.method]}", f"base_model: {paths[at]}"]
    if any(plan.parameters):
        lines += ["parameters:", f"  normalize: {str(plan.normalised).lower()}"]
        scale = sum(p.get("weight", 0.0) for p in plan.parameters)
        if plan.normalised and abs(scale - 1) > _NO_SCALE:
            lines.append(f"  lambda: {scale:.4g}")
    return lines


def _model_folder(path: Path) -> Path | None:
    """Return the folder of a model that transformers can load, of which a path is the weights."""
    folder = path if path.is_dir() else path.parent
    whole = path == folder or path.name in ("model.safetensors", "pytorch_model.bin")
    return folder if whole and (folder / "config.json").is_file() else None


def _by_weights(
    merged: Sequence[MergedKey],
) -> tuple[Weights, list[tuple[Weights, list[str]]]]:
    """Return the weights that most keys have, and the keys of each other set of weights."""
    counts = Counter(key.weights for key in merged)
    if not counts:
        raise NoAnswerError("there is nothing to merge", "name another model")
    usual = min(counts, key=lambda weights: (-counts[weights], weights))
    groups: dict[Weights, list[str]] = defaultdict(list)
    for key in merged:
        if key.weights != usual:
            groups[key.weights].extend(key.keys)
    return usual, sorted(groups.items(), key=lambda group: group[1][0])


def _filters(keys: Sequence[str], others: Sequence[str], prefix: str = "") -> list[str]:
    """Return few texts of which one is in each of some keys, and none in any other key.

    >>> _filters(["vae.a.w", "vae.b.w", "unet.in.1.w"], ["unet.in.10.w", "unet.out.w"])
    ['vae.', 'unet.in.1.']
    """
    if prefix and not any(prefix in other for other in others):
        return [prefix]
    deeper: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        end = key.find(".", len(prefix))
        deeper[key[: end + 1] if end >= 0 else key].append(key)
    return [
        text
        for part, some in deeper.items()
        for text in ([part] if part == some[0] else _filters(some, others, part))
    ]


def mecha_text(plan: MergePlan) -> str:
    """Return a recipe for sd-mecha; without an end of line, which it takes for a command.

    Raises:
        NoAnswerError: a family or a file that it cannot read.
    """
    _require_weights(plan)
    config = _MECHA_CONFIGS.get(plan.family)
    if config is None:
        known = ", ".join(_MECHA_CONFIGS)
        raise NoAnswerError(
            f"{printable(plan.model)} is not of {known}, whose layout .mecha recipes name",
            "write a .yaml file for mergekit instead",
        )
    lines = ["version 0.1.0"]
    lines += [f"# {printable(plan.model, 200)}: {note}" for note in plan.notes]
    count = 0  # of instructions so far, which later ones refer to by number

    def add(line: str) -> str:
        nonlocal count
        lines.append(line)
        count += 1
        return f"&{count - 1}"

    of = f'model_config="{config}" merge_space='
    sources = [add(f'model {_mecha_path(model)} {of}"weight"') for model in plan.sources]
    result = sources[0]
    for place, source in enumerate(sources[1:], 1):
        shares = [f"{key.canonical_key}={key.weights[place]}" for key in plan.merged]
        literal = add(f'literal {add("dict " + " ".join(shares))} {of}"param"')
        if len(sources) == 2:
            result = add(f'merge "weighted_sum" {result} {source} alpha={literal}')
        else:
            change = add(f'merge "subtract" {source} {sources[0]}')
            result = add(f'merge "add_difference" {result} {change} alpha={literal}')
    return "\n".join(lines)


def _require_weights(plan: MergePlan) -> None:
    if plan.method != MergeMethod.WEIGHTED_SUM:
        raise NoAnswerError(
            f"{printable(plan.model)} is made by {plan.method}, which this form has no words for",
            "write a .yaml file for mergekit instead",
        )


def _mecha_path(model: Model) -> str:
    path = str(file_of(model))
    if not path.endswith(".safetensors") or set('="\\\n') & set(path):
        raise NoAnswerError(
            f"sd-mecha cannot read {printable(path)}",
            "it reads .safetensors files with no = or quote in their path; write a .yaml file",
        )
    return f'"{path}"'


def block_numbers(plan: MergePlan, *, with_base: bool = True) -> tuple[str, list[str]]:
    """Return the shares of the second model as one line of numbers, and what to know of them.

    25 blocks in the order of the network, before them the base: the text encoder. Some tools count
    the time embedding with it, others with IN00; the last layers count with OUT11. Of a sum
    a + k (b − c) the numbers are k.

    Args:
        with_base: whether the base is among them; it is told in the notes anyway.

    Raises:
        NoAnswerError: more models than such a line has room for, or another network.
    """
    _require_weights(plan)
    blocks = plan.by_block("unet")
    if not set(MERGE_BLOCKS) <= set(blocks):
        raise NoAnswerError(
            f"{printable(plan.model)} has no UNet with the 25 blocks of SD1 and SD2",
            "write a .yaml or .mecha file instead",
        )
    at, roles = _shares_of(plan, blocks)
    base, notes = _base(plan, at, blocks)
    numbers = [_number(blocks[name][at]) for name in MERGE_BLOCKS]
    named = ", ".join(
        f"{role} = {printable(plan.sources[i].name, 80)}" for role, i in roles.items()
    )
    first = [f"{named}; the numbers are the share of B; base {_number(base)}"]
    for beside, block in (("TIME", None), ("OUT", "OUT11")):
        counted = base if block is None else blocks[block][at]
        if beside in blocks and abs(blocks[beside][at] - counted) > 1e-9:
            where = "the base or IN00" if block is None else block
            notes.append(f"{beside} has {_number(blocks[beside][at])}; tools count it with {where}")
    return ",".join([_number(base), *numbers] if with_base else numbers), first + notes


def _shares_of(plan: MergePlan, blocks: dict[str, Weights]) -> tuple[int, dict[str, int]]:
    """Return the place of the model whose share is told, and A, B and C by their places."""
    used = [i for i in range(len(plan.sources)) if any(w[i] for w in blocks.values())]
    if len(used) == 2:
        return used[1], {"A": used[0], "B": used[1]}
    if len(used) == 3:
        subtracted = min(used, key=lambda i: sum(w[i] for w in blocks.values()))
        a, b = (i for i in used if i != subtracted)
        for first, second in ((a, b), (b, a)):
            if all(abs(w[second] + w[subtracted]) < 0.01 for w in blocks.values()):
                return second, {"A": first, "B": second, "C": subtracted}
    raise NoAnswerError(
        f"{printable(plan.model)} is made of {len(used)} models, which one line of numbers by "
        "block cannot tell",
        "write a .yaml or .mecha file instead",
    )


def _base(plan: MergePlan, at: int, blocks: dict[str, Weights]) -> tuple[float, list[str]]:
    """Return the share in the text encoder, and notes; that of the UNet where it is not known."""
    found = plan.of_component("text_encoder")
    notes = [note for note in plan.notes if note.startswith("VAE: ")]
    if found is not None and abs(sum(found) - 1) < 1e-6:
        return found[at], notes
    shares = sorted(w[at] for w in blocks.values())
    notes.append("the text encoder has no single share: the base is the median of the blocks")
    return shares[len(shares) // 2], notes


def _number(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")


def _quoted(text: str) -> str:
    """Return text as a quoted scalar of YAML: that of JSON is one."""
    return json.dumps(text, ensure_ascii=False)
