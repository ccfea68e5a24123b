"""Where a training stands: what of its budget is spent, which rungs are behind it. It does not know what is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autometa.records import Budget, RungReport

_TOLERANCE = 1e-9


@dataclass
class TrainingState:
    """Kept up to date by whoever takes the outer steps, and part of a checkpoint.

    Rungs are equally spaced in the budget, or, of an open one, at its 1, 2, 4, … fold.

    Attributes:
        budget: how long, and at how many rungs to validate.
        steps, seconds: outer steps taken, and time spent in them, over all resumes.
        last_step: the step at which the budget's steps and teraflops end, None where only seconds do. What teraflops
            pay for is counted before the first step.
        curve: a report for each rung so far.
        cooling: of an open budget, from which part of it to which the learning rate falls to zero; None before.
        warms_from: the step from which the learning rate rises.
    """

    budget: Budget
    steps: int = 0
    seconds: float = 0.0
    last_step: int | None = None
    curve: list[RungReport] = field(default_factory=list)
    cooling: tuple[float, float] | None = None
    warms_from: int = 0

    @property
    def spent(self) -> float:
        """The part of the budget that is spent; more than 1 where it is open.

        Of a budget of no steps it is all. Where nothing is trained in an open one, each rung is reached at once.
        """
        if self.last_step == 0:
            if not self.budget.open:
                return 1.0
            return self.cooling[1] if self.cooling else self.budget.spent_at(self._reported + 1)
        by_steps = self.steps / self.last_step if self.last_step else 0.0
        by_seconds = self.seconds / self.budget.seconds if self.budget.seconds else 0.0
        return max(by_steps, by_seconds)

    @property
    def progress(self) -> float:
        """The part of training that is behind it, in [0, 1]; with an open budget it comes near 1 and never there."""
        if self.budget.open:
            return self.spent / (1 + self.spent)
        return min(1.0, self.spent)

    @property
    def annealed(self) -> float:
        """How much of the fall of the learning rate is behind it, in [0, 1]: of an open budget, of its cool-down."""
        if not self.budget.open:
            return self.progress
        if self.cooling is None:
            return 0.0
        start, end = self.cooling
        if end <= start:
            return 1.0
        return min(1.0, max(0.0, (self.spent - start) / (end - start)))

    @property
    def is_over(self) -> bool:
        """Whether the last rung is reported, or the cool-down has ended and is."""
        if not self.budget.open:
            return self._reported >= self.budget.rungs
        return self.is_cooled and self._reported >= self.rung

    @property
    def is_cooled(self) -> bool:
        """Whether a cool-down has ended."""
        return self.cooling is not None and self.annealed >= 1

    @property
    def is_at_rung(self) -> bool:
        """Whether the next rung is reached; in a cool-down that is its end."""
        if self.cooling is not None:
            return self.spent >= self.cooling[1] - _TOLERANCE
        return self.spent >= self.budget.spent_at(self._reported + 1) - _TOLERANCE

    @property
    def rung(self) -> int:
        """The highest rung that is reached; where one step crosses several, those below it are passed over.

        The end of a cool-down counts as one more.
        """
        if self.cooling is not None and self.is_cooled:
            reported = [report.rung for report in self.curve if not report.cooled]
            return max(_doublings(self.cooling[0]), *reported[-1:], 0) + 1
        if self.budget.open:
            return _doublings(self.spent)
        return min(self.budget.rungs, math.floor(self.progress * self.budget.rungs + _TOLERANCE))

    @property
    def _reported(self) -> int:
        return self.curve[-1].rung if self.curve else 0


def _doublings(spent: float) -> int:
    """The highest rung of an open budget of which so much is spent; 0 below the first."""
    return math.floor(math.log2(spent + _TOLERANCE)) + 1 if spent >= 1 - _TOLERANCE else 0
