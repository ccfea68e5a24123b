"""Every learner at one small budget on one thread: meta-test accuracy, steps, seconds and memory.

    python benchmarks/learners.py digits omniglot --data-root ../shared/data --seconds 45

5-way 1-shot on meta-test classes, against nearest centroids on pixels. Each learner has a recipe of its own, chosen
once by hand on validation classes; none is tuned. Each trains in a process of its own.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from end_to_end import RESULTS, machine

Values = dict[str, Any]
METRIC: Values = {"norm": "running", "train_way": 10, "episodes_per_step": 1, "outer_lr": 2e-3}
TASKWISE: Values = {"episodes_per_step": 4, "outer_lr": 3e-3}


def taskwise(learner: str, **options: Any) -> Values:
    return {"learner": learner, **TASKWISE, **{f"{learner}.{k}": v for k, v in {"norm": "support", **options}.items()}}


def metric(learner: str, **options: Any) -> Values:
    return {"learner": learner, **METRIC, **{f"{learner}.{k}": v for k, v in options.items()}}


RECIPES: dict[str, Values] = {
    "prototypical": metric("prototypical"),
    "matching": metric("matching"),
    "matching, full context": metric("matching", full_context=True) | {"train_way": 5, "episodes_per_step": 2},
    "siamese": metric("siamese"),
    "relation": metric("relation"),
    "ridge (R2D2)": metric("ridge"),
    "svm (MetaOptNet)": metric("svm"),
    "cnaps": metric("cnaps"),
    "maml": taskwise("maml", inner_lr=0.1, inner_steps=3),
    "maml, first order": taskwise("maml", inner_lr=0.1, inner_steps=3, first_order=True),
    "maml++": taskwise(
        "maml", inner_lr=0.1, inner_steps=3, learned_rates=True, rates_per_step=True, multi_step_loss=0.15
    ),
    "anil": {"learner": "anil", **TASKWISE, "norm": "support", "anil.inner_lr": 0.3},
    "boil": taskwise("boil", inner_lr=0.2, inner_steps=2),
    "meta_sgd": taskwise("meta_sgd", inner_lr=0.1, inner_steps=3),
    "reptile": taskwise("reptile", inner_lr=0.1, inner_steps=8) | {"optimizer": "sgd", "outer_lr": 0.1},
    "lstm": taskwise("lstm", inner_lr=0.1, inner_steps=3),
    "meta_networks": metric("meta_networks") | {"train_way": 5, "episodes_per_step": 2},
    "reader": metric("reader"),
    "pretrain, cosine": {"learner": "pretrain", "pretrain.head": "cosine", "outer_lr": 2e-3},
    "pretrain, logistic (RFS)": {"learner": "pretrain", "pretrain.head": "finetune", "outer_lr": 2e-3},
    "pretrain, cosine classifier (Baseline++)": {
        "learner": "pretrain",
        "pretrain.head": "cosine_classifier",
        "pretrain.train_head": "cosine",
        "outer_lr": 2e-3,
    },
    "pretrain, fine-tuned": {
        "learner": "pretrain",
        "pretrain.head": "finetune",
        "pretrain.adapt": "all",
        "outer_lr": 2e-3,
    },
}
BACKBONE: Values = {"backbone": "conv", "conv.depth": 4, "conv.width": 32, "optimizer": "adam", "augment": "crop"}
CHANCE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--data-root")
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    for dataset in arguments.datasets:
        rows = [baseline(dataset, root, arguments.episodes)]
        print(rows[0], flush=True)
        for name in arguments.only:
            measure = functools.partial(trained, name, dataset, root, arguments.seconds, arguments.episodes)
            rows.append(in_its_own_process(measure))
            print(rows[-1], flush=True)
        write(dataset, arguments.seconds, rows)


def baseline(dataset: str, root: str | None, episodes: int) -> Values:
    """Nearest class means of raw pixels on the same meta-test episodes."""
    import torch

    from autometa.data.episodes import fixed_episodes
    from autometa.data.image_pool import ImagePool
    from autometa.data.load import load_dataset
    from autometa.learning.evaluation import episode_accuracies, interval
    from autometa.learning.heads import nearest_mean
    from autometa.learning.learner import support_targets

    data = load_dataset(dataset, data_root=root)
    scores = []
    for batch in fixed_episodes(ImagePool(data, "test"), task(dataset), count=episodes, seed=1, batch=20):
        support, query = batch.support_x.flatten(2), batch.query_x.flatten(2)
        head = nearest_mean(support, support_targets(batch, support), metric="euclidean", temperature=1.0)
        scores.append(episode_accuracies(head(query), batch))
    return {"learner": "nearest centroid on pixels", **accuracy(interval(torch.cat(scores).tolist(), 1))}


def trained(name: str, dataset: str, root: str | None, seconds: float, episodes: int) -> Values:
    import torch

    from autometa.records import Budget, TrialConfig
    from autometa.trial.evaluate import evaluate_checkpoint
    from autometa.trial.job import DatasetRef, Job
    from autometa.trial.run import run

    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            config=TrialConfig(values=BACKBONE | RECIPES[name]),
            dataset=DatasetRef(name=dataset, root=root),
            episodes=task(dataset),
            budget=Budget(seconds=seconds, rungs=1),
            seed=0,
            folder=folder,
            use_gpu=False,
        )
        record = run(job)
        if record.state == "fail":
            return {"learner": name, "failed": record.reason}
        start = time.perf_counter()
        found = evaluate_checkpoint(folder, episodes=episodes, seed=1, use_gpu=False)
    assert record.last is not None
    return {
        "learner": name,
        **accuracy(found),
        "steps": record.last.steps,
        "train_seconds": round(record.last.seconds, 1),
        "evaluate_seconds": round(time.perf_counter() - start, 1),
        "memory_mb": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
        "parameters": record.facts["parameters"],
        "config": RECIPES[name],
    }


def task(dataset: str) -> Any:
    from autometa.data.catalog import default_episodes
    from autometa.records import EpisodeSpec

    way, shot, query = default_episodes(dataset)
    return EpisodeSpec(way=way, shot=shot, query=query)


def accuracy(found: Any) -> Values:
    return {"accuracy": round(100 * found.mean, 2), "half_width": round(100 * found.half_width, 2)}


def in_its_own_process(measure: Any) -> Values:
    """So that peak memory is the learner's own, above what Python and torch take."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: Values = pool.apply(measure)
    return result


def write(dataset: str, seconds: float, rows: list[Values]) -> None:
    RESULTS.mkdir(exist_ok=True)
    facts = {"command": " ".join(["python", *sys.argv]), **machine(), "load": os.getloadavg()[0], "seconds": seconds}
    text = json.dumps({**facts, "backbone": BACKBONE, "rows": rows}, indent=2)
    (RESULTS / f"learners-{dataset}.json").write_text(text + "\n")
    (RESULTS / f"learners-{dataset}.md").write_text(table(dataset, seconds, rows))


def table(dataset: str, seconds: float, rows: list[Values]) -> str:
    lines = [
        f"# {dataset}, 5-way 1-shot meta-test, Conv4-32, {seconds:g} s of training on one thread",
        "",
        f"Chance is {100 * CHANCE:.0f} %; 95 % intervals over episodes. Details in the `.json` beside this file.",
        "",
        "| learner | accuracy, % | steps | evaluation, s | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['learner']} | failed: {row['failed']} | | | |")
            continue
        cells = [row.get(key, "") for key in ("steps", "evaluate_seconds", "memory_mb")]
        cells = [f"{row['accuracy']:.1f} ± {row['half_width']:.1f}", *map(str, cells)]
        lines.append(f"| {row['learner']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
