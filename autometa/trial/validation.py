"""How many validation episodes a trial is scored on at each rung, and the scoring.

All trials of a study have one list of episodes, drawn by seed alone. A rung takes the first of them, more from rung
to rung, so that two trials can be compared on those that both have seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, ImagePool, fixed_episodes
from autometa.learning import intervals
from autometa.learning.evaluation import answers, evaluate
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner
from autometa.learning.operations import operations_counter
from autometa.learning.training import Training
from autometa.records import Accuracy, EpisodeSpec
from autometa.trial.job import Job

# Images scored in one pass. Results do not depend on it; memory does: 640 of 32 x 32 through 64 channels are
# about 170 MB.
_EVALUATION_IMAGES = 640
# The last rung's part of a budget, times rungs; and how many episodes it gets whatever they cost.
_LAST_SHARE, _FEWEST_AT_LAST = 0.25, 20
# Of training, for all rungs together; the first rung's part of the last one's episodes; what is measured at a
# low rung whatever it costs. docs/log.md has what other choices cost a search.
_SHARE, _FIRST_PART, _FEWEST = 0.1, 0.2, 10
_TRIED_EPISODES = 2


class Validation:
    """Scores a learner on the first of the fixed validation episodes.

    The last rung has all of them, or as many as a part of the budget's operations or seconds pays for. The rungs
    before grow towards it, scaled down where they would take, with it, more than a tenth of training. With a budget
    of steps or operations that is counted and not timed, so a trial has the same episodes on every machine.

    Args:
        counts: episodes of each rung where they were decided before, in the trial's checkpoint.
    """

    def __init__(self, pool: ImagePool, job: Job, counts: Sequence[int] | None = None) -> None:
        self._pool = pool
        self._job = job
        self._fitting = Fitting()
        self.counts = list(counts) if counts else None

    @property
    def dataset(self) -> FewShotDataset:
        """The data whose validation classes are scored."""
        return self._pool.dataset

    def __call__(self, training: Training, rung: int) -> Accuracy:
        """Score `training.learner` at this rung, 1 … rungs; at the last one with the interval for new classes."""
        if self.counts is None:
            self.counts = self._decided(training)
        batches = self._first(self.counts[rung - 1])
        if rung < self._job.budget.rungs:
            return evaluate(training.learner, batches, seed=self._job.validation_seed, fitting=self._fitting)
        scores = answers(training.learner, batches, self._pool.families, fitting=self._fitting)
        return intervals.accuracy(scores, self._job.validation_seed)

    def _first(self, count: int) -> Iterator[EpisodeBatch]:
        job = self._job
        how = {"count": job.validation_episodes, "seed": job.validation_seed, "batch": episodes_at_once(job.episodes)}
        return fixed_episodes(self._pool, job.episodes, first=count, **how)

    def _decided(self, training: Training) -> list[int]:
        budget, wanted = self._job.budget, self._job.validation_episodes
        operations, seconds = self._cost(training.learner, timed=budget.seconds is not None)
        budgets = [budget.teraflops * 1e12 / operations] if budget.teraflops else []
        trainings = [training.operations / operations] if training.operations else []
        if budget.seconds:
            budgets.append(budget.seconds / seconds)
            trainings.append(budget.seconds / seconds)
        affordable = int(min((_LAST_SHARE * b / budget.rungs for b in budgets), default=wanted))
        last = min(wanted, max(_FEWEST_AT_LAST, affordable))
        return growing(last, budget.rungs, most=int(_SHARE * min(trainings)) if trainings else None)

    def _cost(self, learner: Learner, *, timed: bool) -> tuple[float, float]:
        """Operations of one episode, and its seconds where they are asked for."""
        with operations_counter() as counter:
            evaluate(learner, self._first(_TRIED_EPISODES), seed=0)
        started = time.perf_counter()
        if timed:
            evaluate(learner, self._first(_TRIED_EPISODES), seed=0)
        seconds = time.perf_counter() - started
        return max(1, counter.get_total_flops()) / _TRIED_EPISODES, seconds / _TRIED_EPISODES


def growing(last: int, rungs: int, most: int | None) -> list[int]:
    """Episodes of each rung up to `last`, all together at most `most` where the fewest at low rungs allow it.

    They grow by one factor a rung. Without `most` nothing is known of their cost.
    """
    low = [last * _FIRST_PART ** ((rungs - rung) / (rungs - 1)) for rung in range(1, rungs)]
    scale = 1.0 if most is None else min(1.0, max(0, most - last) / max(1.0, sum(low)))
    return [*(min(last, max(_FEWEST, int(scale * count))) for count in low), last]


def episodes_at_once(spec: EpisodeSpec) -> int:
    """How many episodes are scored in one pass."""
    return max(1, _EVALUATION_IMAGES // (spec.way * (spec.shot + spec.query)))
