"""What comes after a search: `autometa export`, `train`, `evaluate` and `dashboard`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.options import Storage

if TYPE_CHECKING:
    from autometa.records import EpisodeSpec, TrialRecord
    from autometa.trial.job import DatasetRef
    from autometa.trial.measured import Measured
    from autometa.trial.train import TrainedSeeds

Opt = typer.Option
_LARGEST_SEED = 2**62  # as in `records`, which would make `--help` slow
Dataset = Annotated[str | None, Opt(metavar="DIR", help="Where the image folder is now, if it was moved.")]


class _Attack(StrEnum):
    fgsm = "fgsm"
    pgd = "pgd"


class _Task(StrEnum):
    episodes = "episodes"
    all_classes = "all-classes"


class _Kind(StrEnum):
    toml = "toml"
    json = "json"


def export(
    study: Annotated[str, typer.Argument(help="Name of the study, as in `autometa studies`.")],
    top: Annotated[int, Opt(min=1, help="How many of the best.")] = 1,
    kind: Annotated[_Kind | None, Opt("--format", help="[default: by the file's ending, else toml]")] = None,
    output: Annotated[Path | None, Opt("--output", "-o", help="File to write. [default: STUDY.toml]")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the best configurations of a study as recipes that `autometa train` takes."""
    from autometa.archives.folders import safe_name
    from autometa.cli.words import marked
    from autometa.hpo.storage import damage_told, default_url, load_study, open_storage
    from autometa.records import source_of
    from autometa.study.export import best_recipes
    from autometa.trial.recipe import write_recipes

    url = storage or default_url()
    with damage_told(url):
        recipes = best_recipes(load_study(study, open_storage(url, create=False)), top)
    is_json = kind is _Kind.json if kind else output is not None and output.suffix == ".json"
    chosen: Literal["toml", "json"] = "json" if is_json else "toml"
    file = output or Path(f"{safe_name(study)}.{chosen}")
    write_recipes(file, recipes, chosen)
    if as_json:
        return print_json({"study": study, "file": file, "recipes": recipes})
    provenances = [recipe.provenance for recipe in recipes]
    sources = [source_of(known["trial"] if "trial" in known else known["baseline"]) for known in provenances]
    marks = [marked(recipe.config, recipe.provenance) for recipe in recipes]
    named = ", ".join(source + mark for source, mark in zip(sources, marks, strict=True))
    print(f"wrote {file}: {named} of {study}")
    return print(f"next: autometa train {file}")


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, from `autometa export`.")],
    output: Annotated[Path | None, Opt("--output", "-o", help="Folder. [default: runs/models/RECIPE]")] = None,
    rank: Annotated[int, Opt(min=1, help="Which recipe in the file, the first is the best.")] = 1,
    budget: Annotated[str | None, Opt(help="Steps (4000) or time (30m). [default: the recipe's]")] = None,
    seed: Annotated[int | None, Opt(min=0, max=_LARGEST_SEED, help="[default: the recipe's]")] = None,
    seeds: Annotated[int, Opt(min=1, help="Train this many models, with seeds from --seed on.")] = 1,
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    dataset: Dataset = None,
    pretrain_dataset: Annotated[
        str | None, Opt(metavar="DIR", help="The same for the recipe's --pretrain-dataset.")
    ] = None,
    gpu: Annotated[bool | None, Opt("--gpu/--cpu", help="[default: a GPU where there is one]")] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe in full; the same command again goes on from its last checkpoint."""
    from autometa.cli.progress import training_progress
    from autometa.errors import ConfigError
    from autometa.records import parse_budget
    from autometa.trial.recipe import read_recipes
    from autometa.trial.train import train as run_training
    from autometa.trial.train import train_seeds

    recipes = read_recipes(recipe)
    if rank > len(recipes):
        raise ConfigError(f"--rank {rank}: {recipe} has {len(recipes)}")
    folder = output or Path("runs/models") / (recipe.stem if seeds == 1 else f"{recipe.stem}-seeds")
    chosen = recipes[rank - 1]
    how: dict[str, Any] = {"budget": parse_budget(budget) if budget else None, "seed": seed}
    with training_progress(quiet=as_json) as progress:
        how |= {"data_root": data_root, "dataset": dataset, "pretrain_dataset": pretrain_dataset, "use_gpu": gpu}
        how |= {"where": f"{recipe}: recipe {rank}", "on_rung": progress.on_rung, "on_step": progress.on_step}
        if seeds == 1:
            record = run_training(chosen, folder, **how)
        else:
            trained = train_seeds(chosen, folder, seeds, on_seed=progress.on_seed, **how)
    if seeds == 1:
        _print_trained(record, folder, as_json)
    else:
        _print_trained_seeds(trained, folder, as_json)


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


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A folder from `autometa train`, or of a trial.")],
    episodes: Annotated[int, Opt(min=2, help="How many episodes; the interval shrinks with their root.")] = 600,
    split: Annotated[str, Opt(help="test, val or train.")] = "test",
    way: Annotated[int | None, Opt(min=2, help="[default: as trained]")] = None,
    shot: Annotated[int | None, Opt(min=1, help="[default: as trained]")] = None,
    query: Annotated[int | None, Opt(min=1, help="[default: as trained]")] = None,
    seed: Annotated[int, Opt(min=0, max=_LARGEST_SEED, help="Seed of the episodes.")] = 0,
    attack: Annotated[_Attack | None, Opt(help="Measure accuracy under attack as well.")] = None,
    epsilon: Annotated[str, Opt(help="Largest change of a pixel, of 1 or as a fraction.")] = "8/255",
    attack_steps: Annotated[int, Opt(min=1, help="Gradient steps of pgd.")] = 10,
    task: Annotated[
        _Task, Opt(help="Episodes of new classes, or all classes of the data at once, by up to --shot images each.")
    ] = _Task.episodes,
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    dataset: Dataset = None,
    gpu: Annotated[bool | None, Opt("--gpu/--cpu", help="[default: a GPU where there is one]")] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model on episodes of classes it has never seen: accuracy, its 95 % interval, and the look."""
    from autometa.cli.progress import episode_progress
    from autometa.cli.words import marked
    from autometa.errors import ConfigError
    from autometa.trial.abilities import marks
    from autometa.trial.measured import models_in
    from autometa.trial.model_files import job_of
    from autometa.trial.opened import at
    from autometa.trial.run import measure_checkpoint

    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split {split}: it may be test, val or train")
    models = models_in(checkpoint)
    job = job_of(models[0])
    if task is _Task.all_classes:
        place = at(dataset, job.dataset).model_copy(update={"root": str(data_root)} if data_root else {})
        _evaluate_all_classes(checkpoint, place, shot, gpu, as_json)
        return
    changes = {k: v for k, v in {"way": way, "shot": shot, "query": query}.items() if v is not None}
    spec = job.episodes.model_copy(update=changes)
    place = at(dataset, job.dataset).model_copy(update={"root": str(data_root)} if data_root else {})
    steps = 1 if attack is _Attack.fgsm else attack_steps
    strength = _fraction(epsilon)

    def measured(under: tuple[float, int] | None) -> list[Measured]:
        with episode_progress(episodes * len(models), quiet=as_json) as on_batch:
            found = [
                measure_checkpoint(
                    model,
                    split=split,
                    episodes=episodes,
                    seed=seed,
                    use_gpu=gpu,
                    spec=spec,
                    dataset=place,
                    on_batch=on_batch,
                    attack=under,
                )
                for model in models
            ]
        return [one.noted(warn=_warn) for one in found]

    shown = measured(None)
    robust = measured((strength, steps)) if attack else None
    found = marks(job.config.values)
    facts: dict[str, Any] = {"dataset": place.name, "split": split, **spec.model_dump()}
    facts |= {"transductive": "transductive" in found, "external": "external" in found}
    if as_json:
        print_json(facts | _evaluated(shown, robust, strength, steps))
        return
    name = {"test": "meta-test", "val": "validation", "train": "meta-train"}[split]
    of = f"{place.name} {spec.way}-way {spec.shot}-shot {name}{marked(job.config.values)}"
    print(_headline(of, shown, split, spec))
    if robust:
        print(_robust_line(f"under {attack} with ε = {epsilon}, {steps} steps", robust))
    print(f"  {spec.query} queries a class, seed {seed}; chance {100 * spec.chance:.1f} %")


def _evaluate_all_classes(folder: Path, place: DatasetRef, shot: int | None, gpu: bool | None, as_json: bool) -> None:
    from autometa.cli.words import deployed_task
    from autometa.deployment.all_classes import SHOTS, measure_all_classes

    found = measure_all_classes(folder, dataset=place, shots=shot or SHOTS, use_gpu=gpu)
    if as_json:
        print_json({"dataset": place.name, "task": _Task.all_classes.value, **found.model_dump()})
    else:
        print(*deployed_task(found), sep="\n")


def _evaluated(shown: list[Measured], robust: list[Measured] | None, epsilon: float, steps: int) -> dict[str, Any]:
    """What was measured, for machines; `each` where it was of several models."""
    from autometa.trial.measured import together

    facts = together(shown).model_dump()
    if len(shown) > 1:
        facts["each"] = [together([one]).model_dump() for one in shown]
    if robust:
        facts["robust"] = {**together(robust).model_dump(), "epsilon": epsilon, "steps": steps}
    return facts


def _headline(of: str, shown: list[Measured], split: str, spec: EpisodeSpec) -> str:
    """The accuracy, what its interval is over, and which look it was."""
    from autometa.cli.words import caution, for_new_classes, look
    from autometa.trial.measured import together

    kind = {"test": "test", "val": "validation", "train": "train"}[split]
    found = together(shown)
    assert found.over_classes is not None
    each = [f"  model {number}: {for_new_classes(together([one]))}" for number, one in enumerate(shown, 1)]
    seeds = f", {len(shown)} seeds" if len(shown) > 1 else ""
    alone = f"± {100 * found.half_width:.2f} over episodes alone"
    lines = [f"{of}: {for_new_classes(found)}", *(each if len(shown) > 1 else [])]
    lines.append(f"  95 % over {found.over_classes.classes} {kind} classes{seeds}, {found.episodes} episodes; {alone}")
    note = caution(found, spec.way, kind)
    lines += [f"  {note}"] if note else []
    return "\n".join([*lines, *([f"  {look(found)}"] if split == "test" else [])])


def _robust_line(how: str, robust: list[Measured]) -> str:
    from autometa.cli.words import for_new_classes
    from autometa.trial.measured import together

    return f"  {how}: {for_new_classes(together(robust))}"


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _fraction(text: str) -> float:
    """Read `8/255` or `0.03`."""
    from fractions import Fraction

    from autometa.errors import ConfigError

    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"--epsilon {text}: give a number or a fraction, such as 8/255") from None


def dashboard(
    storage: Storage = None,
    host: Annotated[str, Opt(help="Address to listen on; others than loopback let others in.")] = "127.0.0.1",
    port: Annotated[int, Opt(min=0, max=65535, help="Port to listen on.")] = 8080,
) -> None:
    """Open Optuna's dashboard on the studies, also while a search runs."""
    from autometa.hpo.storage import default_url
    from autometa.study.dashboard import serve

    serve(
        storage or default_url(),
        host,
        port,
        on_ready=lambda url: print(f"dashboard at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True),
    )
