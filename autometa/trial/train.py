"""Train one recipe in full, and evaluate what came out: the Python side of `autometa train` and `evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autometa.errors import CheckpointError, ConfigError
from autometa.learning.checkpoint_facts import exists
from autometa.records import Accuracy, Budget, TrialConfig, TrialRecord, checked
from autometa.trial import build
from autometa.trial.evaluate import measure_checkpoint
from autometa.trial.job import Job
from autometa.trial.measured import Measured, models_in, seed_folder, together
from autometa.trial.model_files import RECIPE
from autometa.trial.opened import at, open_both, placed
from autometa.trial.recipe import Recipe, read_recipes, write_recipes
from autometa.trial.run import OnRung, OnStep, run
from autometa.trial.withdrawn import notes

_log = logging.getLogger(__name__)


def train(
    recipe: Recipe | str | Path,
    folder: str | Path,
    *,
    budget: Budget | None = None,
    seed: int | None = None,
    data_root: str | Path | None = None,
    dataset: str | Path | None = None,
    pretrain_dataset: str | Path | None = None,
    use_gpu: bool | None = None,
    on_rung: OnRung | None = None,
    on_step: OnStep | None = None,
) -> TrialRecord:
    """Train a recipe (or the first one in a file) into `folder`, going on from a checkpoint that is there.

    The recipe is written beside the model.

    Args:
        budget, seed: in place of the recipe's own.
        dataset, pretrain_dataset: where the recipe's image folders are now, if they were moved; what lies there must
            be the data that the recipe came from, if it says which.
        use_gpu: None takes a GPU where there is one.

    Raises:
        ConfigError: the recipe is wrong. CheckpointError: `folder` holds another model, or one of other data.
        DataError: the data set is missing, too small, or not the recipe's own.
    """
    chosen = ready(recipe, budget=budget, seed=seed)
    if models_in(Path(folder)) != [Path(folder)]:
        raise CheckpointError(f"{folder}: holds one model a seed (--seeds); choose another folder for a single one")
    job = chosen.job(Path(folder), use_gpu=use_gpu)
    job = placed(job, data_root=data_root, dataset=dataset, pretrain_dataset=pretrain_dataset)
    tell_notes(job)
    record = run(job, on_rung=on_rung, on_step=on_step)
    if exists(Path(folder)):
        write_recipes(Path(folder) / RECIPE, [chosen], "toml")
    return record


def tell_notes(job: Job) -> None:
    """Log what a user should know of a job's data and options; raises as `open_both` where the data is not there."""
    data, train_on = open_both(job)
    for note in dict.fromkeys((*notes(job.config), *data.notes, *train_on.notes)):
        _log.warning(note)


def ready(
    recipe: Recipe | str | Path, *, budget: Budget | None = None, seed: int | None = None, where: str | None = None
) -> Recipe:
    """A recipe, or the first one in a file, with another budget or seed, if one is given, and checked.

    Args:
        where: what errors call it; by default its file.

    Raises:
        ConfigError: the file, a field or the configuration is wrong.
    """
    if not isinstance(recipe, Recipe):
        where = where or f"{recipe}: recipe 1"
        recipe = read_recipes(Path(recipe))[0]
    where = where or "recipe"
    changes = {k: v for k, v in {"budget": budget, "seed": seed}.items() if v is not None}
    recipe = checked(Recipe, {**dict(recipe), **changes}, where=where)
    config = checked(TrialConfig, {"values": recipe.config}, where=f"{where}: config")
    build.candidate(config, budget=recipe.budget, where=f"{where}: config")
    return recipe


@dataclass(frozen=True)
class TrainedSeeds:
    """One recipe trained with several seeds: each record by its seed, and what the models show together."""

    records: dict[int, TrialRecord]
    validation: Accuracy


def train_seeds(
    recipe: Recipe | str | Path,
    folder: str | Path,
    count: int,
    *,
    seed: int | None = None,
    on_seed: Callable[[int], None] = lambda _: None,
    **how: Any,
) -> TrainedSeeds:
    """Train a recipe with `count` seeds, each into a folder of its own in `folder`, going on where it stopped.

    Args:
        seed: the first; the others follow. By default the recipe's.
        on_seed: told each seed before it is trained.
        how: as of `train`.

    Raises:
        ConfigError: a training failed; the others are kept. Other errors are as of `train`.
    """
    if count < 2:
        raise ConfigError(f"--seeds {count}: one seed has no spread; give 2 or more")
    chosen, folder = ready(recipe), Path(folder)
    if exists(folder):
        raise CheckpointError(f"{folder}: holds a single model; choose another folder for --seeds")
    first = chosen.seed if seed is None else seed
    records = {}
    for each in range(first, first + count):
        on_seed(each)
        records[each] = train(chosen, seed_folder(folder, each), seed=each, **how)
    failed = [f"seed {each}: {record.reason}" for each, record in records.items() if record.state == "fail"]
    if failed:
        raise ConfigError(f"training failed: {'; '.join(failed)}")
    return TrainedSeeds(records, _validated(chosen, [seed_folder(folder, each) for each in records], **how))


def _validated(
    recipe: Recipe,
    models: list[Path],
    *,
    data_root: str | Path | None = None,
    dataset: str | Path | None = None,
    use_gpu: bool | None = None,
    **_: Any,
) -> Accuracy:
    """What the models show together on the episodes that each was validated on."""
    job = recipe.job(models[0], data_root=str(data_root) if data_root else None)
    ref, count, seed = at(dataset, job.dataset), recipe.validation_episodes, recipe.validation_seed

    def measured(model: Path) -> Measured:
        return measure_checkpoint(model, split="val", episodes=count, seed=seed, use_gpu=use_gpu, dataset=ref)

    return together([measured(model) for model in models])
