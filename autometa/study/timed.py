"""The trials of an open search: candidates go on while they are good, and all is over when the time is.

The time that was given includes the start, confirmation and the last measurement. This file plans it; `desk.py` hands
out the work, and `promotion.py` decides.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from autometa.data.all_classes import MOST_LABELLED
from autometa.errors import StopSearchError
from autometa.hpo import study_record
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.promotion import FINISH, Promotion
from autometa.orchestrator.cluster import Share
from autometa.records import Budget, StudyRecord, TrialRecord
from autometa.study import confirm
from autometa.study.baselines import StudyBaselines
from autometa.study.desk import SearchDesk
from autometa.study.measuring import Ends
from autometa.study.plan import Plan
from autometa.study.warm import BELIEVED
from autometa.trial.abilities import external_backbones

# What is kept back for the end, where nobody knows yet what it takes: a part of the time, and seconds at most.
# Two models that answer together take more of it.
_KEPT_BACK, _KEPT_BACK_FOR_TWO, _MOST_KEPT_BACK = 0.1, 0.14, 120.0
# What is given to fitting an ensemble, of what is left then.
PART_FOR_ENSEMBLE = 0.3
# Where a last training has so many seconds, or so many for each train image, two models of one core each are better
# than one of two: docs/log.md.
_LONG, _LONG_FOR_AN_IMAGE = 1500.0, 0.04
_SECONDS_BETWEEN_NOTES = 10.0
# What the measurements of the end take before the first episode, and the part of what is left that confirmation has.
# To name images of all classes starts later, and has baselines beside it.
_MEASURING_STARTS, _PART_FOR_CONFIRMATION, _ALL_CLASSES_START = 2.0, 0.5, 3.0


class Clock:
    """The time that a study has had, over all its runs; written into it now and then, and when asked to."""

    def __init__(self, study: optuna.Study, plan: Plan) -> None:
        assert plan.deadline is not None
        assert plan.settings.time_budget is not None
        self._study = study
        self._began = plan.deadline - plan.settings.time_budget
        self._noted = time.monotonic()

    def tick(self) -> None:
        """Write the time if it was not written lately."""
        if time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES:
            self.note()

    def note(self) -> None:
        """Write the time."""
        self._noted = time.monotonic()
        study_record.note_time(self._study, self._noted - self._began)


@dataclass(frozen=True)
class Drawn:
    """Episodes and the images that they are drawn from.

    Args:
        an_episode: images of an episode.
        validation, test: images of all classes of the split, without those that are in both.
    """

    an_episode: int
    validation: int
    test: int

    @classmethod
    def of(cls, plan: Plan) -> Drawn:
        """The episodes of a search."""
        data, spec = plan.dataset, plan.episodes
        val, test = (sum(map(len, data.members(split))) for split in ("val", "test"))
        val += sum(map(len, data.labelled_members("val") or ()))
        return cls(spec.way * (spec.shot + spec.query), val, test)

    def new_in_validation(self, episodes: int, seen: int) -> float:
        """How many images so many episodes have that so many others did not have, as expected."""
        return self._distinct_of(self.validation, seen + episodes) - self._distinct_of(self.validation, seen)

    def new_in_test(self, episodes: int) -> float:
        """The same of test episodes, which nobody saw before."""
        return self._distinct_of(self.test, episodes)

    def _distinct_of(self, images: int, episodes: int) -> float:
        return images * -math.expm1(-episodes * self.an_episode / images) if images else 0.0


def _image_seconds(trials: Sequence[TrialRecord]) -> float:
    """What an image that was not seen yet takes all frozen networks of these trials, in seconds of one core."""
    networks = {t.facts["features"]: float(t.facts["image_seconds"]) for t in trials if "image_seconds" in t.facts}
    return sum(networks.values())


def seconds_to_measure(plan: Plan, may_win: Sequence[TrialRecord], share: Share, *, passes: float = 1.0) -> float:
    """What is left for an ensemble, confirmation and test: without what naming images of all classes takes.

    Args:
        passes: how often the model that is handed over sees an image, of several members in several views.
    """
    assert plan.deadline is not None
    left = plan.deadline - time.monotonic() - _MEASURING_STARTS
    return left - _seconds_for_all_classes(plan, may_win, share, passes)


def ends(plan: Plan, may_win: Sequence[TrialRecord], share: Share, *, passes: float = 1.0) -> Ends:
    """When confirmation and test are over; arguments as above."""
    now, seconds = time.monotonic(), seconds_to_measure(plan, may_win, share, passes=passes)
    return Ends(confirmation=now + _PART_FOR_CONFIRMATION * seconds, test=now + seconds)


def _seconds_for_all_classes(plan: Plan, trials: Sequence[TrialRecord], share: Share, passes: float) -> float:
    """What naming images of all classes may take one of these at the end, or all that are frozen networks together."""
    images = _images_of_all_classes(plan)
    if not images:
        return 0.0
    drawn = Drawn.of(plan)
    an_image = share.threads_of_last * max((_seconds_of_image(drawn, trial) for trial in trials), default=0.0)
    features = _new_of_all_classes(plan) * _image_seconds(trials) / share.workers
    return _ALL_CLASSES_START + passes * images * an_image + features


def _seconds_of_image(drawn: Drawn, trial: TrialRecord) -> float:
    """What an image that was not seen yet took in the last measurement, without features of a frozen network."""
    if trial.last is None:
        return 0.0
    last = trial.last
    images = last.accuracy.episodes * drawn.an_episode
    each_time = (last.validation_seconds - last.pass_seconds) / images
    return each_time + last.pass_seconds / max(1, min(images, drawn.validation))


def _images_of_all_classes(plan: Plan) -> int:
    """Labelled images and images to name, of the task of all classes; 0 where it is not measured."""
    data = plan.dataset
    if not plan.measures_all_classes:
        return 0
    if labelled := data.labelled_members("test"):
        pairs = zip(labelled, data.members("test"), strict=True)
        return sum(len(known) + len(asked) for known, asked in pairs)
    return sum(min(2 * MOST_LABELLED, int(count)) for count in data.class_counts)  # and as many to name


def _new_of_all_classes(plan: Plan) -> int:
    """Those that no episode had; where all classes are the task, its episodes had them."""
    return 0 if plan.ref.all_classes else _images_of_all_classes(plan)


def _images_at_end(plan: Plan, drawn: Drawn, share: Share, seen: int) -> float:
    """Images that one worker has of confirmation, test and the task of all classes, for two networks together.

    Args:
        seen: validation episodes that the leader was measured on.
    """
    count = int(plan.part_of_episodes * confirm.EPISODES)
    episodes = drawn.new_in_validation(count, seen) + drawn.new_in_test(count)
    return 2 * (episodes / (1 - PART_FOR_ENSEMBLE) + _new_of_all_classes(plan)) / share.workers


def for_last_trainings(plan: Plan, share: Share) -> Share:
    """The workers, with a last training each where these are long and their models may be handed over together.

    Long is also what shows each train image often: one model in two threads learns little more from them than in one,
    and two models fail on different images. Beside frozen networks nothing but the hour was compared.
    """
    asked = plan.settings
    long = _LONG if external_backbones(plan.space) else min(_LONG, _LONG_FOR_AN_IMAGE * _train_images(plan))
    is_long = asked.is_open and FINISH * (asked.time_budget or 0.0) >= long
    return dataclasses.replace(share, one_each=is_long and not asked.hands_over_one)


def _train_images(plan: Plan) -> float:
    """How many there are, those of more than 32 x 32 pixels counted by their pixels."""
    *_, height, width = plan.dataset.image_shape
    return sum(map(len, plan.dataset.members("train"))) * max(1.0, height * width / 32**2)


def believed(share: Share) -> int:
    """How many starts have a head start: one of another family as well where two may be handed over together."""
    return BELIEVED + share.one_each


def seconds_of_last_training(plan: Plan, budget: Budget, share: Share) -> float:
    """How long a candidate is trained that goes to the end, in seconds of one core; 0 where budgets are no time."""
    if not budget.open:
        return budget.seconds or 0.0
    assert plan.settings.time_budget is not None
    return FINISH * plan.settings.time_budget * share.threads_of_last


def _end_of_training(plan: Plan, share: Share) -> float:
    """When all training is over, by `time.monotonic()`: before the deadline by what is kept back."""
    assert plan.deadline is not None
    assert plan.settings.time_budget is not None
    part = _KEPT_BACK_FOR_TWO if share.one_each else _KEPT_BACK
    return plan.deadline - min(part * plan.settings.time_budget, _MOST_KEPT_BACK)


def run_candidates(
    plan: Plan, ledger: OpenLedger, record: StudyRecord, share: Share, baselines: StudyBaselines
) -> bool:
    """Train candidates until the time is over; returns whether it was interrupted, and then nothing is closed."""
    end, clock = _end_of_training(plan, share), Clock(ledger.study, plan)

    # Ray Tune takes a second to import, and must not while Ray starts in its thread.
    from autometa.orchestrator import everywhere, segments

    drawn = Drawn.of(plan)
    policy = Promotion(
        finish_from=FINISH * (end - time.monotonic()),
        finalists=share.finalists,
        believed=believed(share),
        episode_images=drawn.an_episode,
        images_at_end=functools.partial(_images_at_end, plan, drawn, share),
    )
    desk = SearchDesk(
        ledger,
        policy,
        end=end,
        threads=share.threads_of_last,
        make_job=functools.partial(plan.job_of, budget=record.budget, use_gpu=share.gpus > 0),
        on_last=lambda: everywhere.warm_up(share),
        on_end=clock.tick,
    )
    if desk.is_over:  # it has had its time
        ledger.close()
        return False
    try:
        segments.run_segments(desk, share, plan.folder / "tune", baselines)
    except KeyboardInterrupt:
        ledger.pause_all()
        return True
    except StopSearchError as error:
        ledger.pause_all()
        raise plan.stopped(error) from None
    finally:
        clock.note()
    ledger.close()
    return False
