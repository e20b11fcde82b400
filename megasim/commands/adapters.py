"""Adapters: what they change, what they are for, where they are baked in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from megasim.checkpoint.locations import located
from megasim.commands import options
from megasim.commands.completion import complete_models
from megasim.commands.console import ConsoleProgress, say, show, show_json, table_text
from megasim.errors import UsageError, printable
from megasim.wording.sentences import counted

if TYPE_CHECKING:
    import pandas as pd

    from megasim.answers.adapter_baking import Baked
    from megasim.answers.adapter_joint import JointBaking
    from megasim.store.rows import Store


@click.command("adapter")
@click.argument("adapters", nargs=-1, metavar="[LORA]...", shell_complete=complete_models)
@click.option("--base", help="The model before the adapter was added: a file, or one of the store.")
@click.option(
    "--model", help="A model in which the adapter is sought: a file, or one of the store."
)
@options.as_json
@click.pass_context
def adapter_command(
    ctx: click.Context,
    adapters: tuple[str, ...],
    base: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Say what a LoRA or the like changes, which models it is for, and if it is baked into one.

    Of two adapters, the changes that they make are compared, never their factors. Of several and
    --model, it is measured how strongly each is in it, together. With --model alone, all adapters
    of the store are sought in it. Without a base, the known model is taken that explains it best.
    """
    from megasim.answers import adapters as answers
    from megasim.answers.adapter_pairs import compare_adapters
    from megasim.answers.adapters_in_model import adapters_in_model, adapters_together

    progress = ConsoleProgress()
    if model is None and (len(adapters) > 2 or (len(adapters) == 2 and base)):
        raise UsageError(
            "adapters are described one at a time, or compared by twos",
            "write `megasim adapter LORA LORA`, or name a model with --model",
        )
    if not adapters and model is None:
        raise UsageError("no adapter named", "write `megasim adapter LORA`, or see --model")
    named = [name for name in (*adapters, base, model) if name is not None]
    store = _store(ctx, named)
    if not adapters:
        if store is None or model is None or located(model).exists():
            raise UsageError(
                "--model alone is of a model of the store", "ingest it, and give its name"
            )
        found = adapters_in_model(store, model, base=base, progress=progress)
        _answer(found.sentences(), found.to_json(), as_json)
        if found.together is not None and not as_json:
            show(table_text(strengths_table(found.together)))
        return
    if len(adapters) > 1 and model is not None:
        together = adapters_together(store, adapters, model, base=base, progress=progress)
        _answer(together.sentences(), together.to_json(), as_json)
        if not as_json:
            show(table_text(strengths_table(together)))
            _say_skipped(together.skipped)
        return
    if len(adapters) == 2:
        first, second = (answers.open_named_adapter(name, store) for name in adapters)
        pair = compare_adapters(first, second, progress=progress)
        _answer(pair.sentences(), pair.to_json(), as_json)
        return
    answer = answers.load_adapter(store, adapters[0], base=base, model=model, progress=progress)
    _answer(answer.sentences(), answer.to_json(), as_json)
    if answer.baked is not None and not as_json:
        _show_baked(answer.baked)


def _store(ctx: click.Context, named: list[str]) -> Store | None:
    """Open the store; None where there is none, and all that is named are files."""
    from megasim.store.connection import store_path

    are_there = all(located(name).exists() for name in named)
    if are_there and not store_path(ctx.find_root().obj).exists():
        return None
    return options.open_workspace(ctx).store


def _answer(sentences: list[str], value: object, as_json: bool) -> None:
    if as_json:
        show_json(value)
    else:
        for sentence in sentences:
            show(sentence)


def _show_baked(baked: Baked) -> None:
    """Print the strength of each block, and what else changed."""
    from megasim.answers.adapter_baking import other_sentences

    if baked.is_found:
        show(table_text(blocks_table(baked)))
    for sentence in other_sentences(baked):
        show(sentence)
    _say_skipped(baked.skipped)


def _say_skipped(skipped: Mapping[str, str]) -> None:
    if skipped:
        module, why = next(iter(skipped.items()))
        layers = counted(len(skipped), "layer")
        say(f"note: {layers} not measured, as {printable(module, 80)}: {why}")


def blocks_table(baked: Baked) -> pd.DataFrame:
    """Return the strengths by block as a table, in the order of the network."""
    import pandas as pd

    from megasim.answers.adapter_baking import blocks_in_order

    rows = [
        (
            b.block,
            round(b.strength.value, 4),
            round(b.strength.error, 4),
            b.strength.layers,
            round(b.strength.explained, 4),
            b.strength.exact if b.strength.exact is None else round(b.strength.exact, 4),
        )
        for b in blocks_in_order(baked.blocks)
    ]
    columns = ["block", "strength", "error", "layers", "explained", "share_exact"]
    return pd.DataFrame(rows, columns=columns)


def strengths_table(together: JointBaking) -> pd.DataFrame:
    """Return the strengths of several adapters by block as a table, in the order of the network."""
    import pandas as pd

    rows = [
        (block.block, printable(name, 60), round(one.value, 4), round(one.error, 4), one.layers)
        for block in together.blocks
        for name, one in zip(together.adapters, block.strengths.each, strict=True)
        if one.layers
    ]
    return pd.DataFrame(rows, columns=["block", "adapter", "strength", "error", "layers"])
