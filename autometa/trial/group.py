"""Run a few trials of one architecture together, each with its own checkpoint, rungs and end.

Where they cannot be trained as one model they are trained one after the other; what comes of each is the
same. It does not know who decides which of them shall stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from autometa.errors import AutometaError, DataChangedError, DivergedError, StackError
from autometa.learning.stacked.training import StackedTraining
from autometa.learning.training import Training
from autometa.records import RungReport, TrialRecord
from autometa.trial.job import Job
from autometa.trial.run import begin, diverged, ended, keep, run

OnStart = Callable[[int], None]
OnRung = Callable[[int, RungReport], bool]
OnEnd = Callable[[TrialRecord], None]


def run_group(jobs: Mapping[int, Job], *, on_start: OnStart, on_rung: OnRung, on_end: OnEnd) -> None:
    """Meta-train candidates together, from their checkpoints where there are some.

    Args:
        jobs: by the number of their trial.
        on_start: gets the number of a trial that trains alone after its first step, else before it.
        on_rung: gets a trial's number and report when its checkpoint is safe on disk, also the last one again of a
            trial that is resumed; returns whether the trial shall stop there.
        on_end: gets the record of each trial that did not stop, complete or failed.

    Raises:
        DataChangedError: the data is not what the jobs say; who has no record by then can be continued.
    """
    if len(jobs) == 1:
        _run_alone(*next(iter(jobs.items())), on_start, on_rung, on_end)
        return
    members = _begun(jobs, on_end)
    stopped = {n for n, training in members.items() if training.curve and on_rung(n, training.curve[-1])}
    alone = dict.fromkeys(n for n in members if n not in stopped)
    for number in alone:
        on_start(number)
    for number in _together({n: members[n] for n in alone}, jobs, on_rung, on_end):
        del alone[number]
    members.clear()
    for number in alone:
        _run_alone(number, jobs[number], lambda number: None, on_rung, on_end)


def _begun(jobs: Mapping[int, Job], on_end: OnEnd) -> dict[int, Training]:
    """The trainings of those jobs that can be carried out."""
    found = {}
    for number, job in jobs.items():
        try:
            found[number] = begin(job)
        except DataChangedError:  # not the candidate's fault, and the others would fare alike
            raise
        except AutometaError as error:
            on_end(failed(number, job, str(error)))
    return found


def _together(members: Mapping[int, Training], jobs: Mapping[int, Job], on_rung: OnRung, on_end: OnEnd) -> set[int]:
    """Train them as one model as far as that goes; returns the numbers of those that are over."""
    over: set[int] = set()
    numbers = list(members)
    if len(numbers) < 2:
        return over
    try:
        stack = StackedTraining(list(members.values()))
        for reached in stack.rungs():
            for index, what in reached.items():
                number = numbers[index]
                if _is_over(number, members[number], jobs[number], what, on_rung, on_end):
                    stack.stop(index)
                    over.add(number)
    except (StackError, torch.OutOfMemoryError):  # alone, from their last checkpoints
        pass
    return over


def _is_over(
    number: int, training: Training, job: Job, what: RungReport | DivergedError, on_rung: OnRung, on_end: OnEnd
) -> bool:
    if isinstance(what, DivergedError):
        on_end(ended(training, job, number=number, reason=diverged(what)))
        return True
    keep(training, job)
    if on_rung(number, what):
        return True
    if training.is_over:
        on_end(ended(training, job, number=number, reason=None))
    return training.is_over


class _StoppedError(Exception):
    """Ends a trial that runs alone."""


def _run_alone(number: int, job: Job, on_start: OnStart, on_rung: OnRung, on_end: OnEnd) -> None:
    starts = iter([on_start])

    def step(*_: object) -> None:
        for tell in starts:
            tell(number)

    def report(what: RungReport) -> None:
        if on_rung(number, what):
            raise _StoppedError

    try:
        on_end(run(job, on_rung=report, on_step=step, number=number))
    except _StoppedError:
        return
    except DataChangedError:
        raise
    except AutometaError as error:
        on_end(failed(number, job, str(error)))


def failed(number: int, job: Job, reason: str) -> TrialRecord:
    """The record of a job that could not be carried out."""
    return TrialRecord(number=number, state="fail", config=job.config, reason=reason)
