"""What each option that follows a learner's paper is worth: one pair of short trainings, without it and with it.

    python benchmarks/true_to_papers.py --data-root ../shared/data

CIFAR-FS, 5-way, Conv4-16, one thread. Both of a pair have the same steps, seed and images, and are measured on the same
episodes. Options that training does not see are measured on one training. The last pair changes nothing but the seed:
it says how far two trainings differ by chance. Test episodes are for the report; whether the default space offers an
option is decided on validation classes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import textwrap
import time
from dataclasses import dataclass
from typing import Any

from end_to_end import RESULTS, machine

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.learning.device import limit_threads
from autometa.learning.evaluation import answers
from autometa.learning.intervals import difference, over_episodes
from autometa.learning.learner import Learner
from autometa.learning.scores import Scores
from autometa.records import Budget, EpisodeSpec, TrialConfig
from autometa.trial.build import candidate
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import prepare

Values = dict[str, Any]
FILE = RESULTS / "true_to_papers.json"
DATASET = "cifar-fs"
STEPS = 1000
TRAIN_QUERY, QUERY = 5, 15  # images per class; fewer in training, where more tasks are worth more than larger ones
EPISODES = {"test": 600, "val": 300}
COMMON: Values = {
    "backbone": "conv",
    "conv.depth": 4,
    "conv.width": 16,
    "optimizer": "adam",
    "outer_lr": 2e-3,
    "augment": "crop",
}
# What training does not see: trainings that differ in these alone are one training.
EVALUATION_ONLY = ("pretrain.head", "pretrain.support_copies", "matching.orders")


@dataclass(frozen=True)
class Pair:
    """Two configurations that differ in one thing: `before` and `after` are what each adds to `values`."""

    name: str
    values: Values
    before: Values
    after: Values
    shots: tuple[int, ...]  # of the test episodes, one row each
    seeds: tuple[int, int] = (0, 0)


def episodic(learner: str, train_shot: int, **options: Any) -> Values:
    named = {f"{learner}.{name}": value for name, value in options.items()}
    return {"learner": learner, "episodes_per_step": 2, "train_shot": train_shot, **named}


RFS: Values = {"learner": "pretrain", "pretrain.head": "finetune"}
BASELINE: Values = {"learner": "pretrain", "pretrain.train_head": "cosine"}
MAML = episodic("maml", 1, norm="per_step", inner_steps=3, inner_lr=0.1)
PAIRS = (
    Pair(
        "pretrain (Baseline++): fitted cosine classifier in place of class means",
        BASELINE,
        {"pretrain.head": "cosine"},
        {"pretrain.head": "cosine_classifier"},
        (1, 5),
    ),
    Pair(
        "pretrain (RFS): five augmented support copies in place of the images",
        RFS,
        {"pretrain.support_copies": 1},
        {"pretrain.support_copies": 5},
        (1, 5),
    ),
    Pair("svm (MetaOptNet): trained with 5 shots in place of 1", episodic("svm", 1), {}, {"train_shot": 5}, (1,)),
    Pair("svm (MetaOptNet): trained with 15 shots in place of 1", episodic("svm", 1), {}, {"train_shot": 15}, (1,)),
    Pair("svm (MetaOptNet): trained with 15 shots in place of 5", episodic("svm", 5), {}, {"train_shot": 15}, (5,)),
    Pair("maml (MAML++): scales and shifts of each inner step", MAML, {}, {"maml.per_step_norm": True}, (1,)),
    Pair("ridge (R2-D2): features of the last two blocks", episodic("ridge", 5), {}, {"conv.joined_blocks": 2}, (5,)),
    Pair(
        "relation: maps halved twice in place of four times",
        episodic("relation", 5),
        {},
        {"conv.pooled_blocks": 2},
        (5,),
    ),
    Pair(
        "matching: eight random orders in place of the order of labels",
        episodic("matching", 5, full_context=True),
        {"matching.orders": 0},
        {"matching.orders": 8},
        (5,),
    ),
    Pair("ridge: nothing but the seed", episodic("ridge", 5), {}, {}, (5,), seeds=(0, 1)),
)


def main() -> None:
    learners = list(dict.fromkeys(str(pair.values["learner"]) for pair in PAIRS))
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--only", nargs="*", default=learners, choices=learners, help="keep the rows of the others")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    limit_threads(1)
    bench = Bench(arguments.data_root)
    facts = {**machine(), "note": arguments.note, "dataset": DATASET, "fingerprint": bench.data.fingerprint}
    facts |= {"steps": STEPS, "episodes": EPISODES, "train_query": TRAIN_QUERY, "query": QUERY, "common": COMMON}
    for pair in PAIRS:
        if pair.values["learner"] in arguments.only:
            for shot in pair.shots:
                keep(facts, bench.row(pair, shot))


def keep(facts: Values, row: Values) -> None:
    """Put the row into the file of results, in the place of an earlier one."""
    print(json.dumps(row), flush=True)
    order = [(pair.name, shot) for pair in PAIRS for shot in pair.shots]
    before = json.loads(FILE.read_text())["rows"] if FILE.is_file() else []
    rows = {(old["pair"], old["shot"]): old for old in [*before, row]}
    facts = facts | {"rows": [rows[key] for key in order if key in rows]}
    FILE.write_text(json.dumps(facts, indent=2) + "\n")
    FILE.with_suffix(".md").write_text(table(facts))


class Bench:
    """Trains what it has not trained yet, and measures it."""

    def __init__(self, root: str | None) -> None:
        self.root = root
        self.data: FewShotDataset = load_dataset(DATASET, data_root=root)
        self.pools = {split: ImagePool(self.data, split) for split in EPISODES}
        self.trained: dict[str, tuple[Learner, float]] = {}

    def row(self, pair: Pair, shot: int) -> Values:
        sides = [pair.values | pair.before, pair.values | pair.after]
        learners = [self.learner(values, seed) for values, seed in zip(sides, pair.seeds, strict=True)]
        keys = {self.key(values, seed): None for values, seed in zip(sides, pair.seeds, strict=True)}
        row: Values = {"pair": pair.name, "shot": shot, "before": sides[0], "after": sides[1], "seeds": pair.seeds}
        row["train_seconds"] = [round(self.trained[key][1], 1) for key in keys]
        for split in EPISODES:
            started = time.process_time()
            before, after = (self.scores(learner, split, shot) for learner in learners)
            row[split] = compared(before, after) | {"seconds": round(time.process_time() - started, 1)}
        return row

    def learner(self, values: Values, seed: int) -> Learner:
        """The configuration's learner with the weights of its training."""
        key = self.key(values, seed)
        if key not in self.trained:
            self.trained[key] = self.train(values, seed)
        trained, _ = self.trained[key]
        job = self.job(values, seed)
        learner = candidate(job.config, budget=job.budget).build(
            image_shape=self.data.image_shape, way=job.episodes.way, train_classes=trained.setting.train_classes
        )
        learner.load_state_dict(trained.state_dict())
        return learner

    def key(self, values: Values, seed: int) -> str:
        seen = {name: value for name, value in values.items() if name not in EVALUATION_ONLY}
        return json.dumps([seen, seed], sort_keys=True)

    def train(self, values: Values, seed: int) -> tuple[Learner, float]:
        """The trained learner, and the seconds of this process that its training took."""
        started = time.process_time()
        training = prepare(self.job(values, seed))
        for _ in training.rungs():
            pass
        return training.learner, time.process_time() - started

    def job(self, values: Values, seed: int) -> Job:
        return Job(
            config=TrialConfig(values=COMMON | values),
            dataset=DatasetRef(name=DATASET, root=self.root),
            episodes=EpisodeSpec(way=5, shot=1, query=TRAIN_QUERY),
            budget=Budget(steps=STEPS, rungs=1),
            seed=seed,
            folder=tempfile.gettempdir(),
            validation_episodes=2,
            use_gpu=False,
        )

    def scores(self, learner: Learner, split: str, shot: int) -> Scores:
        pool, spec = self.pools[split], EpisodeSpec(way=5, shot=shot, query=QUERY)
        batches = fixed_episodes(pool, spec, count=EPISODES[split], seed=1, batch=10)
        return answers(learner, batches, pool.families)


def compared(before: Scores, after: Scores) -> Values:
    """Accuracies and their difference in percent, with 95 % half widths over pairs of episodes, and classes as well."""
    gain, with_classes = difference(after, before)
    return {
        "before": percent(before.accuracies.mean()),
        "after": percent(after.accuracies.mean()),
        "gain": percent(gain),
        "half_width": percent(over_episodes(after.accuracies - before.accuracies).half_width),
        "half_width_with_classes": percent(with_classes),
    }


def percent(share: float) -> float:
    return round(100 * float(share), 2)


def table(facts: Values) -> str:
    note = f" {facts['note']}" if facts["note"] else ""
    text = (
        f"CIFAR-FS 5-way, Conv4-16, {STEPS:,} steps, one seed; {EPISODES['test']} test and {EPISODES['val']} "
        "validation episodes, the same for both of a pair. ± is the 95 % interval of the paired difference "
        "over episodes; beside it stands its half width over classes as well. Neither covers training seeds: "
        "the last row, in which nothing changes but the seed, says how far two trainings differ by chance. "
        "Seconds are of the process, on one thread; where one number of them stands, training does not see "
        f"the option, and both are one training. {facts['date']}, {facts['processor']}.{note} `python "
        "benchmarks/true_to_papers.py` makes it again; details are in the `.json` beside this file."
    )
    lines = [
        "# Options that follow the papers: accuracy without and with each, %",
        "",
        *textwrap.wrap(text, 120),
        "",
        "| what changes | shots | before | after | gain, test | with classes | gain, validation | training, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        test, val = row["test"], row["val"]
        cells = [row["pair"], str(row["shot"]), f"{test['before']:.1f}", f"{test['after']:.1f}", gain(test)]
        cells += [f"± {test['half_width_with_classes']:.1f}", gain(val)]
        cells += [" / ".join(f"{seconds:.0f}" for seconds in row["train_seconds"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gain(found: Values) -> str:
    sign = "−" if round(found["gain"], 1) < 0 else "+"
    return f"{sign}{abs(found['gain']):.1f} ± {found['half_width']:.1f}"


if __name__ == "__main__":
    main()
