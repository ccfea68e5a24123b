"""Recipes of models: how what lies in a model's folder can be trained again. It loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autometa.learning.checkpoint_facts import read_facts
from autometa.learning.open_ended import with_known_end
from autometa.records import RungReport
from autometa.trial.model_files import RECIPE, job_of, members_of
from autometa.trial.recipe import Recipe, read_recipes

# What of a recipe's provenance stays true of a model that was trained further.
_STAYS = {"study", "trial", "space", "search_budget", "search_seed", "dataset_fingerprint", "versions", "past", "date"}


def recipes_of(model: Path) -> list[Recipe]:
    """The recipes beside a model, else what its checkpoint says; of an ensemble one for each member.

    Raises:
        ConfigError: the recipe file is wrong. CheckpointError: there is no model, or it is damaged.
    """
    if (model / RECIPE).is_file():
        return read_recipes(model / RECIPE)
    return [_of_checkpoint(member) for member in members_of(model)]


def recipes_of_further(model: Path, before: Path) -> list[Recipe]:
    """The recipes of a model that was trained further, with what is known of the one before."""
    known = recipes_of(before)

    def with_provenance(recipe: Recipe) -> Recipe:
        same = (r.provenance for r in known if r.seed == recipe.seed and with_known_end(r.config) == recipe.config)
        kept = {name: fact for name, fact in next(same, {}).items() if name in _STAYS}
        return recipe.model_copy(update={"provenance": kept | recipe.provenance})

    return [with_provenance(_of_checkpoint(member)) for member in members_of(model)]


def _of_checkpoint(folder: Path) -> Recipe:
    facts, job = read_facts(folder), job_of(folder)
    provenance: dict[str, Any] = {}
    if facts.get("curve"):
        last = RungReport.model_validate(facts["curve"][-1])
        provenance["validation"] = last.accuracy.model_dump(exclude_none=True)
    if job.further:
        provenance["trained_further"] = job.further.budget.model_dump(include={"steps", "seconds"}, exclude_none=True)
    return Recipe.of(job, steps=int(facts.get("steps", 0))).model_copy(update={"provenance": provenance})
