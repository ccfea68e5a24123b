"""Real learning curves with the accuracy on every validation episode at every rung, to try pruners on.

    python benchmarks/rung_curves.py digits --candidates 24
    python benchmarks/rung_curves.py omniglot --candidates 24 --teraflops 0.5 --data-root ../shared/data

Candidates are the space's own starts and random ones with a small backbone, all trained to their end: nobody is
pruned. `pruning_on_curves.py` replays searches over them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import torch
from end_to_end import RESULTS, machine

from autometa.data import catalog
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.errors import ConfigError, DivergedError
from autometa.learning.device import limit_threads
from autometa.learning.evaluation import interval, score
from autometa.learning.training import Training
from autometa.records import Accuracy, Budget, EpisodeSpec, Scalar, TrialConfig
from autometa.space.files import load_space
from autometa.trial.build import candidate
from autometa.trial.job import DatasetRef, Job
from autometa.trial.opened import open_dataset
from autometa.trial.run import prepare

EPISODES = 100
SMALL = ("conv", "mlp", "vit")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--teraflops", type=float, help="of training for each; the data set's own by default")
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    limit_threads(1)
    budget = catalog.default_budget(arguments.dataset)
    if arguments.teraflops:
        budget = budget.model_copy(update={"teraflops": arguments.teraflops})
    file = RESULTS / f"rung_curves-{arguments.dataset}.json"
    curves: list[dict[str, Any]] = json.loads(file.read_text())["candidates"] if file.is_file() else []
    for number, values in enumerate(candidates(arguments.candidates)):
        if number < len(curves):  # recorded before this was interrupted
            continue
        curves.append(trained(job(arguments.dataset, arguments.data_root, budget, values, number)))
        print(number, values["learner"], values["backbone"], curves[-1]["seconds"], curves[-1].get("means"), flush=True)
        facts = {**machine(), "dataset": arguments.dataset, "budget": str(budget), "episodes": EPISODES}
        file.write_text(json.dumps({**facts, "candidates": curves}) + "\n")


def candidates(count: int) -> Iterator[dict[str, Scalar]]:
    """The starts of the default space, then random configurations with a small backbone."""
    space = load_space("few_shot")
    yield from (dict(values) for values in space.start[:count])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=4))
    left = count - len(space.start)
    while left > 0:
        values = space.suggest(study.ask())
        if values["backbone"] in SMALL and is_possible(values):
            left -= 1
            yield values


def is_possible(values: dict[str, Scalar]) -> bool:
    """Whether learner and backbone go together."""
    with torch.device("meta"):
        try:
            candidate(TrialConfig(values=values)).build(image_shape=(1, 28, 28), way=5, train_classes=64)
        except ConfigError:
            return False
    return True


def job(dataset: str, root: str | None, budget: Budget, values: dict[str, Scalar], seed: int) -> Job:
    way, shot, query = catalog.default_episodes(dataset)
    return Job(
        config=TrialConfig(values=values),
        dataset=DatasetRef(name=dataset, root=root),
        episodes=EpisodeSpec(way=way, shot=shot, query=query),
        budget=budget,
        seed=seed,
        folder=str(Path(tempfile.gettempdir()) / "unused"),
        validation_episodes=EPISODES,
        use_gpu=False,
    )


def trained(asked: Job) -> dict[str, Any]:
    """A candidate's right answers [rung][episode], seconds of training and of validation, or why it failed."""
    training = prepare(asked)
    pool = ImagePool(open_dataset(asked.dataset), "val")
    spec, right, seconds = asked.episodes, [], []

    def validate(training: Training, rung: int) -> Accuracy:
        started = time.perf_counter()
        scores = score(
            training.learner, fixed_episodes(pool, spec, count=EPISODES, seed=asked.validation_seed, batch=8)
        )
        seconds.append(round(time.perf_counter() - started, 3))
        right.append((scores * spec.way * spec.query).round().to(torch.int64).tolist())
        return interval(scores.tolist(), asked.validation_seed)

    training.validate = validate
    failed = None
    try:
        curve = list(training.rungs())
    except DivergedError as error:
        failed, curve = str(error), training.curve
    return {
        "values": asked.config.values,
        "rungs": [report.rung for report in curve],
        "means": [round(report.accuracy.mean, 4) for report in curve],
        "seconds": [report.seconds for report in curve],
        "validation_seconds": seconds,
        "steps": training.steps,
        "right": right,
        "failed": failed,
    }


if __name__ == "__main__":
    main()
