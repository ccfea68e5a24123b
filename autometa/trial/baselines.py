"""What every search has to beat: classifiers in closed form on features that nobody trained.

A worker measures them before its first trial, which takes a second or two. Loading this file loads no torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from autometa.records import Baseline, Budget, EpisodeSpec, Scalar
from autometa.trial.job import Job

Values = dict[str, Scalar]

_NEAREST_MEAN: Values = {
    "learner": "prototypical",
    "prototypical.metric": "cosine",
    "prototypical.learned_temperature": True,  # a checkpoint is of something that can be trained
}
_RIDGE: Values = {"learner": "ridge", "ridge.normalize": True, "ridge.regularization": 1.0}
_PIXELS: Values = {"backbone": "pixels"}
_UNTRAINED: Values = {"backbone": "conv", "conv.widths": "16-64", "norm": "support"}

# Of what was measured on digits, Omniglot and CIFAR-FS (docs/log.md) these are the strongest or as strong.
BASELINES: Mapping[str, Values] = {
    "nearest-mean-pixels": _NEAREST_MEAN | _PIXELS,
    "ridge-pixels": _RIDGE | _PIXELS,
    "nearest-mean-untrained-conv": _NEAREST_MEAN | _UNTRAINED,
    "ridge-untrained-conv": _RIDGE | _UNTRAINED,
}

# Nothing is trained; the checkpoint is that of a model as it was made.
BUDGET = Budget(steps=0, rungs=1)
# Of one channel of all images; so many cost the four of them at most some 2 s of a core.
_PIXELS_MEASURED = 3_000_000
_FEWEST_EPISODES = 10


def episodes(spec: EpisodeSpec, image_shape: tuple[int, int, int], most: int) -> int:
    """How many episodes a baseline is measured on: as many as the time allows, by size and number of images alone."""
    _, height, width = image_shape
    pixels = spec.way * (spec.shot + spec.query) * height * width
    return max(min(_FEWEST_EPISODES, most), min(most, _PIXELS_MEASURED // pixels))


def measure(name: str, job: Job) -> Baseline:
    """Measure a baseline by its job, and write its checkpoint; what is there already is not measured again.

    Raises:
        AutometaError: as `trial.run.run`; or it cannot be measured.
    """
    from autometa.errors import StudyError
    from autometa.trial.run import run

    started = time.perf_counter()
    record = run(job)
    if record.last is None:
        raise StudyError(record.reason or "it has no accuracy")
    seconds = round(time.perf_counter() - started, 3)
    return Baseline(name=name, config=job.config, accuracy=record.last.accuracy, seconds=seconds)
