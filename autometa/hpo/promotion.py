"""Who gets a free worker of a search in a given time: a new candidate, or which one goes on.

Promotion by halving, asynchronously (Li et al. 2020, ASHA): of the candidates that have reached a rung, the better
half goes on to the next. The first candidates, which a space believes in most, go on to the third rung at once, and
are given up only for one that is clearly better: good ones may be slow at the start, and few episodes say little. When
only the time is left that the last training shall have, the best go on to the end without a break. It decides from
accuracies and clocks, and knows neither Optuna nor workers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autometa.records import RungReport

# The part of a search's time that its last trainings get; docs/log.md has what other parts gave.
FINISH = 0.6
# How far a second finalist may be behind the best, and that as a part of the best one's errors. One that is further
# behind adds nothing to an ensemble: docs/log.md has how little.
NEAR, NEAR_OF_ERRORS = 0.03, 0.25
# One of another family, whose errors are others, may be so many times as far behind.
FURTHER_OF_ANOTHER = 2.0
# Where the leader is not trained, others are tried until a part of the time for last trainings is left, between these.
# The end needs it for features of images that were not looked at before.
LAST_CALL, FIRST_CALL = 0.3, 0.85
# One of so many candidates goes on from each rung.
KEEP_ONE_OF = 2
# The rung to which the first candidates go without being compared.
HEAD_START = 3
# Where the last training is of layers on a network whose features are kept, it ends sooner: by this part of the time
# for last trainings at most. Confirmation and test have images that the network was not shown.
FEATURES_AT_END = 1 / 2
# Features for one more rung of a candidate that is not trained may take this part of what is left.
FEATURES = 0.15
# So may features and a first step of a new one: two minutes have room for a second network, which helps the first, and
# for no larger one.
BEGIN = 0.4


@dataclass(frozen=True)
class Standing:
    """What one candidate has shown so far. `is_busy` while a worker has it, or it can go on no further.

    Args:
        network: the frozen network whose features it reads; empty if it has none.
        image_seconds: what an image takes that network.
        family: its learner.
    """

    number: int
    curve: Sequence[RungReport]
    is_busy: bool = False
    network: str = ""
    image_seconds: float = 0.0
    family: str = ""

    @property
    def rung(self) -> int:
        return self.curve[-1].rung if self.curve else 0

    def at(self, rung: int) -> float | None:
        """Accuracy at a rung; None where it was not measured there."""
        return next((report.accuracy.mean for report in self.curve if report.rung == rung), None)

    @property
    def is_fixed(self) -> bool:
        """Whether it is not trained, so that more time gives it nothing."""
        return bool(self.curve) and self.curve[-1].is_untrained


@dataclass(frozen=True)
class New:
    """Try a new candidate, up to the first rung."""


@dataclass(frozen=True)
class GoOn:
    """Train this candidate to the rung `until`."""

    number: int
    until: int


@dataclass(frozen=True)
class Finish:
    """Train this candidate to the end of the time, and cool it down."""

    number: int


@dataclass(frozen=True)
class Twin:
    """Train this candidate's configuration with another seed, from its start to the end of the time."""

    number: int


Decision = New | GoOn | Finish | Twin


@dataclass(frozen=True)
class Promotion:
    """The policy of one search.

    Args:
        finish_from: seconds before the end at which last trainings begin.
        finalists: how many there may be.
        believed: how many of the first candidates are believed in most.
        episode_images: images of a validation episode.
        images_at_end: says how many images' features one worker computes at the end where a frozen network leads,
            by the number of validation episodes that it was measured on.
    """

    finish_from: float
    finalists: int
    believed: int = 0
    episode_images: int = 0
    images_at_end: Callable[[int], float] = lambda seen: 0.0

    def decide(
        self, standings: Sequence[Standing], *, left: float, finishing: int, exploring: int, can_start: bool
    ) -> Decision | None:
        """What a free worker does next; None where it has nothing to do.

        The best are chosen when all that was begun before is over: whoever is on a worker may be the best.

        Args:
            standings: of all candidates, in their order.
            left: seconds until all training is over.
            finishing: how many last trainings have begun.
            exploring: how many other segments are on workers.
            can_start: whether there is a new candidate.
        """
        if left <= self.last_from(standings):
            if finishing >= self.finalists or exploring:
                return None
            # Where nobody has a model yet, a late first one is better than none.
            return self._finalist(standings) or (New() if can_start else None)
        promoted = self._promoted(standings, left)
        if promoted:
            return GoOn(promoted.number, promoted.rung + 1)
        if can_start:
            return New()
        return self._longest_waiting(standings)

    def last_from(self, standings: Sequence[Standing]) -> float:
        """Seconds before the end at which last trainings begin: late where the leader is not trained.

        It gains nothing by more time, and others may overtake it on their way up the rungs.
        """
        leader = _leader(standings)
        if leader is None or not leader.is_fixed:
            return self.finish_from
        needed = self.images_at_end(leader.curve[-1].accuracy.episodes) * leader.image_seconds
        return min(max(needed, LAST_CALL * self.finish_from), FIRST_CALL * self.finish_from)

    def for_features(self, number: int, standings: Sequence[Standing]) -> float:
        """Seconds before the end of all training at which this candidate's last training must be over."""
        asked = next((s for s in standings if s.number == number and s.curve and s.network), None)
        if asked is None or asked.is_fixed:
            return 0.0
        needed = self.images_at_end(asked.curve[-1].accuracy.episodes) * asked.image_seconds
        return min(needed, FEATURES_AT_END * self.finish_from)

    def begin_within(self, number: int, left: float) -> float | None:
        """Seconds that a candidate's first features and step may take; None for any: the believed ones are tried."""
        return None if number < self.believed else BEGIN * left

    def _finalist(self, standings: Sequence[Standing]) -> Finish | Twin | None:
        """The best that is free; or again the best of all, where that is far ahead of it.

        One of a family that has no last training yet comes first, where it is not much behind: two that fail on other
        images are better together.
        """
        shown = [standing for standing in standings if standing.curve]
        free = [standing for standing in shown if not standing.is_busy]
        if not free:
            return None
        expected = _expected(shown)
        if other := self._of_another_family(standings, expected):
            return Finish(other.number)
        best, first = _best(free, expected), _best(shown, expected)
        if best is first:
            best = first = self._instead_of(best, [s for s in standings[: self.believed] if s in free], expected)
        return Finish(best.number) if first.is_fixed or _is_near(best, first, expected) else Twin(first.number)

    def _of_another_family(self, standings: Sequence[Standing], expected: Mapping[int, float]) -> Standing | None:
        """The best that is free of a family without a last training, if it is near the best of all."""
        shown = [standing for standing in standings if standing.curve]
        busy = {standing.family for standing in shown if standing.is_busy}
        others = [standing for standing in shown if not standing.is_busy and standing.family not in busy]
        if not busy or not others:
            return None
        other, first = _best(others, expected), _best(shown, expected)
        other = self._instead_of(other, [s for s in standings[: self.believed] if s in others], expected)
        is_near = _is_near(other, first, expected, further=FURTHER_OF_ANOTHER)
        return other if is_near and not first.is_fixed and not other.is_fixed else None

    def _instead_of(self, best: Standing, believed: Sequence[Standing], expected: Mapping[int, float]) -> Standing:
        """The best of those that are believed in, unless the best of all is clearly ahead.

        One that is not trained needs no last training, and gets none in the place of one that is.
        """
        rivals = [s for s in believed if best.is_fixed or not s.is_fixed]
        if best in rivals or not rivals:
            return best
        other = _best(rivals, expected)
        is_clear = expected[best.number] - expected[other.number] > best.curve[-1].accuracy.half_width
        return best if is_clear else other

    def _promoted(self, standings: Sequence[Standing], left: float) -> Standing | None:
        """One with a head start; or, from the highest rung that has one, the best that waits of its better half."""
        free = {s.number for s in standings if not s.is_busy and not self._is_too_dear(s, standings, left)}
        for standing in standings[: self.believed]:
            if 0 < standing.rung < HEAD_START and standing.number in free:
                return standing
        for rung in range(max((standing.rung for standing in standings), default=0), 0, -1):
            there = [(at, -s.number, s) for s in standings if (at := s.at(rung)) is not None]
            better = sorted(there, key=lambda entry: entry[:2], reverse=True)[: len(there) // KEEP_ONE_OF]
            for _, _, standing in better:
                if standing.rung == rung and standing.number in free:
                    return standing
        return None

    def _is_too_dear(self, standing: Standing, standings: Sequence[Standing], left: float) -> bool:
        """Whether features for its next rung, which has twice as many episodes, take too long; others may have them."""
        if not standing.is_fixed or any(s.network == standing.network and s.rung > standing.rung for s in standings):
            return False
        images = standing.curve[-1].accuracy.episodes * self.episode_images
        return images * standing.image_seconds > FEATURES * left

    def _longest_waiting(self, standings: Sequence[Standing]) -> GoOn | None:
        """Where there is nothing new: the best of the lowest rung."""
        free = [standing for standing in standings if standing.curve and not standing.is_busy]
        if not free:
            return None
        lowest = min(standing.rung for standing in free)
        best = max((s for s in free if s.rung == lowest), key=lambda s: (s.curve[-1].accuracy.sure, -s.number))
        return GoOn(best.number, lowest + 1)


def _best(of: Sequence[Standing], expected: Mapping[int, float]) -> Standing:
    """The one of which most is expected; the first of equals."""
    return max(of, key=lambda standing: (expected[standing.number], -standing.number))


def _is_near(one: Standing, first: Standing, expected: Mapping[int, float], *, further: float = 1.0) -> bool:
    """Whether it is not too far behind the best to add something to an ensemble."""
    near = further * min(NEAR, NEAR_OF_ERRORS * max(0.0, 1 - expected[first.number]))
    return expected[one.number] >= expected[first.number] - near


def _leader(standings: Sequence[Standing]) -> Standing | None:
    shown = [standing for standing in standings if standing.curve]
    return max(shown, key=lambda standing: standing.curve[-1].accuracy.sure, default=None)


def _expected(standings: Sequence[Standing]) -> dict[int, float]:
    """What each candidate would show at the highest rung that any has reached, by number.

    That is what it is sure of, and for each rung that it has not reached the median of what others gained there. Who is
    not trained gains nothing.
    """
    top = max(standing.rung for standing in standings)
    gains = {rung: _gain(standings, rung) for rung in range(1, top)}
    return {
        s.number: s.curve[-1].accuracy.sure + (0.0 if s.is_fixed else sum(gains[rung] for rung in range(s.rung, top)))
        for s in standings
    }


def _gain(standings: Sequence[Standing], rung: int) -> float:
    """The median gain of training from this rung to the next, 0 at least; and 0 where nobody was measured at both."""
    both = [(standing.at(rung), standing.at(rung + 1)) for standing in standings if not standing.is_fixed]
    found = [after - before for before, after in both if before is not None and after is not None]
    return max(0.0, statistics.median(found)) if found else 0.0
