"""Train one recipe in full, and evaluate what came out: the Python side of `autometa train` and `evaluate`."""

from __future__ import annotations

from pathlib import Path

from autometa.records import Budget, TrialRecord, checked
from autometa.trial.check import check_config
from autometa.trial.recipe import Recipe, read_recipes
from autometa.trial.run import OnRung, OnStep, run


def train(
    recipe: Recipe | str | Path,
    folder: str | Path,
    *,
    budget: Budget | None = None,
    seed: int | None = None,
    data_root: str | Path | None = None,
    use_gpu: bool | None = None,
    where: str = "recipe",
    on_rung: OnRung | None = None,
    on_step: OnStep | None = None,
) -> TrialRecord:
    """Train a recipe (or the first one in a file) into `folder`, going on from a checkpoint that is there.

    Args:
        budget, seed: in place of the recipe's own.
        use_gpu: None takes a GPU where there is one.
        where: what errors call the recipe.

    Raises:
        ConfigError: the recipe is wrong. CheckpointError: `folder` holds another model. DataError: the data
            set is missing or too small.
    """
    chosen = recipe if isinstance(recipe, Recipe) else read_recipes(Path(recipe))[0]
    changes = {k: v for k, v in {"budget": budget, "seed": seed}.items() if v is not None}
    chosen = checked(Recipe, {**dict(chosen), **changes}, where=where)
    job = chosen.job(Path(folder), data_root=str(data_root) if data_root else None, use_gpu=use_gpu)
    check_config(job.config, where=f"{where}: config")
    return run(job, on_rung=on_rung, on_step=on_step)
