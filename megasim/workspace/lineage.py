"""An open store and what it says about descent: recipes, trees, claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megasim.progress import NO_PROGRESS, Progress
from megasim.store.matrices import main_component
from megasim.workspace.findings import StoreFindings

if TYPE_CHECKING:
    from megasim.answers.adapter_joint import JointBaking
    from megasim.answers.adapter_pairs import AdapterPair
    from megasim.answers.adapters import AdapterAnswer
    from megasim.answers.adapters_in_model import AdaptersInModel
    from megasim.answers.lineages import LineageView
    from megasim.exchange.merge_plan import MergePlan
    from megasim.exchange.recipe_check import CheckedRecipe
    from megasim.lineage.claims import CheckedClaim
    from megasim.lineage.inner_products import ChangeSimilarity
    from megasim.lineage.recipe_result import Recipe


class StoreLineage(StoreFindings):
    """An open store, its findings, and the recipes and trees of its models."""

    # Lineage

    def recipe(
        self,
        model: str,
        component: str | None = None,
        *,
        parents: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> Recipe:
        """Return a model as a weighted sum of others. See `load_recipe`.

        With `estimate`, from the sketches of all models, compared or not. Otherwise, where it is
        none, the adapters of the store are sought in it: another model plus an adapter is a recipe
        too.
        """
        from megasim.answers.adapter_recipe import with_adapter_term
        from megasim.lineage.from_store import load_recipe

        recipe = load_recipe(
            self.store,
            self._name(model),
            component or main_component(self.store),
            parents=self._names(parents),
            estimate=estimate,
            progress=progress,
        )
        if estimate or parents is not None:
            return recipe
        return with_adapter_term(self.store, recipe, progress)

    def recipes(
        self,
        model: str,
        *,
        parents: Sequence[str] | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> list[Recipe]:
        """Return the recipe of each component of a model; of an unknown architecture, of the whole.

        See `recipe`.
        """
        from megasim.exchange.merge_plan import whole_components

        name = self._name(model)
        return [
            self.recipe(name, c, parents=parents, estimate=estimate, progress=progress)
            for c in whole_components(self.store, name)
        ]

    def check_recipe(
        self,
        model: str,
        file: Path,
        component: str | None = None,
        *,
        progress: Progress = NO_PROGRESS,
    ) -> CheckedRecipe:
        """Return whether a model was made as a recipe of mergekit says. See `check_recipe`.

        Needs the extra `recipes`.
        """
        from megasim.exchange.recipe_check import check_recipe

        component = component or main_component(self.store)
        return check_recipe(self.store, self._name(model), file, component, progress=progress)

    def merge_plan(self, model: str, recipes: Sequence[Recipe], rest: str = "") -> MergePlan:
        """Return how a model is made again out of files. See `exchange.merge_plan`."""
        from megasim.exchange.merge_plan import merge_plan
        from megasim.exchange.method_plan import has_own_method, method_plan

        if has_own_method(recipes):
            return method_plan(self.store, self._name(model), recipes)
        return merge_plan(self.store, self._name(model), recipes, rest)

    def direction(
        self,
        a: str,
        b: str,
        c: str,
        d: str,
        component: str | None = None,
        *,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> ChangeSimilarity:
        """Return the cosine between the changes A→B and C→D. See `inner_products.direction`.

        With `estimate`, from the sketches.
        """
        from megasim.lineage.from_store import load_direction

        four = (self._name(a), self._name(b), self._name(c), self._name(d))
        component = component or main_component(self.store)
        return load_direction(self.store, four, component, estimate=estimate, progress=progress)

    def lineage(
        self,
        component: str | None = None,
        *,
        models: Sequence[str] | None = None,
        top: int | None = None,
        use_metadata: bool = True,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> LineageView:
        """Return the family tree of the models. See `lineage_and_claims`."""
        return self.lineage_and_claims(
            component,
            models=models,
            top=top,
            use_metadata=use_metadata,
            estimate=estimate,
            progress=progress,
        )[0]

    def claims(
        self, component: str | None = None, *, file: Path | None = None
    ) -> list[CheckedClaim]:
        """Return the claims of the metadata, and of a file, with what the weights say of them."""
        return self.lineage_and_claims(component, claims_file=file)[1]

    def lineage_and_claims(
        self,
        component: str | None = None,
        *,
        models: Sequence[str] | None = None,
        top: int | None = None,
        use_metadata: bool = True,
        claims_file: Path | None = None,
        estimate: bool = False,
        progress: Progress = NO_PROGRESS,
    ) -> tuple[LineageView, list[CheckedClaim]]:
        """Return the family tree of the models, and what the weights say of what is claimed.

        See `load_lineage`.

        Args:
            top: only so many models: the one in their middle, and those nearest to it.
            claims_file: more claims to check. See `read_claims`.
        """
        from megasim.answers.lineages import LineageView
        from megasim.lineage.claims import read_claims
        from megasim.lineage.from_store import load_lineage

        found, checked = load_lineage(
            self.store,
            component or main_component(self.store),
            models=self._central(component, models, top, None),
            use_metadata=use_metadata,
            claimed=read_claims(claims_file) if claims_file else (),
            estimate=estimate,
            progress=progress,
        )
        return LineageView(**vars(found)), checked

    # Adapters

    def adapter(
        self,
        adapter: str | Path,
        *,
        base: str | Path | None = None,
        model: str | Path | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> AdapterAnswer:
        """Return what an adapter changes, what it is for, and if it is baked into a model.

        See `load_adapter`. All three are files, folders, or models of the store.
        """
        from megasim.answers.adapters import load_adapter

        return load_adapter(self.store, adapter, base=base, model=model, progress=progress)

    def adapter_pair(
        self, a: str | Path, b: str | Path, *, progress: Progress = NO_PROGRESS
    ) -> AdapterPair:
        """Return how two adapters stand to each other, as the changes that they make.

        See `compare_adapters`.
        """
        from megasim.answers.adapter_pairs import compare_adapters
        from megasim.answers.adapters import open_named_adapter

        first, second = (open_named_adapter(named, self.store) for named in (a, b))
        return compare_adapters(first, second, progress=progress)

    def adapters_in(
        self, model: str, *, base: str | None = None, progress: Progress = NO_PROGRESS
    ) -> AdaptersInModel:
        """Return which adapters of the store are baked into a model. See `adapters_in_model`."""
        from megasim.answers.adapters_in_model import adapters_in_model

        return adapters_in_model(self.store, model, base=base, progress=progress)

    def adapters_together(
        self,
        adapters: Sequence[str | Path],
        model: str | Path,
        *,
        base: str | Path | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> JointBaking:
        """Return how strongly each of several adapters is in a model. See `adapters_together`.

        All are files, folders, or models of the store.
        """
        from megasim.answers.adapters_in_model import adapters_together

        return adapters_together(self.store, adapters, model, base=base, progress=progress)
