"""Image folders whose classes differ in colour, and small models of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from autometa.records import Budget, EpisodeSpec, TrialConfig
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import run

SIZE = 12


def write_photos(root: Path, classes: dict[str, int], *, seed: int = 0, size: int = SIZE) -> Path:
    """So many images of each class, whose mean colour its name decides."""
    generator = np.random.default_rng(seed)
    for name, count in classes.items():
        colour = np.random.default_rng([*name.encode()]).integers(50, 206, 3)
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = (colour + generator.normal(0, 45, (size, size, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}-{seed}-{number}.png")
    return root


def train_model(photos: Path, folder: Path, *, steps: int = 40, seed: int = 0, **config: Any) -> Path:
    """A model trained for a few steps on 3-way 2-shot episodes."""
    values = {"learner": "prototypical", "backbone": "conv", **config}
    values |= {"conv.depth": 1, "conv.width": 8} if values["backbone"] == "conv" else {}
    job = Job(
        config=TrialConfig(values=values),
        dataset=DatasetRef(name=str(photos)),
        episodes=EpisodeSpec(way=3, shot=2, query=6),
        budget=Budget(steps=steps, rungs=1),
        seed=seed,
        folder=str(folder),
        validation_episodes=4,
        use_gpu=False,
    )
    record = run(job)
    assert record.state == "complete", record.reason
    return folder
