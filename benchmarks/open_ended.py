"""What it costs to train without knowing the end: a constant rate and averaged weights, against a cosine.

    python benchmarks/open_ended.py --data-root ../shared/data

CIFAR-FS, 5-way 5-shot, Conv4-16, one thread. Per learner, one open training passes three lengths. At each it is
measured with its latest weights, with averages over several windows, and after a cool-down over its last fifth, which
is a branch that ends at the same step. A training with a cosine schedule ends at each length. All have the same seed,
and are measured on the same validation episodes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from end_to_end import RESULTS, machine

from autometa.data.episodes import fixed_episodes
from autometa.learning.averaging import AveragedWeights
from autometa.learning.device import limit_threads
from autometa.learning.evaluation import answers
from autometa.learning.intervals import difference, over_episodes
from autometa.learning.learner import Learner
from autometa.learning.scores import Scores
from autometa.learning.training import Training
from autometa.records import Budget, EpisodeSpec, TrialConfig
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import begin, keep
from autometa.trial.validation import Validation

FILE = RESULTS / "open_ended.json"
SPEC = EpisodeSpec(way=5, shot=5, query=15)
EPISODES, SEED = 200, 0
WINDOWS = (8.0, 16.0)
KEPT = 8.0  # the window that open budgets have
COOL_FROM = 0.8
COMMON: dict[str, Any] = {"backbone": "conv", "conv.depth": 4, "conv.width": 16, "augment": "crop_flip"}
EPISODIC: dict[str, Any] = {"optimizer": "adam", "outer_lr": 2e-3, "episodes_per_step": 1}
RECIPES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "pretrain": (
        {"optimizer": "sgd", "outer_lr": 0.05, "weight_decay": 5e-4, "pretrain.head": "cosine", "norm": "running"},
        (400, 800, 1600),
    ),
    "prototypical": (EPISODIC | {"train_way": 10, "norm": "running"}, (150, 300, 600)),
    "ridge": (EPISODIC | {"train_way": 10, "norm": "running"}, (150, 300, 600)),
    "maml": (
        EPISODIC | {"maml.norm": "support", "maml.inner_lr": 0.1, "maml.inner_steps": 3, "maml.first_order": True},
        (150, 300, 600),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--note", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    limit_threads(1)
    facts = {**machine(), "note": arguments.note, "episodes": EPISODES, "common": COMMON, "windows": WINDOWS}
    for name in arguments.only:
        values, lengths = RECIPES[name]
        for row in rows(name, values, lengths, arguments.data_root):
            print(json.dumps(row), flush=True)
            keep_row(facts, row)


def rows(name: str, values: Mapping[str, Any], lengths: tuple[int, ...], root: str | None) -> list[dict[str, Any]]:
    """Each length of one learner: accuracies in per cent, and what the others are ahead of the cosine."""
    config = TrialConfig(values={"learner": name, **COMMON, **values})
    with tempfile.TemporaryDirectory() as folder:

        def job(place: str, budget: Budget) -> Job:
            return Job(
                config=config,
                dataset=DatasetRef(name="cifar-fs", root=root),
                episodes=SPEC,
                budget=budget,
                seed=SEED,
                folder=str(Path(folder) / place),
                use_gpu=False,
            )

        found = open_ended(job("open", Budget(steps=lengths[0], open=True)), lengths)
        for length in lengths:
            training = begin(job(f"cosine-{length}", Budget(steps=length, rungs=1)))
            training.train()
            found[length]["cosine"] = measured(training, training.learner)
    return [row(name, length, found[length]) for length in lengths]


def open_ended(job: Job, lengths: tuple[int, ...]) -> dict[int, dict[str, Scores]]:
    """One open training: what it shows at each length, by the weights that are measured."""
    training = begin(job)
    averages = {window: AveragedWeights(training.learner, window) for window in WINDOWS}

    def until(step: int) -> None:
        training.train(on_step=lambda *_: take_in(), stop=lambda: training.steps >= step)

    def take_in() -> None:
        for average in averages.values():
            average.update(training.learner)

    found: dict[int, dict[str, Scores]] = {}
    for length in lengths:
        until(round(COOL_FROM * length))
        cooled = branch(training, job, length)
        until(length)
        found[length] = {"latest": measured(training, training.learner), "cooled": measured(cooled, cooled.model)}
        found[length] |= {f"averaged {window:g}": measured(training, a.learner) for window, a in averages.items()}
        training.report()
    return found


def branch(training: Training, job: Job, length: int) -> Training:
    """A copy of a training, cooled down until it has taken `length` steps."""
    keep(training, job)
    cooled = begin(job)
    cooled.cool_down(length / training.steps - 1)
    while not cooled.state.is_cooled:
        cooled.train()
    return cooled


def measured(training: Training, learner: Learner) -> Scores:
    """What the learner answers on the validation episodes."""
    assert isinstance(training.validate, Validation)
    pool = training.validate.pool
    batches = fixed_episodes(pool, SPEC, count=EPISODES, seed=1_000, batch=8)
    return answers(learner, batches, pool.families)


def row(name: str, length: int, found: Mapping[str, Scores]) -> dict[str, Any]:
    cosine = found["cosine"]
    values: dict[str, Any] = {"learner": name, "steps": length}
    for how in sorted(found):
        accuracies = found[how].accuracies
        values[how] = [round(100 * x, 2) for x in (float(accuracies.mean()), over_episodes(accuracies).half_width)]
        if how != "cosine":
            ahead, half = difference(found[how], cosine)
            values[f"{how} ahead"] = [round(100 * ahead, 2), round(100 * half, 2)]
    return values


def keep_row(facts: dict[str, Any], new: dict[str, Any]) -> None:
    """Put the row into the file of results, in the place of an earlier one."""
    before = json.loads(FILE.read_text())["rows"] if FILE.is_file() else []
    kept = {(old["learner"], old["steps"]): old for old in [*before, new]}
    facts = facts | {"rows": [kept[key] for key in sorted(kept, key=lambda k: (list(RECIPES).index(k[0]), k[1]))]}
    FILE.write_text(json.dumps(facts, indent=2) + "\n")
    FILE.with_suffix(".md").write_text(table(facts))


def table(facts: Mapping[str, Any]) -> str:
    hows = ["cosine", "latest", *(f"averaged {window:g}" for window in WINDOWS), "cooled"]
    lines = ["| learner | steps | " + " | ".join(hows) + " |", "|---" * (len(hows) + 2) + "|"]
    for one in facts["rows"]:
        cells = [f"{one[how][0]:.1f}" for how in hows]
        lines.append(f"| {one['learner']} | {one['steps']} | " + " | ".join(cells) + " |")
    half = max(one["cosine"][1] for one in facts["rows"])
    text = f"""Validation accuracy in per cent, CIFAR-FS 5-way 5-shot, Conv4-16, {facts["episodes"]} episodes
        (± {half:.1f} at most), {facts["date"]}, {facts["processor"]}, {facts["cores"]} cores.
        `python benchmarks/open_ended.py`"""
    return "\n".join(lines) + "\n\n" + textwrap.fill(" ".join(text.split()), 120) + "\n"


if __name__ == "__main__":
    main()
