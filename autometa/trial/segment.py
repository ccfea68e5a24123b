"""One segment of a candidate's open training: from its checkpoint to a rung, or to the end of the search.

A segment is the unit of work of a search in a given time. Its checkpoint is on disk before its report is sent, so
that any worker can take the candidate on, and none repeats what was done.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch

from autometa.data.episodes import EpisodeSampler
from autometa.errors import DivergedError, OutOfTimeError
from autometa.learning.checkpoint_facts import FINAL, exists
from autometa.learning.features import seconds_per_image
from autometa.learning.open_ended import COOL_DOWN
from autometa.learning.training import Training
from autometa.records import FIRST_SECONDS, Record, Scalar, TrialRecord
from autometa.trial.best import keep_best, take_best
from autometa.trial.facts import facts_of, pass_blank
from autometa.trial.job import Job
from autometa.trial.run import OnRung, OnStep, begin, diverged, ended, keep, within_memory
from autometa.trial.validation import Validation, seconds_allowed

# Images by which a step is timed, and what a pass forward and back takes in passes forward.
_TIMED, _FORWARD_AND_BACK = 8, 3

OnFacts = Callable[[dict[str, Scalar]], None]


class Segment(Record):
    """What a worker is asked for: train to the rung `until`, or on to a time, and cool down by then.

    Times are in Unix seconds: what passes until a worker has the segment is not trained. Of a cluster's machines the
    clocks must agree.

    Args:
        not_after: when to stop on the way to `until`, where that is not reached.
        begin_within: seconds that features and a first step may take. A candidate that needs longer is not
            begun; one that has begun goes on.
        finish_by: when all must be over.
        threads: of a CPU.
    """

    job: Job
    until: int | None = None
    not_after: float | None = None
    begin_within: float | None = None
    finish_by: float | None = None
    threads: int = 1


def run_segment(
    segment: Segment,
    *,
    number: int,
    on_rung: OnRung,
    on_step: OnStep | None = None,
    on_facts: OnFacts | None = None,
) -> TrialRecord | None:
    """Carry a segment out; returns the candidate's record where it can go on no further, None where it can.

    `on_rung` gets every report after its checkpoint is safe on disk, the last one again on a resume. `on_facts` gets
    what there is to know of a candidate that can go on, after its first rung; or of one that was not begun.

    Raises:
        ConfigError, DataError: the job cannot be carried out at all.
        CheckpointError: `job.folder` holds a checkpoint that is damaged or of another job.
    """
    return within_memory(segment.job, number, lambda: _run(segment, number, on_rung, on_step, on_facts))


def _run(
    segment: Segment, number: int, on_rung: OnRung, on_step: OnStep | None, on_facts: OnFacts | None
) -> TrialRecord | None:
    job = segment.job
    if segment.finish_by is not None and exists(Path(job.folder) / FINAL):  # its worker died just after
        training = begin(job.inside(FINAL))
        on_rung(training.curve[-1])
        return ended(training, job, number=number, reason=None)
    training = begin(job)
    if training.curve:
        on_rung(training.curve[-1])
    try:
        if segment.finish_by is not None:
            _finish(training, job, segment.finish_by, on_rung, on_step)
            return ended(training, job, number=number, reason=None)
        is_new = not training.curve
        if is_new and segment.begin_within is not None:
            needed = _seconds_for_features(training) + _seconds_of_a_step(training)
            if needed > segment.begin_within:
                if on_facts:
                    on_facts(facts_of(training) | {FIRST_SECONDS: round(needed, 1)})
                return None
        with contextlib.suppress(OutOfTimeError):  # its checkpoint is of the rung before, and features are kept
            _go_on(training, segment, on_rung, on_step)
        if on_facts and is_new and training.curve:
            on_facts(facts_of(training))
    except DivergedError as error:
        return ended(training, job, number=number, reason=diverged(error))
    return None


def _seconds_for_features(training: Training) -> float:
    """What features of images that its networks were not shown take a candidate before its first measurement."""
    assert isinstance(training.validate, Validation)
    missing = training.validate.images_missing(1)
    if not any(missing.values()):
        return 0.0
    tables, of_image = training.validate.pool.features, seconds_per_image(training.learner)
    # Candidates of one network take the same train images, so the first one is shown all of them, and others none.
    images = {key: missing[key] + (0 if tables[key].known else training.learner.sees) for key in missing}
    return sum(images[key] * of_image[key] for key in images) / torch.get_num_threads()


def _seconds_of_a_step(training: Training) -> float:
    """About what an outer step takes on a CPU, which cannot be cut: a pass forward and back of its images.

    Of inner steps it knows nothing. Networks whose features are kept are not asked.
    """
    assert isinstance(training.source, EpisodeSampler)
    learner = training.learner
    if not learner.is_trained or learner.backbone.external or next(learner.parameters()).is_cuda:
        return 0.0
    started = time.perf_counter()
    pass_blank(learner, training.source.dataset.image_shape, _TIMED)
    seconds = time.perf_counter() - started
    return _FORWARD_AND_BACK * seconds / _TIMED * training.source.images_of_a_step


def _go_on(training: Training, segment: Segment, on_rung: OnRung, on_step: OnStep | None) -> None:
    """Train to the rung `until`, or stop where the time is over, and keep what was trained."""

    def is_late() -> bool:
        return segment.not_after is not None and time.time() >= segment.not_after

    _stop_features(training, is_late)
    while segment.until is None or training.rung < segment.until:
        if not training.train(on_step, stop=is_late):
            keep(training, segment.job)
            return
        report = training.report()
        keep(training, segment.job)
        if training.learner.is_trained:
            keep_best(training, segment.job)
        on_rung(report)


def _stop_features(training: Training, stop: Callable[[], bool]) -> None:
    """Let features of frozen networks be computed only until then."""
    assert isinstance(training.source, EpisodeSampler)
    assert isinstance(training.validate, Validation)
    for pool in (training.source.pool, training.validate.pool):
        pool.stop_features(stop)


def _finish(training: Training, job: Job, deadline: float, on_rung: OnRung, on_step: OnStep | None) -> None:
    """Go on at a constant rate as long as the time is, then cool down, so that all is over at the deadline.

    The checkpoint before the cool-down stays: a later search goes on from there.
    """
    assert isinstance(training.validate, Validation)
    if training.learner.is_trained:
        training.validate.look()
    pace = _Pace(training, job, deadline)
    while training.learner.is_trained and not pace.must_cool():
        if training.train(on_step, stop=pace.must_cool):
            report = training.report()
            keep(training, job)
            keep_best(training, job)
            on_rung(report)
    keep(training, job)
    training.cool_down(pace.part_for_cool_down())
    training.train(on_step, stop=lambda: pace.left <= 0)
    training.end_cool_down()
    training.report()
    if training.learner.is_trained:
        take_best(training, job)
    keep(training, job.inside(FINAL))
    on_rung(training.curve[-1])


class _Pace:
    """The clock of a last segment: when the cool-down has to begin, with the last validation still to come."""

    def __init__(self, training: Training, job: Job, deadline: float) -> None:
        self._training = training
        self._episodes = job.validation_episodes
        self._deadline = deadline

    @property
    def left(self) -> float:
        """Seconds for training."""
        curve = self._training.curve
        an_episode = curve[-1].seconds_per_episode if curve else 0.0
        validation = min(an_episode * self._episodes, seconds_allowed(self._training))
        is_falling = bool(curve) and max(r.accuracy.mean for r in curve) > curve[-1].accuracy.mean
        return self._deadline - time.time() - validation * (2 if is_falling else 1)  # then the best is measured as well

    def must_cool(self) -> bool:
        """Whether the time that is left is no more than the cool-down takes."""
        return self.left <= COOL_DOWN / (1 - COOL_DOWN) * self._training.state.seconds

    def part_for_cool_down(self) -> float:
        """What the cool-down may take, as a part of what is spent."""
        return max(self.left, 0.1) / max(self._training.state.seconds, 0.1)
