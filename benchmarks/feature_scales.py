"""How much each data-set feature varies by chance, among variants of one data set, and among kinds of data.

    python benchmarks/feature_scales.py --data-root ../shared/data

The scales of `autometa/tasks/similarity.py` are chosen by its result, `results/feature-scales.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from end_to_end import RESULTS, machine

import autometa
from autometa.data.dataset import FewShotDataset
from autometa.tasks.features import compute

KINDS = ("digits", "omniglot-unrotated", "cifar-fs")
HALVES = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    root = parser.parse_args().data_root
    kinds = [autometa.load_dataset(name, data_root=root) for name in KINDS]
    kind_features = [compute(kind) for kind in kinds]
    by_chance = [spreads([compute(half) for half in halves(kind)]) for kind in kinds]
    photos = spreads([compute(variant) for variant in variants(kinds[-1])])
    among = spreads(kind_features)
    lines = [
        "# Spread of data-set features",
        "",
        "Standard deviation of each feature: by chance (eight random halves of the train classes, the largest of "
        f"{', '.join(KINDS)}); among variants of CIFAR-FS (as it is, grey, at half the resolution, with a tenth of the "
        "images, with a quarter of the classes, dark); among these three kinds of data.",
        "",
        ", ".join(f"{name} {value}" for name, value in machine().items()),
        "",
        f"| feature | {' | '.join(KINDS)} | chance | variants | kinds |",
        f"|---|{'---|' * (len(KINDS) + 3)}",
    ]
    for name in kind_features[0]:
        values = [features[name] for features in kind_features]
        numbers = [*values, max(spread[name] for spread in by_chance), photos[name], among[name]]
        lines.append(f"| {name} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    (RESULTS / "feature-scales.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def spreads(found: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.std([features[name] for features in found], ddof=1)) for name in found[0]}


def halves(dataset: FewShotDataset) -> Iterator[FewShotDataset]:
    train = dataset.splits["train"]
    for seed in range(HALVES):
        half = np.random.default_rng(seed).permutation(train)[: len(train) // 2]
        yield dataclasses.replace(dataset, splits={**dataset.splits, "train": half})


def variants(dataset: FewShotDataset) -> Iterator[FewShotDataset]:
    images = np.asarray(dataset.images)
    count, channels, height, width = images.shape
    train = dataset.splits["train"]
    yield dataset
    yield dataclasses.replace(dataset, images=images.mean(1, keepdims=True).astype(np.uint8))
    blocks = images.reshape(count, channels, height // 2, 2, width // 2, 2)
    yield dataclasses.replace(dataset, images=blocks.mean((3, 5)).astype(np.uint8))
    yield dataclasses.replace(dataset, images=images[::10], labels=dataset.labels[::10])
    yield dataclasses.replace(dataset, splits={**dataset.splits, "train": train[::4]})
    yield dataclasses.replace(dataset, images=images // 2)


if __name__ == "__main__":
    main()
