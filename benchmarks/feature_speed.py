"""Features of 10,000 images through the table that keeps them, against the bare network in a loop.

    python benchmarks/feature_speed.py --data-root ../shared/data

EfficientNet-Lite1 at 160 pixels on images of CIFAR-FS, one thread. Both take turns of 250 images, since other work on
a machine comes and goes. The bare loop gets its images as the network wants them, eight at a time. At the end every
row is read again, as a second search does.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from end_to_end import RESULTS, machine

from autometa.data.load import load_dataset
from autometa.learning.device import limit_threads
from autometa.learning.features import tables_for
from autometa.records import TrialConfig
from autometa.trial.build import candidate

IMAGES, TURN, AT_ONCE = 10_000, 250, 8
VALUES = {"learner": "frozen", "backbone": "lite", "lite.model": "lite1", "lite.image_size": 160}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--images", type=int, default=IMAGES)
    asked = parser.parse_args()
    data = load_dataset("cifar-fs", data_root=asked.data_root)
    limit_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AUTOMETA_CACHE"] = folder
        learner = candidate(TrialConfig(values=VALUES)).build(
            image_shape=data.image_shape, way=5, train_classes=len(data.splits["train"])
        )
        (table,) = tables_for(learner, data, torch.device("cpu")).values()
        turns = np.arange(asked.images).reshape(-1, TURN)
        by_table, bare = [], []
        prepared = torch.rand(AT_ONCE, 3, 160, 160).contiguous(memory_format=torch.channels_last)
        for turn in turns:
            by_table.append(seconds(functools.partial(table.__getitem__, turn)))
            bare.append(seconds(lambda: [learner.backbone.described(prepared) for _ in range(TURN // AT_ONCE + 1)]))
        again = seconds(functools.partial(table.__getitem__, turns.ravel()))
    images_of_bare = len(turns) * (TURN // AT_ONCE + 1) * AT_ONCE
    rates = asked.images / sum(by_table), images_of_bare / sum(bare)
    found = {
        **machine(),
        "images": asked.images,
        "images a second, table": round(rates[0], 1),
        "images a second, bare network": round(rates[1], 1),
        "ratio": round(rates[0] / rates[1], 3),
        "seconds to read all again": round(again, 3),
    }
    print(json.dumps(found, indent=2))
    (RESULTS / "feature_speed.json").write_text(json.dumps(found, indent=2) + "\n")


def seconds(work: Callable[[], object]) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        work()
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
