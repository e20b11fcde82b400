"""Commands that say where a model comes from: recipes, directions, the family tree."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from megasim.anatomy.block_order import block_place
from megasim.commands import options
from megasim.commands.completion import complete_models, complete_several_models
from megasim.commands.console import ConsoleProgress, say, show, show_json, table_text
from megasim.errors import CHECK_FAILED, NOT_PROVED, printable
from megasim.words import ClaimVerdict

if TYPE_CHECKING:
    import pandas as pd

    from megasim.exchange.merge_plan import MergePlan
    from megasim.lineage.recipe_result import Recipe
    from megasim.workspace import Workspace


# Of more rivals the rest is in the JSON.
_MOST_RIVALS = 10


@click.command("recipe")
@click.argument("model", metavar="MODEL", shell_complete=complete_models)
@click.option(
    "--from",
    "parents",
    type=options.ModelNames(),
    shell_complete=complete_several_models,
    help="The parents of MODEL, if they are known.",
)
@options.component
@options.from_sketches
@click.option(
    "--format",
    "form",
    type=click.Choice(["mbw", "mbw25"]),
    help="Print the share of the second parent in each block as one line of 26 numbers, the base "
    "first, or of the 25 without it.",
)
@click.option(
    "--check",
    "claimed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check a recipe of mergekit against the weights.",
)
@options.output(
    False,
    "Recipe of the whole file: .yaml for mergekit, .mecha for sd-mecha, .json. With -c, other "
    "components come from the heaviest parent.",
)
@options.as_json
@click.pass_context
def recipe_command(
    ctx: click.Context,
    model: str,
    parents: list[str] | None,
    component: str | None,
    estimate: bool,
    form: str | None,
    claimed: Path | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Write MODEL as a weighted sum of other models, block by block, or say that it is not one.

    With -c all, each component of MODEL in its turn. A file of -o can be run by the merge tool as
    it is. With --check, say whether MODEL was made as a recipe states; the exit code is 0 where it
    is confirmed, 5 where the weights contradict it, 6 where they do not decide.
    """
    from megasim.exchange.recipe_files import RECIPE_ENDINGS

    if output is not None:
        options.check_ending(output, RECIPE_ENDINGS)
    workspace = options.open_workspace(ctx)
    if claimed is not None:
        checked = workspace.check_recipe(model, claimed, component, progress=ConsoleProgress())
        if as_json:
            show_json(checked.to_json())
        else:
            show(checked.sentence())
        codes = {ClaimVerdict.CONFIRMED: 0, ClaimVerdict.CONTRADICTED: CHECK_FAILED}
        return codes.get(checked.verdict, NOT_PROVED)
    every = component == "all" or (component is None and bool(form or output))
    if every:
        recipes = workspace.recipes(
            model, parents=parents, estimate=estimate, progress=ConsoleProgress()
        )
    else:
        recipes = [
            workspace.recipe(
                model, component, parents=parents, estimate=estimate, progress=ConsoleProgress()
            )
        ]
    if form is not None:
        _show_numbers(_plan(workspace, recipes, every), form)
    if output is not None:
        _write_recipe(workspace, recipes, every, output)
    if form is not None or output is not None:
        return 0
    if as_json:
        show_json([r.to_json() for r in recipes] if every else recipes[0].to_json())
        return 0
    for place, recipe in enumerate(recipes):
        if place:
            show("")
        _show_recipe(recipe)
    return 0


def _plan(workspace: Workspace, recipes: list[Recipe], every: bool) -> MergePlan:
    """Return how the file is made; with one recipe alone, the rest comes from its first parent."""
    rest = "" if every or not recipes[0].parents else recipes[0].parents[0].model
    return workspace.merge_plan(recipes[0].model, recipes, rest)


def _show_numbers(plan: MergePlan, form: str) -> None:
    from megasim.exchange.recipe_files import block_numbers

    numbers, notes = block_numbers(plan, with_base=form == "mbw")
    show(numbers)
    for note in notes:
        say(f"note: {note}")


def _write_recipe(workspace: Workspace, recipes: list[Recipe], every: bool, output: Path) -> None:
    """Write recipes as the ending of a file says."""
    from megasim.exchange.recipe_files import mecha_text, mergekit_yaml
    from megasim.output_files import write_file

    ending = output.suffix.lower()
    if ending == ".json":
        options.write_json(
            [r.to_json() for r in recipes] if every else recipes[0].to_json(), output
        )
        return
    plan = _plan(workspace, recipes, every)
    write_file(output, mecha_text(plan) if ending == ".mecha" else mergekit_yaml(plan))
    for note in plan.notes:
        say(note)
    say(f"wrote {printable(output)}")


def _show_recipe(recipe: Recipe) -> None:
    """Print a recipe: weights, blocks, and the sets that explain nearly as much."""
    from megasim.lineage.recipe_result import percent, weighted_sum

    show(recipe.sentence())
    if recipe.parents:
        show(table_text(_parents(recipe)))
    if recipe.blocks:
        show(table_text(blocks_table(recipe)))
    word = "rival" if recipe.claimed else "tried"
    for rival in recipe.rivals[:_MOST_RIVALS]:
        scatter = (
            "" if isnan(rival.spread) else f", weights scatter by {rival.spread:.2g} over layers"
        )
        left = f"{percent(rival.unexplained)} left{scatter}"
        show(f"{word}: {weighted_sum(rival.parents)}; {left}")
    if len(recipe.rivals) > _MOST_RIVALS:
        show(f"{len(recipe.rivals) - _MOST_RIVALS} more are listed with --json")
    if recipe.decides:
        show(recipe.decides)
    if recipe.near_copies:
        names = ", ".join(printable(name, 60) for name in recipe.near_copies)
        show(f"near-copies of it, left out: {names}")
    for note in recipe.notes:
        say(f"note: {note}")


def _parents(recipe: Recipe) -> pd.DataFrame:
    """Return the weights with their standard errors and their spread over layers."""
    import pandas as pd

    rows = [(p.model, round(p.weight, 4), p.error, p.spread) for p in recipe.parents]
    return pd.DataFrame(rows, columns=["parent", "weight", "standard_error", "spread_over_layers"])


def blocks_table(recipe: Recipe) -> pd.DataFrame:
    """Return the weights of each block as a table, in the order of the network."""
    import pandas as pd

    from megasim.lineage.recipe_result import percent

    rows = [
        (
            b.block or "others",
            *(round(w, 4) for w in b.weights),
            None if isnan(b.unexplained) else percent(b.unexplained),
        )
        for b in recipe.blocks
    ]
    parents = [parent.model for parent in recipe.parents]
    return pd.DataFrame(rows, columns=["block", *parents, "unexplained"])


@click.command("direction")
@click.argument("models", nargs=4, metavar="A B C D", shell_complete=complete_models)
@options.component
@options.from_sketches
@options.as_json
@click.pass_context
def direction_command(
    ctx: click.Context,
    models: tuple[str, str, str, str],
    component: str | None,
    estimate: bool,
    as_json: bool,
) -> None:
    """Measure how similar the change A→B is to the change C→D.

    Is a fine-tune the same change applied to another base? Is a LoRA merged in?
    """
    found = options.open_workspace(ctx).direction(
        *models, component=component, estimate=estimate, progress=ConsoleProgress()
    )
    if as_json:
        show_json(found.to_json())
    else:
        show(found.sentence())
        for block in sorted(found.blocks, key=lambda b: block_place(b.block)):
            error = f" ± {block.error:.3f}" if block.error > 0 else ""
            show(f"  {printable(block.block) or 'others'}: {block.cosine:.3f}{error}")


@click.command("lineage")
@options.component
@options.models
@options.top
@click.option(
    "--claims",
    "claims_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Claimed recipes to check, as JSON or CSV with model, parents, weights.",
)
@click.option("--no-metadata", is_flag=True, help="Ignore the metadata of the files.")
@options.from_sketches
@options.look
@options.output(False, "Tree: .html, .png, .svg, .pdf, .dot, .graphml or .json.")
@options.as_json
@click.pass_context
def lineage_command(
    ctx: click.Context,
    component: str | None,
    models: list[str] | None,
    top: int | None,
    claims_file: Path | None,
    no_metadata: bool,
    estimate: bool,
    look: options.Look,
    output: Path | None,
    as_json: bool,
) -> None:
    """Draw the family tree of the models, and check claims against the weights."""
    from megasim.plots.lineage_files import LINEAGE_ENDINGS, save_lineage

    if output is not None:
        options.check_ending(output, LINEAGE_ENDINGS)
    style = look.style(output)
    lineage, checked = options.open_workspace(ctx).lineage_and_claims(
        component,
        models=models,
        top=top,
        use_metadata=not no_metadata,
        claims_file=claims_file,
        estimate=estimate,
        progress=ConsoleProgress(),
    )
    if output is not None:
        save_lineage(lineage, output, style)
        say(f"wrote {printable(output)}")
    if as_json:
        show_json({**lineage.to_json(), "claims": [c.to_json() for c in checked]})
    else:
        for family in lineage.families:
            if len(family.models) > 1:
                base = printable(family.root)
                show(f"family of {len(family.models)}; most likely base: {base}")
        for words, alone in (
            ("related to no other", lineage.unrelated),
            ("compared with no other", lineage.uncompared),
        ):
            if alone:
                show(f"{words}: {', '.join(printable(model) for model in alone)}")
        for edge in lineage.edges:
            show(f"  {edge.sentence()}")
        for claim in checked:
            show(f"claim {claim.verdict}: {claim.claim.sentence()}: {claim.reason}")
        for note in lineage.notes:
            say(f"note: {note}")
