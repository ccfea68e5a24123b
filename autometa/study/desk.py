"""What the workers of a search in a given time do next: policy, books and clock together.

It hands out segments and hears what came of them. It knows neither Ray nor how a candidate trains.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from autometa.hpo.ledger import Asked
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.promotion import Decision, Finish, GoOn, Promotion, Twin
from autometa.records import RungReport, Scalar, TrialRecord
from autometa.trial.job import Job
from autometa.trial.segment import Segment

# Seconds after its time from which nobody waits for a segment: an outer step may be slow, and cannot be cut.
_LATE = 5.0


class SearchDesk:
    """Hands out segments until the time is over.

    Args:
        end: `time.monotonic()` at which all training is over.
        threads: of a CPU for each of the last trainings.
        make_job: the open job of a candidate.
        on_last: called when the last training has begun.
        on_end: called when a segment has ended.
    """

    def __init__(
        self,
        ledger: OpenLedger,
        policy: Promotion,
        *,
        end: float,
        threads: int = 1,
        make_job: Callable[[Asked], Job],
        on_last: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._policy = policy
        self._end = end
        self._make_job = make_job
        self._on_last, self._on_end = on_last, on_end
        self._threads = threads
        self._finishing: set[int] = set()
        self._exploring: dict[int, float] = {}  # until when, by `time.time()`

    @property
    def is_over(self) -> bool:
        """Whether all last trainings have begun, the time is over, or there is no hope."""
        return self._left <= 0 or len(self._finishing) >= self._policy.finalists or bool(self._ledger.hopeless_reason)

    def next(self) -> tuple[int, Segment] | None:
        """The segment that the policy wants next; None while there is nothing to do."""
        left, standings = self._left, self._ledger.standings()
        last_from = self._policy.last_from(standings)
        decision = self._policy.decide(
            standings,
            left=left,
            finishing=len(self._finishing),
            exploring=sum(time.time() < end + _LATE for end in self._exploring.values()),
            can_start=not self._ledger.is_exhausted,
        )
        if decision is None:
            return None
        # By the time when the policy decided: to propose takes a while, and a candidate that was meant to be tried
        # would be the last training.
        is_last = isinstance(decision, Finish | Twin) or left <= last_from
        asked = self._taken(decision)
        job = self._make_job(asked)
        if is_last:
            number = decision.number if isinstance(decision, Finish | Twin) else asked.number
            return asked.number, self._to_the_end(job, asked, self._policy.for_features(number, standings))
        return asked.number, self._to_a_rung(job, asked, decision.until if isinstance(decision, GoOn) else 1, last_from)

    def started(self, number: int) -> None:
        self._ledger.started(number)

    def reported(self, number: int, report: RungReport) -> None:
        self._ledger.report(number, report)

    def described(self, number: int, facts: dict[str, Scalar]) -> None:
        self._ledger.describe(number, facts)

    def ended(self, number: int, record: TrialRecord | None, error: str | None = None) -> None:
        if error:
            self._ledger.end(number, record=None, error=error)
            self._finishing.discard(number)
        elif record:
            self._ledger.finish(number, record)
            if record.state == "fail":
                self._finishing.discard(number)
        else:
            self._ledger.pause(number)
        self._exploring.pop(number, None)
        self._on_end()

    def ran_with(self, kernels: str | None) -> None:
        self._ledger.ran_with(kernels)

    @property
    def _left(self) -> float:
        return self._end - time.monotonic()

    def _taken(self, decision: Decision) -> Asked:
        if isinstance(decision, GoOn | Finish):
            return self._ledger.go_on(decision.number)
        if isinstance(decision, Twin):
            return self._ledger.try_again(decision.number)
        return self._ledger.ask()

    def _to_the_end(self, job: Job, asked: Asked, for_features: float) -> Segment:
        self._finishing.add(asked.number)
        if self.is_over:
            self._on_last()
        return Segment(job=job, finish_by=time.time() + self._left - for_features, threads=self._threads)

    def _to_a_rung(self, job: Job, asked: Asked, until: int, last_from: float) -> Segment:
        not_after = time.time() + self._left - last_from
        self._exploring[asked.number] = not_after
        within = self._policy.begin_within(asked.number, self._left)
        return Segment(job=job, until=until, not_after=not_after, begin_within=within)
