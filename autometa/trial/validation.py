"""How many validation episodes a trial is scored on at each rung, and the scoring.

All trials of a study have one list of episodes, drawn by seed alone. A rung takes the first of them, more from rung
to rung and the same for every trial, so that whoever compares trials at a rung compares them on the same episodes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, fixed_episodes, fixed_indices
from autometa.data.image_pool import ImagePool
from autometa.learning import intervals
from autometa.learning.evaluation import answers, evaluate
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner
from autometa.learning.scores import Scores
from autometa.learning.training import Training
from autometa.records import Accuracy, EpisodeSpec
from autometa.trial.job import Job

# Images scored in one pass. Results do not depend on it; memory does: 640 of 32 x 32 through 64 channels are
# about 170 MB.
_EVALUATION_IMAGES = 640
# Episodes of the first of several rungs; of an open budget as a part of all. docs/log.md has what other choices cost
# a search.
_AT_FIRST, _PART_AT_FIRST_OPEN = 5, 0.1
_PART_FOR_VALIDATION, _LEAST_SECONDS = 0.5, 1.0


class Validation:
    """Scores a model on the first of the fixed validation episodes: as many as `growing` or `doubling` says."""

    def __init__(self, pool: ImagePool, job: Job) -> None:
        self.pool = pool
        self._job = job
        self._fitting = Fitting()
        self._latest: Scores | None = None

    @property
    def dataset(self) -> FewShotDataset:
        """The data whose validation classes are scored."""
        return self.pool.dataset

    def feature_seconds(self) -> float:
        """Seconds that were spent on features, which other candidates find in the cache."""
        return self.pool.feature_seconds

    def images_missing(self, rung: int) -> dict[str, int]:
        """How many images of a rung's episodes a frozen network was not shown yet, by its key."""
        job = self._job
        index, _ = fixed_indices(self.pool, job.episodes, count=job.validation_episodes, seed=job.validation_seed)
        return self.pool.rows_missing(index[: _episodes_at(rung, job)].flatten())

    def look(self) -> None:
        """Have features of all episodes where they are kept, so that no measurement waits for them later."""
        look_at(self.pool, self._episodes(self._job.validation_episodes))

    def _last(self, training: Training) -> int:
        """Episodes after the cool-down: all; where nothing was trained, those whose answers are known."""
        if training.learner.is_trained or not training.curve:
            return self._job.validation_episodes
        return training.curve[-1].accuracy.episodes

    def __call__(self, training: Training, rung: int) -> Accuracy:
        """Score `training.model` at this rung, 1 and up; at the last one with the interval for new classes."""
        job = self._job
        count = _episodes_at(rung, job) if not training.state.is_cooled else self._last(training)
        batches = self._episodes(count)
        if job.budget.open:
            batches = _for_seconds(batches, seconds_allowed(training), self.feature_seconds)
        if count < job.validation_episodes:
            return evaluate(training.model, batches, seed=job.validation_seed, fitting=self._fitting)
        self._latest = self._answers(training.model, batches)
        return intervals.accuracy(self._latest, job.validation_seed)

    def compared(self, learner: Learner) -> tuple[Accuracy, float, float]:
        """A learner on the episodes of the last measurement, which was of the last rung.

        Returns its accuracy, by how much it is ahead of the model that was measured then, and the half width of that.
        """
        assert self._latest is not None
        scores = self._answers(learner, self._episodes(len(self._latest)))
        return intervals.accuracy(scores, self._job.validation_seed), *intervals.difference(scores, self._latest)

    def _answers(self, learner: Learner, batches: Iterable[EpisodeBatch]) -> Scores:
        pool = self.pool
        return answers(learner, batches, pool.families, images=pool.images_of_task, fitting=self._fitting)

    def _episodes(self, first: int) -> Iterator[EpisodeBatch]:
        job = self._job
        return fixed_episodes(
            self.pool,
            job.episodes,
            first=first,
            count=job.validation_episodes,
            seed=job.validation_seed,
            batch=episodes_at_once(job.episodes),
        )


def look_at(pool: ImagePool, episodes: Iterable[EpisodeBatch]) -> None:
    """Have features of these episodes of the pool's where a backbone's are kept."""
    if pool.features:
        for _ in episodes:
            pass


def within(batches: Iterable[EpisodeBatch], end: float, *, fewest: int) -> Iterator[EpisodeBatch]:
    """Batches of which each is over by the end, as far as the one before it tells; so many episodes in any case.

    Args:
        end: by `time.monotonic()`.
    """
    done, before = 0, time.monotonic()
    for batch in batches:
        yield batch
        done, now = done + batch.batch, time.monotonic()
        took, before = now - before, now
        if done >= fewest and now + took > end:
            return


def seconds_allowed(training: Training) -> float:
    """How long an open training may be validated: a part of what it was trained for since the last time.

    Learners that are fitted to each episode take longer for it than for training. They are scored on fewer episodes,
    the first of the common ones. No limit where budgets are not in seconds, which are reproducible, or where nothing
    is trained.
    """
    if training.state.budget.seconds is None or not training.learner.is_trained:
        return math.inf
    trained = training.state.seconds - (training.curve[-1].seconds if training.curve else 0.0)
    return max(_LEAST_SECONDS, _PART_FOR_VALIDATION * trained)


def _for_seconds(
    batches: Iterable[EpisodeBatch], seconds: float, uncounted: Callable[[], float]
) -> Iterator[EpisodeBatch]:
    """Batches until the time is over, and one at least; what is not counted takes none of it."""
    end = time.monotonic() - uncounted() + seconds
    for batch in batches:
        yield batch
        if time.monotonic() - uncounted() >= end:
            return


def _episodes_at(rung: int, job: Job) -> int:
    if job.budget.open:
        return doubling(job.validation_episodes, rung)
    return growing(job.validation_episodes, job.budget.rungs)[rung - 1]


def doubling(most: int, rung: int) -> int:
    """Episodes at a rung of an open budget: twice as many from rung to rung, as is its cost, up to a number."""
    return min(most, max(2, round(_PART_AT_FIRST_OPEN * most)) * 2 ** (rung - 1))


def growing(last: int, rungs: int) -> list[int]:
    """Episodes of each rung: a few at the first, by one factor more from rung to rung, and `last` at the last."""
    first = min(_AT_FIRST, last)
    return [*(round(first * (last / first) ** (rung / (rungs - 1))) for rung in range(rungs - 1)), last]


def episodes_at_once(spec: EpisodeSpec) -> int:
    """How many episodes are scored in one pass."""
    return max(1, _EVALUATION_IMAGES // (spec.way * (spec.shot + spec.query)))
