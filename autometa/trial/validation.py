"""How many validation episodes a trial is scored on at each rung, and the scoring.

All trials of a study have one list of episodes, drawn by seed alone. A rung takes the first of them, more from rung
to rung and the same for every trial, so that whoever compares trials at a rung compares them on the same episodes.
"""

from __future__ import annotations

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import ImagePool, fixed_episodes
from autometa.learning import intervals
from autometa.learning.evaluation import answers, evaluate
from autometa.learning.fitting import Fitting
from autometa.learning.training import Training
from autometa.records import Accuracy, EpisodeSpec
from autometa.trial.job import Job

# Images scored in one pass. Results do not depend on it; memory does: 640 of 32 x 32 through 64 channels are
# about 170 MB.
_EVALUATION_IMAGES = 640
# Episodes of the first of several rungs. docs/log.md has what other choices cost a search.
_AT_FIRST = 5


class Validation:
    """Scores a learner on the first of the fixed validation episodes: as many as `growing` says."""

    def __init__(self, pool: ImagePool, job: Job) -> None:
        self._pool = pool
        self._job = job
        self._fitting = Fitting()
        self._counts = growing(job.validation_episodes, job.budget.rungs)

    @property
    def dataset(self) -> FewShotDataset:
        """The data whose validation classes are scored."""
        return self._pool.dataset

    def __call__(self, training: Training, rung: int) -> Accuracy:
        """Score `training.learner` at this rung, 1 … rungs; at the last one with the interval for new classes."""
        job = self._job
        batches = fixed_episodes(
            self._pool,
            job.episodes,
            first=self._counts[rung - 1],
            count=job.validation_episodes,
            seed=job.validation_seed,
            batch=episodes_at_once(job.episodes),
        )
        if rung < job.budget.rungs:
            return evaluate(training.learner, batches, seed=job.validation_seed, fitting=self._fitting)
        scores = answers(training.learner, batches, self._pool.families, fitting=self._fitting)
        return intervals.accuracy(scores, job.validation_seed)


def growing(last: int, rungs: int) -> list[int]:
    """Episodes of each rung: a few at the first, by one factor more from rung to rung, and `last` at the last."""
    first = min(_AT_FIRST, last)
    return [*(round(first * (last / first) ** (rung / (rungs - 1))) for rung in range(rungs - 1)), last]


def episodes_at_once(spec: EpisodeSpec) -> int:
    """How many episodes are scored in one pass."""
    return max(1, _EVALUATION_IMAGES // (spec.way * (spec.shot + spec.query)))
