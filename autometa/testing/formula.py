"""A trial by a formula, in place of `autometa.trial.run.run`: for tests and measurements of the driver.

Accuracies rise to an end that depends on the configuration alone. Noise and pace depend on the job's seed. So the same
job gives the same record, in no time.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator

from autometa.records import Accuracy, RungReport, TrialConfig, TrialRecord
from autometa.trial.job import Job

_CHANCE, _BEST = 0.2, 0.9  # the range of accuracies
_NOISE = 0.01  # standard deviation at a rung
_PACE = (0.5, 2.0)  # seconds per rung


def run(job: Job, *, on_rung: Callable[[RungReport], None] | None = None, number: int = 0) -> TrialRecord:
    """The record of a complete trial; `on_rung` gets every report first. Nothing is written."""
    curve = []
    for report in reports(job):
        curve.append(report)
        if on_rung:
            on_rung(report)
    return TrialRecord(number=number, state="complete", config=job.config, curve=curve)


def reports(job: Job) -> Iterator[RungReport]:
    """What the trial shows at each rung of its budget, with seconds that nobody waits for."""
    drawn = random.Random(job.seed)
    end, pace, rungs = accuracy_of(job.config), drawn.uniform(*_PACE), job.budget.rungs
    steps = job.budget.steps or rungs
    for rung in range(1, rungs + 1):
        mean = _CHANCE + (end - _CHANCE) * (rung / rungs) ** 0.5 + drawn.gauss(0, _NOISE)
        accuracy = Accuracy(mean=min(1.0, max(0.0, mean)), half_width=0.02, episodes=100, seed=0)
        yield RungReport(rung=rung, accuracy=accuracy, steps=steps * rung // rungs, seconds=pace * rung)


def accuracy_of(config: TrialConfig) -> float:
    """The accuracy after the whole training, in [0.2, 0.9]: spread evenly over configurations by their hash."""
    digest = hashlib.sha256(repr(sorted(config.values.items())).encode()).digest()
    return _CHANCE + (_BEST - _CHANCE) * int.from_bytes(digest[:8]) / 2**64
