"""`autometa train`: a recipe in full, with one seed or several, or a model further."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.options import LARGEST_SEED, DataRoot, Dataset, Gpu

if TYPE_CHECKING:
    from autometa.records import Budget, TrialRecord
    from autometa.trial.train import TrainedSeeds
    from autometa.trial.train_further import TrainedFurther

Opt = typer.Option


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="RECIPE|MODEL", help="A file from `autometa export`, or a folder to train further."),
    ],
    output: Annotated[
        Path | None, Opt("--output", "-o", help="Folder. [default: runs/models/RECIPE or runs/models/MODEL-further]")
    ] = None,
    rank: Annotated[int, Opt(min=1, help="Which recipe in the file, the first is the best.")] = 1,
    budget: Annotated[
        str | None, Opt(help="Steps (4000) or time (30m), of a model so much more. [default: the recipe's]")
    ] = None,
    seed: Annotated[int | None, Opt(min=0, max=LARGEST_SEED, help="[default: the recipe's]")] = None,
    seeds: Annotated[int, Opt(min=1, help="Train this many models, with seeds from --seed on.")] = 1,
    data_root: DataRoot = None,
    dataset: Dataset = None,
    pretrain_dataset: Annotated[
        str | None, Opt(metavar="DIR", help="The same for the recipe's --pretrain-dataset.")
    ] = None,
    gpu: Gpu = None,
    as_json: Json = False,
) -> None:
    """Train a recipe in full, or a model further; the same command again goes on from its last checkpoint.

    A model goes on from before its cool-down, at a constant learning rate, and is cooled down at the end. One of a
    fixed budget warms up first. Members of an ensemble share the budget. MODEL stays as it is, unless -o names it.
    """
    from autometa.errors import ConfigError
    from autometa.records import parse_budget

    length = parse_budget(budget) if budget else None
    how = {"data_root": data_root, "dataset": dataset, "pretrain_dataset": pretrain_dataset, "use_gpu": gpu}
    if not recipe.is_dir():
        return _train_recipe(recipe, rank, output, {"budget": length, "seed": seed}, seeds, how, as_json)
    for option, is_given in {"--rank": rank > 1, "--seed": seed is not None, "--seeds": seeds > 1}.items():
        if is_given:
            raise ConfigError(f"{option}: {recipe} is a model, which goes on as it began; leave it out")
    if length is None:
        raise ConfigError(f"--budget: say how much longer to train {recipe}, such as 30m or 4000")
    return _train_model(recipe, output, length, how, as_json)


def _train_recipe(
    file: Path,
    rank: int,
    output: Path | None,
    changes: dict[str, Any],
    seeds: int,
    how: dict[str, Any],
    as_json: bool,
) -> None:
    from autometa.cli.progress import training_progress
    from autometa.errors import ConfigError
    from autometa.trial.recipe import read_recipes
    from autometa.trial.train import ready, train_seeds
    from autometa.trial.train import train as run_training

    recipes = read_recipes(file)
    if rank > len(recipes):
        raise ConfigError(f"--rank {rank}: {file} has {len(recipes)}")
    folder = output or Path("runs/models") / (file.stem if seeds == 1 else f"{file.stem}-seeds")
    chosen = ready(recipes[rank - 1], **changes, where=f"{file}: recipe {rank}")
    with training_progress(quiet=as_json) as progress:
        how |= {"on_rung": progress.on_rung, "on_step": progress.on_step}
        if seeds == 1:
            record = run_training(chosen, folder, **how)
        else:
            trained = train_seeds(chosen, folder, seeds, on_seed=progress.on_seed, **how)
    if seeds == 1:
        return _print_trained(record, folder, as_json)
    return _print_trained_seeds(trained, folder, as_json)


def _train_model(model: Path, output: Path | None, budget: Budget, how: dict[str, Any], as_json: bool) -> None:
    from autometa.cli.progress import training_progress
    from autometa.trial.model_files import name_of
    from autometa.trial.train_further import train_further

    folder = output or Path("runs/models") / f"{name_of(model)}-further"
    with training_progress(quiet=as_json) as progress:
        how |= {"on_member": progress.on_member, "on_rung": progress.on_rung, "on_step": progress.on_step}
        trained = train_further(model, folder, budget=budget, **how)
    _print_trained_further(trained, folder, as_json)


def _print_trained(record: TrialRecord, folder: Path, as_json: bool) -> None:
    from autometa.cli.words import certain, marked, size
    from autometa.errors import ConfigError

    if as_json:
        print_json(record.model_dump(mode="json"))
    if record.state == "fail":
        raise ConfigError(f"training failed: {record.reason}")
    if not as_json:
        assert record.last is not None
        mark = marked(record.config.values, record.facts)
        print(f"trained {record.last.steps} steps in {record.last.seconds:.0f} s, saved in {folder}")
        print(f"  validation{mark} {certain(record.last.accuracy, 'validation')}")
        print(f"  {size(record.facts)}")
        print(f"next: autometa evaluate {folder}")


def _print_trained_seeds(trained: TrainedSeeds, folder: Path, as_json: bool) -> None:
    from autometa.cli.words import certain

    if as_json:
        print_json({"seeds": trained.records, "validation": trained.validation})
        return
    print(f"trained {len(trained.records)} models, validated, saved in {folder}")
    for seed, record in trained.records.items():
        assert record.last is not None
        print(f"  seed {seed}: {certain(record.last.accuracy, 'validation')}")
    print(f"  together: {certain(trained.validation, 'validation')}")
    print(f"next: autometa evaluate {folder}")


def _print_trained_further(trained: TrainedFurther, folder: Path, as_json: bool) -> None:
    from autometa.cli.words import certain, marked

    if as_json:
        print_json({"members": trained.records, "validation": trained.validation, "before": trained.before})
        return
    lasts = [record.last for record in trained.records if record.last]
    steps = " and ".join(str(last.steps) for last in lasts)
    print(f"trained {steps} steps in {sum(last.seconds for last in lasts):.0f} s in all, saved in {folder}")
    mark = marked(trained.records[0].config.values)
    print(f"  validation{mark} {certain(trained.validation, 'validation')}")
    if trained.before:
        print(f"  before{mark}     {certain(trained.before, 'validation')}")
    print(f"next: autometa evaluate {folder}")
