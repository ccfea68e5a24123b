"""Parallel search with pruning on a simulated clock: trials take the seconds their task says, and no time passes here.

Events are handled in the order of simulated time, so each decision sees what parallel workers would have shown by
then and no more. The seconds of a suggestion are measured, not simulated: a training is far longer.
"""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import dataclass, field

import optuna
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState
from transfer_peers import Start
from transfer_tasks import Report, Task


@dataclass
class Live:
    """A trial in training: since when, and the reports it has not made yet."""

    trial: Trial
    began: float
    coming: list[Report]

    @property
    def due(self) -> float:
        """When its next report comes."""
        return self.began + self.coming[0].seconds


@dataclass
class Outcome:
    """What a search on the clock showed.

    Args:
        results: when each full trial ended, and its value.
        pruned: how many trials were stopped early.
        suggestion_seconds: of each suggestion, measured.
    """

    results: list[tuple[float, float]] = field(default_factory=list)
    pruned: int = 0
    suggestion_seconds: list[float] = field(default_factory=list)


def simulate(task: Task, start: Start, pruner: BasePruner, *, workers: int, limit_seconds: float) -> Outcome:
    """Search until the clock shows `limit_seconds`; what is in training then is lost."""
    study = optuna.create_study(direction=task.direction, sampler=start.sampler, pruner=pruner)
    for values in start.enqueued:
        study.enqueue_trial(values)
    outcome = Outcome()
    order = itertools.count()  # among events of one moment, the first planned comes first
    events: list[tuple[float, int, Live]] = []

    def plan(live: Live) -> None:
        heapq.heappush(events, (live.due, next(order), live))

    for _ in range(workers):
        plan(_begin(study, task, 0.0, outcome))
    while events[0][0] <= limit_seconds:
        now, _, live = heapq.heappop(events)
        plan(_begin(study, task, now, outcome) if _ends(study, live, now, outcome) else live)
    return outcome


def _begin(study: optuna.Study, task: Task, now: float, outcome: Outcome) -> Live:
    began = time.perf_counter()
    trial = study.ask(task.distributions)
    outcome.suggestion_seconds.append(round(time.perf_counter() - began, 5))
    return Live(trial, now, task.curve(trial.params))


def _ends(study: optuna.Study, live: Live, now: float, outcome: Outcome) -> bool:
    """Make the report that is due; tell the trial if it was the last or the pruner says stop."""
    report = live.coming.pop(0)
    live.trial.report(report.value, step=report.rung)
    if not live.coming:
        study.tell(live.trial, report.value)
        outcome.results.append((now, report.value))
        return True
    if live.trial.should_prune():
        study.tell(live.trial, state=TrialState.PRUNED)
        outcome.pruned += 1
        return True
    return False
