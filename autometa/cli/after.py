"""What comes after a search: `autometa export`, `train`, `evaluate` and `dashboard`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autometa.cli.options import Storage

if TYPE_CHECKING:
    from autometa.records import Accuracy

Opt = typer.Option
_LARGEST_SEED = 2**62  # as in `records`, which would make `--help` slow


class _Attack(StrEnum):
    fgsm = "fgsm"
    pgd = "pgd"


class _Kind(StrEnum):
    toml = "toml"
    json = "json"


def export(
    study: Annotated[str, typer.Argument(help="Name of the study, as in `autometa studies`.")],
    top: Annotated[int, Opt(min=1, help="How many of the best.")] = 1,
    kind: Annotated[_Kind | None, Opt("--format", help="[default: by the file's ending, else toml]")] = None,
    output: Annotated[Path | None, Opt("--output", "-o", help="File to write. [default: STUDY.toml]")] = None,
    storage: Storage = None,
) -> None:
    """Write the best configurations of a study as recipes that `autometa train` takes."""
    from autometa.study.export import best_recipes
    from autometa.study.storage import damage_told, default_url, load_study, open_storage
    from autometa.trial.recipe import write_recipes

    url = storage or default_url()
    with damage_told(url):
        recipes = best_recipes(load_study(study, open_storage(url, create=False)), top)
    is_json = kind is _Kind.json if kind else output is not None and output.suffix == ".json"
    chosen: Literal["toml", "json"] = "json" if is_json else "toml"
    file = output or Path(f"{study}.{chosen}")
    write_recipes(file, recipes, chosen)
    trials = ", ".join(str(recipe.provenance["trial"]) for recipe in recipes)
    print(f"wrote {file}: trial {trials} of {study}")
    print(f"next: autometa train {file}")


def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe file, from `autometa export`.")],
    output: Annotated[Path | None, Opt("--output", "-o", help="Folder. [default: runs/models/RECIPE]")] = None,
    rank: Annotated[int, Opt(min=1, help="Which recipe in the file, the first is the best.")] = 1,
    budget: Annotated[str | None, Opt(help="Steps (4000) or time (30m). [default: the recipe's]")] = None,
    seed: Annotated[int | None, Opt(min=0, max=_LARGEST_SEED, help="[default: the recipe's]")] = None,
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    gpu: Annotated[bool | None, Opt("--gpu/--cpu", help="[default: a GPU where there is one]")] = None,
    as_json: Annotated[bool, Opt("--json", help="The record as JSON, for machines.")] = False,
) -> None:
    """Train a recipe in full; the same command again goes on from its last checkpoint."""
    from autometa.cli.progress import training_progress
    from autometa.cli.words import percent, size
    from autometa.errors import ConfigError
    from autometa.records import parse_budget
    from autometa.trial.recipe import read_recipes
    from autometa.trial.train import train as run_training

    recipes = read_recipes(recipe)
    if rank > len(recipes):
        raise ConfigError(f"--rank {rank}: {recipe} has {len(recipes)}")
    folder = output or Path("runs/models") / recipe.stem
    with training_progress(quiet=as_json) as progress:
        record = run_training(
            recipes[rank - 1],
            folder,
            budget=parse_budget(budget) if budget else None,
            seed=seed,
            data_root=data_root,
            use_gpu=gpu,
            where=f"{recipe}: recipe {rank}",
            on_rung=progress.on_rung,
            on_step=progress.on_step,
        )
    if as_json:
        print(record.model_dump_json())
    if record.state == "fail":
        raise ConfigError(f"training failed: {record.reason}")
    if not as_json:
        assert record.last is not None
        steps, accuracy = record.last.steps, percent(record.last.accuracy)
        marked = " (transductive)" if record.facts["transductive"] else ""
        print(f"trained {steps} steps in {record.last.seconds:.0f} s: validation{marked} {accuracy}, saved in {folder}")
        print(f"  {size(record.facts)}")
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
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    gpu: Annotated[bool | None, Opt("--gpu/--cpu", help="[default: a GPU where there is one]")] = None,
    as_json: Annotated[bool, Opt("--json", help="For machines.")] = False,
) -> None:
    """Measure a trained model on episodes of classes it has never seen: accuracy and its 95 % interval."""
    from autometa.cli.progress import episode_progress
    from autometa.cli.words import percent
    from autometa.errors import ConfigError
    from autometa.trial.job import is_transductive
    from autometa.trial.run import evaluate_checkpoint, job_of

    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split {split}: it may be test, val or train")
    job = job_of(checkpoint)
    changes = {k: v for k, v in {"way": way, "shot": shot, "query": query}.items() if v is not None}
    spec = job.episodes.model_copy(update=changes)
    root = job.dataset.model_copy(update={"root": str(data_root)} if data_root else {})
    steps = 1 if attack is _Attack.fgsm else attack_steps
    strength = _fraction(epsilon)

    def measure(under: tuple[float, int] | None) -> Accuracy:
        with episode_progress(episodes, quiet=as_json) as on_batch:
            return evaluate_checkpoint(
                checkpoint,
                split=split,
                episodes=episodes,
                seed=seed,
                use_gpu=gpu,
                spec=spec,
                dataset=root,
                on_batch=on_batch,
                attack=under,
            )

    accuracy = measure(None)
    robust = measure((strength, steps)) if attack else None
    transductive = any(is_transductive(*item) for item in job.config.values.items())
    if as_json:
        facts: dict[str, Any] = {"dataset": job.dataset.name, "split": split, **spec.model_dump()}
        facts |= {**accuracy.model_dump(), "transductive": transductive}
        if robust:
            facts["robust"] = {**robust.model_dump(), "epsilon": strength, "steps": steps}
        print(json.dumps(facts))
        return
    name = {"test": "meta-test", "val": "validation", "train": "meta-train"}[split]
    marked = " (transductive)" if transductive else ""
    print(f"{job.dataset.name} {spec.way}-way {spec.shot}-shot {name}{marked}: {percent(accuracy)}")
    if robust:
        print(f"  under {attack} with ε = {epsilon}, {steps} steps: {percent(robust)}")
    over = f"{episodes} episodes of {spec.query} queries a class, seed {seed}"
    print(f"  95 % interval over {over}; chance {100 * spec.chance:.1f} %")


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
    from autometa.study.dashboard import serve
    from autometa.study.storage import default_url

    serve(
        storage or default_url(),
        host,
        port,
        on_ready=lambda url: print(f"dashboard at {url} (Ctrl-C ends it)", file=sys.stderr, flush=True),
    )
