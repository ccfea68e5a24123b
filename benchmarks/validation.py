"""What part of a trial goes into validation, in seconds and in operations: three learners, at two budgets each.

    python benchmarks/validation.py digits prototypical pretrain maml
    python benchmarks/validation.py omniglot prototypical --data-root ../shared/data
    python benchmarks/validation.py omniglot prototypical --steps 100 --data-root ../shared/data

The recipes are the starts of the default space, trained to their end on one thread. What is measured joins what the
file of results holds from before. Seconds are the process's own, of one thread, so that other work on the machine does
not count. Operations are those that a budget of operations counts, of all outer steps and of all validation episodes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

from end_to_end import RESULTS, machine

from autometa.data import catalog
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.device import limit_threads
from autometa.learning.evaluation import evaluate
from autometa.learning.operations import operations_counter, operations_of
from autometa.learning.training import Training
from autometa.records import Accuracy, Budget, EpisodeSpec, TrialConfig
from autometa.space.files import load_space
from autometa.study.search import VALIDATION_EPISODES
from autometa.trial.job import DatasetRef, Job
from autometa.trial.opened import open_dataset
from autometa.trial.run import prepare

FILE = RESULTS / "validation.json"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("learners", nargs="+", choices=["prototypical", "pretrain", "maml"])
    parser.add_argument("--steps", type=int, help="a budget as of `autometa search --budget STEPS`")
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    limit_threads(1)
    budget = Budget(steps=arguments.steps) if arguments.steps else catalog.default_budget(arguments.dataset)
    for learner in arguments.learners:
        key = {"dataset": arguments.dataset, "learner": learner, "budget": str(budget)}
        row = {**key, **measured(job(arguments.dataset, learner, budget, arguments.data_root))}
        rows = json.loads(FILE.read_text())["trials"] if FILE.is_file() else []
        rows = [*(old for old in rows if {name: old[name] for name in key} != key), row]
        print(json.dumps(row), flush=True)
        FILE.write_text(json.dumps({**machine(), "trials": rows}, indent=1) + "\n")


def job(dataset: str, learner: str, budget: Budget, root: str | None) -> Job:
    values = next(start for start in load_space("few_shot").start if start["learner"] == learner)
    way, shot, query = catalog.default_episodes(dataset)
    return Job(
        config=TrialConfig(values=dict(values)),
        dataset=DatasetRef(name=dataset, root=root),
        episodes=EpisodeSpec(way=way, shot=shot, query=query),
        budget=budget,
        seed=0,
        folder=tempfile.gettempdir(),
        validation_episodes=VALIDATION_EPISODES,
        use_gpu=False,
    )


def measured(asked: Job) -> dict[str, Any]:
    """Seconds of training and validation, over the whole trial and where halving first decides, at rung 2."""
    training = prepare(asked)
    validate, trained, validated = training.validate, [0.0], [0.0]

    def timed(training: Training, rung: int) -> Accuracy:
        trained.append(time.process_time() - started - validated[-1])
        accuracy = validate(training, rung)
        validated.append(time.process_time() - started - trained[-1])
        return accuracy

    training.validate = timed
    started = time.process_time()
    curve = list(training.rungs())
    last = validated[-1] - validated[-2]
    episodes = [report.accuracy.episodes for report in curve]
    validation = sum(episodes) * operations_of_an_episode(training, asked)
    return {
        "episodes": episodes,
        "steps": training.steps,
        "training_seconds": round(trained[-1], 2),
        "validation_seconds": round(validated[-1], 2),
        "share": share(validated[-1], trained[-1]),
        "share_of_operations": share(validation, operations_of(training.phases(), training.steps)),
        "share_to_rung_2": share(validated[2], trained[2]),
        "share_of_last_rung": share(last, trained[-1]),
        "share_with_all_episodes_at_each": share(len(curve) * last, trained[-1]),
        "accuracy": curve[-1].accuracy.model_dump(),
    }


def operations_of_an_episode(training: Training, asked: Job) -> float:
    pool = ImagePool(open_dataset(asked.dataset), "val")
    with operations_counter() as counter:
        evaluate(training.learner, fixed_episodes(pool, asked.episodes, count=2, seed=0, batch=2), seed=0)
    return counter.get_total_flops() / 2


def share(validation: float, training: float) -> float:
    """Of the trial; checkpoints are not counted."""
    return round(validation / (validation + training), 3)


if __name__ == "__main__":
    main()
