"""Heads on frozen pretrained networks: test accuracy on CIFAR-FS, 5-way, and what the features cost.

    python benchmarks/frozen.py --data-root ../shared/data --image-size 160 --episodes 2000

Every head sees the same inductive episodes over all images of the test classes. Centre and covariance are those of
train classes. Features are computed once; the first row of a shot pays for all.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from end_to_end import RESULTS, machine

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler, fixed_episodes
from autometa.data.load import load_dataset
from autometa.learning.device import limit_threads
from autometa.learning.evaluation import evaluate
from autometa.learning.features import pool_for
from autometa.records import Accuracy, EpisodeSpec, TrialConfig
from autometa.trial.build import candidate

SPREAD: dict[str, Any] = {"frozen.whiten": 0.5, "frozen.spread": 0.04}
HEADS: dict[str, dict[str, Any]] = {
    "lite1, cosine, not centred": {"frozen.centre": "none", "lite.layer": "head"},
    "lite1, cosine": {"lite.layer": "head"},
    "lite1, cosine, both layers": {},
    "lite1, cosine, both layers, whitened": {"frozen.whiten": 0.5},
    "lite1, cosine, both layers, whitened, spread": SPREAD,
    "lite1, ridge, both layers, whitened, spread": SPREAD | {"frozen.head": "ridge"},
    "lite1, logistic, both layers, whitened, spread": SPREAD | {"frozen.head": "logistic"},
    "lite2, logistic": {
        "lite.model": "lite2",
        "lite.layer": "head",
        "frozen.centre": "none",
        "frozen.head": "logistic",
    },
    "lite2, cosine, both layers, whitened, spread": SPREAD | {"lite.model": "lite2"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--episodes", type=int, default=2000)
    asked = parser.parse_args()
    limit_threads(1)
    data = load_dataset("cifar-fs", data_root=asked.data_root)
    rows = [measured(data, shot, name, asked) for shot in (1, 5) for name in HEADS]
    facts = {**machine(), "image_size": asked.image_size, "episodes": asked.episodes, "rows": rows}
    (RESULTS / "frozen.json").write_text(json.dumps(facts, indent=2) + "\n")
    (RESULTS / "frozen.md").write_text(text(facts))


def measured(data: FewShotDataset, shot: int, name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and seconds of one head."""
    values = {"learner": "frozen", "backbone": "lite", "lite.model": "lite1", "lite.layer": "both"}
    values |= {"lite.image_size": asked.image_size}
    spec = EpisodeSpec(way=5, shot=shot, query=15)
    tried = candidate(TrialConfig(values=values | HEADS[name]))
    learner = tried.build(image_shape=data.image_shape, way=5, train_classes=len(data.splits["train"]))
    learner.backbone.normalised_by(data.mean, data.std)
    train, test = (pool_for(learner, data, split) for split in ("train", "test"))
    started = time.perf_counter()
    learner.see(EpisodeSampler(train, spec, batch=1, generator=torch.Generator().manual_seed(0)))
    found = evaluate(learner, fixed_episodes(test, spec, count=asked.episodes, seed=0, batch=8), seed=0)
    features = train.feature_seconds + test.feature_seconds
    others = time.perf_counter() - started - features
    row = {"shot": shot, "head": name, "seconds_of_features": round(features, 1), "seconds": round(others, 1)}
    print(row, found, flush=True)
    return row | {"accuracy": shown(found)}


def shown(accuracy: Accuracy) -> str:
    return f"{100 * accuracy.mean:.1f} ± {100 * accuracy.half_width:.1f}"


def text(facts: dict[str, Any]) -> str:
    lines = [
        "# Heads on frozen features of EfficientNet-Lite: CIFAR-FS, 5-way, %",
        "",
        f"{facts['image_size']} pixels, {facts['episodes']} inductive test episodes over all images, 95 % intervals "
        "over episodes, nothing trained. ImageNet weights: external, and ImageNet has classes like those of CIFAR-100. "
        f"`python benchmarks/frozen.py --data-root DIR --image-size {facts['image_size']} --episodes "
        f"{facts['episodes']}` makes it again; the machine is in `frozen.json`.",
        "",
        "| head | 1-shot | 5-shot | ms an episode, 5-shot |",
        "|---|---|---|---|",
    ]
    by_head = {(row["head"], row["shot"]): row for row in facts["rows"]}
    for name in HEADS:
        one, five = by_head[name, 1], by_head[name, 5]
        cost = 1000 * five["seconds"] / facts["episodes"]
        lines.append(f"| {name} | {one['accuracy']} | {five['accuracy']} | {cost:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
