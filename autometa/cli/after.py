"""What comes after a search: `autometa evaluate` and `dashboard`; `export` and `train` have files of their own."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.options import LARGEST_SEED, DataRoot, Dataset, Gpu, Storage
from autometa.study.search_settings import ALL_CLASSES, EPISODES

if TYPE_CHECKING:
    from autometa.records import EpisodeSpec
    from autometa.trial.job import DatasetRef
    from autometa.trial.measured import Measured

Opt = typer.Option


class _Attack(StrEnum):
    fgsm = "fgsm"
    pgd = "pgd"


class _Task(StrEnum):
    episodes = EPISODES
    all_classes = ALL_CLASSES


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A folder from `autometa train`, or of a trial.")],
    episodes: Annotated[int, Opt(min=2, help="How many episodes; the interval shrinks with their root.")] = 600,
    split: Annotated[str, Opt(help="test, val or train.")] = "test",
    way: Annotated[int | None, Opt(min=2, help="[default: as trained]")] = None,
    shot: Annotated[int | None, Opt(min=1, help="[default: as trained]")] = None,
    query: Annotated[int | None, Opt(min=1, help="[default: as trained]")] = None,
    seed: Annotated[int, Opt(min=0, max=LARGEST_SEED, help="Seed of the episodes.")] = 0,
    attack: Annotated[_Attack | None, Opt(help="Measure accuracy under attack as well.")] = None,
    epsilon: Annotated[str, Opt(help="Largest change of a pixel, of 1 or as a fraction.")] = "8/255",
    attack_steps: Annotated[int, Opt(min=1, help="Gradient steps of pgd.")] = 10,
    task: Annotated[
        _Task, Opt(help="Episodes of new classes, or all classes of the data at once, by up to --shot images each.")
    ] = _Task.episodes,
    data_root: DataRoot = None,
    dataset: Dataset = None,
    gpu: Gpu = None,
    as_json: Json = False,
) -> None:
    """Measure a trained model on episodes of classes it has never seen: accuracy, its 95 % interval, and the look."""
    from autometa.cli.progress import episode_progress
    from autometa.cli.words import marked
    from autometa.errors import ConfigError
    from autometa.trial.abilities import marks
    from autometa.trial.evaluate import measure_checkpoint
    from autometa.trial.measured import models_in
    from autometa.trial.model_files import job_of
    from autometa.trial.opened import at

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
    from autometa.data.all_classes import MOST_LABELLED
    from autometa.deployment.all_classes import measure_all_classes

    found = measure_all_classes(folder, dataset=place, shots=shot or MOST_LABELLED, use_gpu=gpu)
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
