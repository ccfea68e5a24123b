"""Where a training stands: what of its budget is spent, which rungs are behind it. It does not know what is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autometa.records import Budget, RungReport


@dataclass
class TrainingState:
    """Kept up to date by whoever takes the outer steps, and part of a checkpoint.

    Rungs are equally spaced in the budget.

    Attributes:
        budget: how long, and at how many rungs to validate.
        steps, seconds: outer steps taken, and time spent in them, over all resumes.
        last_step: the step at which the budget's steps and teraflops end, None where only seconds do. What teraflops
            pay for is counted before the first step.
        curve: a report for each rung so far.
    """

    budget: Budget
    steps: int = 0
    seconds: float = 0.0
    last_step: int | None = None
    curve: list[RungReport] = field(default_factory=list)

    @property
    def progress(self) -> float:
        """The part of the budget that is spent, in [0, 1]."""
        by_steps = self.steps / self.last_step if self.last_step else 0.0
        by_seconds = self.seconds / self.budget.seconds if self.budget.seconds else 0.0
        return min(1.0, max(by_steps, by_seconds))

    @property
    def is_over(self) -> bool:
        """Whether the last rung is reported."""
        return bool(self.curve) and self.curve[-1].rung >= self.budget.rungs

    @property
    def is_at_rung(self) -> bool:
        """Whether the next rung is reached."""
        next_rung = ((self.curve[-1].rung if self.curve else 0) + 1) / self.budget.rungs
        return self.progress >= next_rung - 1e-9

    @property
    def rung(self) -> int:
        """The highest rung that is reached; where one step crosses several, those below it are passed over."""
        return min(self.budget.rungs, math.floor(self.progress * self.budget.rungs + 1e-9))
