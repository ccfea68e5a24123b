"""The study's books: every proposal, report and ending of a trial, written to Optuna by the driver alone.

Optuna is the single source of truth. This file decides what is asked, told, pruned and recovered; it
does not know who runs the trials (`trials.py` does).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pydantic import ValidationError

from autometa import trial_attributes as attributes
from autometa.errors import AutometaError, StudyError
from autometa.events import OnEvent, RungReached, TrainingStarted, TrialEnded, TrialStarted, Warned, ignore
from autometa.hpo import study_record
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.tried import Tried, values_of
from autometa.learning.checkpoint_facts import exists, read_facts
from autometa.records import RungReport, Scalar, TrialConfig, TrialRecord, explain
from autometa.space.space import SearchSpace

# A trial that was running in three drivers that died is more likely their cause than their victim.
MAX_ATTEMPTS = 3
# The constraint that a trial violates which does not fit the memory.
MEMORY = "memory"
_FIXED = "fixed_params"  # where Optuna keeps what was enqueued
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass
class Asked:
    """A trial to run: its values, its seed, the folder its checkpoint is (or will be) in, and the rung it is at.

    `goes_on` says that it continues an interrupted one, which may have had no checkpoint yet.
    """

    number: int
    values: dict[str, Scalar]
    seed: int
    folder: str
    rung: int = 0
    goes_on: bool = False


@dataclass
class Live:
    """A trial that was asked for and has not ended."""

    trial: Trial
    asked: Asked
    curve: dict[int, RungReport] = field(default_factory=dict)
    pruned: bool = False


class Ledger:
    """Asks and tells one Optuna study.

    Args:
        study: the Optuna study, with its sampler and pruner.
        storage: where the study is kept.
        space: what to propose.
        rungs: rungs of a full trial; None where trials have no end of their own.
        seed: the search's seed; trial n is trained with seed + n.
        folder: trial n keeps its checkpoint in `folder/0000n`.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        *,
        storage: SingleWriter,
        rungs: int | None,
        seed: int,
        folder: Path,
        on_event: OnEvent = ignore,
    ) -> None:
        self.study = study
        self._storage = storage
        self._space = space
        self._rungs = rungs
        self._seed = seed
        self._folder = folder
        self._emit = on_event
        self._tried = Tried(study, space)
        self._live: dict[int, Live] = {}
        self._waiting: set[int] = set()  # of these, those that no worker has
        self._failed_in_a_row: list[str] = []
        self._kernels: set[str] = set()

    @property
    def running(self) -> list[int]:
        """Trials asked and not ended."""
        return sorted(self._live)

    @property
    def hopeless_reason(self) -> str | None:
        """Why the search should give up: nothing but failures so far, several of them."""
        if len(self._failed_in_a_row) < 6 or any(t.state == TrialState.COMPLETE for t in trials_of(self.study)):
            return None
        return self._failed_in_a_row[-1]

    @property
    def is_exhausted(self) -> bool:
        """Whether there is nothing left to ask for: each configuration of the space is a trial, and none waits."""
        return not trials_of(self.study, TrialState.WAITING) and self._tried.is_all

    def ask(self) -> Asked:
        """The next trial: one that was interrupted, with the curve it had; else from the queue; else a proposal."""
        return self._asked(lambda: self._interrupted() or self.study.ask())

    def _interrupted(self) -> Trial | None:
        """The first in the queue that continues another, out of the queue.

        `Study.ask` takes the oldest entry, and a continuation is younger than all first proposals: where fewer trials
        are left than wait, it would wait for ever, and its work would be lost.
        """
        for waiting in trials_of(self.study, TrialState.WAITING):
            if attributes.CONTINUES.of(waiting) is not None:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # somebody else took it
                    if self._storage.set_trial_state_values(waiting.number, TrialState.RUNNING):
                        return Trial(self.study, waiting.number)
        return None

    def has_others_like(self, first: Asked) -> bool:
        """Whether the space has configurations, not tried yet, that differ from this one in continuous values only."""
        fixed = self._space.discrete(first.values)
        return len(fixed) < len(first.values) and self._tried.has_others(fixed)

    def ask_like(self, first: Asked) -> Asked:
        """Propose a trial that differs from this one in its continuous values only, past whatever waits in the queue.

        The sampler chooses these, and knows of the others.
        """
        fixed = {_FIXED: self._space.discrete(first.values)}  # as `enqueue_trial` has them
        return self._added(system_attrs=fixed, user_attrs=attributes.TOGETHER_WITH.entry(first.number))

    def _added(self, **what: Any) -> Asked:
        """A trial that runs, with what of it is known, past the queue; `what` is as of `optuna.trial.create_trial`."""

        def create() -> Trial:
            self.study.add_trial(create_trial(state=TrialState.RUNNING, **what))
            return Trial(self.study, trials_of(self.study)[-1].number)

        return self._asked(create)

    def _asked(self, next_trial: Callable[[], Trial]) -> Asked:
        """Give a trial its values, seed and folder; a new one is written with all of these at once."""
        with self._storage.one_write() as created:
            trial = next_trial()
            values = self._space.suggest(trial)
            seed, folder = self._identified(trial)
        if created.number is not None and created.number != trial.number:
            trial = Trial(self.study, created.number)
            seed, folder = self._identified(trial)
        asked = Asked(trial.number, values, seed, folder, goes_on=attributes.CONTINUES.of(trial) is not None)
        live = self._live[trial.number] = Live(trial, asked)
        for report in self._saved_curve(folder):
            self.write(live, report)
        asked.rung = max(live.curve, default=0)
        self._emit(TrialStarted(asked.number, values, attributes.CONTINUES.of(trial), asked.rung))
        return asked

    def _identified(self, trial: Trial) -> tuple[int, str]:
        """The trial's seed and folder, noted with it."""
        known = trials_of(self.study)[trial.number]
        seed, folder = self._seed_of(known), folder_of(known)
        if (attributes.SEED.of(known), attributes.FOLDER.of(known)) != (seed, folder):
            attributes.SEED.write(trial, seed)
            attributes.FOLDER.write(trial, folder)
        return seed, folder

    def started(self, number: int) -> None:
        """Tell that a trial trains; nothing is written."""
        self._emit(TrainingStarted(number))

    def warn(self, message: str) -> None:
        """Tell something that a user should know."""
        self._emit(Warned(message))

    def ran_with(self, kernels: str | None) -> None:
        """Keep what a worker says of its compiled kernels, and tell when it has none that it should have."""
        if kernels is None or kernels in self._kernels or not study_record.is_ours(self.study):
            return
        self._kernels.add(kernels)
        study_record.add_kernels(self.study, kernels)
        if kernels.startswith("not used"):
            self._emit(Warned(f"compiled kernels are {kernels}; training on a CPU is slower"))

    def report(self, number: int, report: RungReport) -> bool:
        """Write a rung's accuracy when it is made; returns whether the trial should stop here.

        A rung that is reported again, after a worker died and its trial went on from the checkpoint, is
        not written twice.
        """
        live = self._live[number]
        is_new = report.rung not in live.curve
        if is_new:
            self.write(live, report)
        if self._rungs and report.rung < self._rungs:
            live.pruned = live.trial.should_prune()
        if is_new:
            self._emit(RungReached(number, self._rungs, report))
        return live.pruned

    def end(self, number: int, *, record: TrialRecord | None, error: str | None = None) -> None:
        """Tell how a trial ended: complete at the last rung, pruned where `report` said so, or fail.

        A trial that merely stopped, with neither, was interrupted: it stays RUNNING for `recover`.
        """
        live = self._live.get(number)
        if live is None:
            return
        error = error or (record.reason if record else None)
        if record:
            attributes.FACTS.write(live.trial, dict(record.facts))
            if record.facts.get("out_of_memory"):
                live.trial.set_constraint(MEMORY, 1.0)
        if error:
            self._tell(live, TrialState.FAIL, reason=error)
        elif live.pruned:
            self._tell(live, TrialState.PRUNED)
        elif self._rungs and self._rungs in live.curve:
            self._tell(live, TrialState.COMPLETE)

    def recover(self, *, died: bool) -> list[int]:
        """Put every RUNNING trial back in the queue with its checkpoint and curve; returns their numbers.

        The new entry is written before the old one is closed, so a crash in between loses nothing; the old
        one becomes FAIL, marked as interrupted, and is not counted. `died` says that the driver that ran
        them did not end properly, which counts as an attempt.
        """
        numbers = []
        waiting = {attributes.CONTINUES.of(t) for t in trials_of(self.study)}
        for old in trials_of(self.study, TrialState.RUNNING):
            attempts = attributes.ATTEMPTS.of(old, 0) + died
            if attempts < MAX_ATTEMPTS and old.number not in waiting:
                self._enqueue_again(old, attempts)
            self._close_interrupted(old, gave_up=attempts >= MAX_ATTEMPTS)
            self._live.pop(old.number, None)
            numbers.append(old.number)
        return numbers

    def _continuing(self, old: FrozenTrial) -> dict[str, Any]:
        """The attributes of a trial that goes on from the checkpoint of another."""
        again = attributes.CONTINUES.entry(old.number)
        again |= attributes.SEED.entry(self._seed_of(old)) | attributes.FOLDER.entry(folder_of(old))
        origin = attributes.ORIGIN.of(old)
        return again | (attributes.ORIGIN.entry(origin) if origin is not None else {})

    def _enqueue_again(self, old: FrozenTrial, attempts: int) -> None:
        again = self._continuing(old) | attributes.ATTEMPTS.entry(attempts)
        # A driver that died before it had written them leaves the values of an entry of the queue in that alone.
        self.study.enqueue_trial(values_of(old), user_attrs=again)

    def _seed_of(self, trial: FrozenTrial) -> int:
        """A continuation keeps that of the trial it began as."""
        by_number = self._seed + trial.number
        return attributes.SEED.of(trial, by_number) if _was_queued(trial) else by_number

    def _close_interrupted(
        self, old: FrozenTrial, *, gave_up: bool = False, why: str = "interrupted; it continues as a later trial"
    ) -> None:
        if gave_up:
            reason = f"interrupted {MAX_ATTEMPTS} times"
            with contextlib.suppress(AutometaError):  # its checkpoint may be what is damaged
                curve = self._saved_curve(folder_of(old))
                self._storage.set_trial_user_attr(old.number, "curve", _dumped(curve))
            self._emit(Warned(f"trial {old.number} was running when the search died {MAX_ATTEMPTS} times: given up"))
        else:
            reason = why
            self._storage.set_trial_user_attr(old.number, attributes.INTERRUPTED.key, True)
        self._storage.set_trial_user_attr(old.number, attributes.FAIL_REASON.key, reason)
        self.study.tell(old.number, state=TrialState.FAIL)

    def write(self, live: Live, report: RungReport, *, is_told: bool = False) -> None:
        """Keep a rung's accuracy in the study, if that is not told yet; the whole curve follows when the trial ends."""
        live.curve[report.rung] = report
        if not is_told:
            live.trial.report(report.accuracy.mean, report.rung)
        with self._storage.deferred():  # until it ends, its checkpoint keeps it
            attributes.CURVE.write(live.trial, _dumped(live.curve.values()))

    def _tell(self, live: Live, state: TrialState, *, reason: str | None = None) -> None:
        number = live.trial.number
        last = live.curve[max(live.curve)] if live.curve else None
        if reason:
            attributes.FAIL_REASON.write(live.trial, reason)
        value = last.accuracy.mean if last and state == TrialState.COMPLETE else None
        self.study.tell(number, value, state=state)
        del self._live[number]
        self._failed_in_a_row = [*self._failed_in_a_row, reason] if reason else []
        self._emit(TrialEnded(number, state.name.lower(), last.accuracy if last else None, reason))

    def _saved_curve(self, folder: str) -> list[RungReport]:
        """What the trial's checkpoint has seen: the truth of where it will go on."""
        path = self._folder / folder
        if not exists(path):
            return []
        return [RungReport.model_validate(r) for r in read_facts(path)["curve"]]


def folder_of(trial: FrozenTrial) -> str:
    """A continuation keeps that of the trial it began as."""
    by_number = f"{trial.number:05d}"
    return attributes.FOLDER.of(trial, by_number) if _was_queued(trial) else by_number


def _was_queued(trial: FrozenTrial) -> bool:
    """Whether it continues another, or somebody put it in the queue, perhaps with a seed and a folder.

    A proposal's go by its number. A driver may have died after it wrote those of the number that the trial was to have.
    """
    is_queued = _FIXED in trial.system_attrs and attributes.TOGETHER_WITH.of(trial) is None
    return is_queued or attributes.CONTINUES.of(trial) is not None


def _dumped(curve: Iterable[RungReport]) -> list[dict[str, Any]]:
    return [report.model_dump() for report in curve]


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Trials in these states (all, without any), not copied."""
    return study.get_trials(deepcopy=False, states=states or None)


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that are over: COMPLETE, PRUNED, or FAIL for a reason of their own. Later trials continue the others."""
    continued = {attributes.CONTINUES.of(trial) for trial in trials_of(study)}
    return [t for t in trials_of(study, *_ENDED) if not attributes.INTERRUPTED.of(t) and t.number not in continued]


def ended_records(study: optuna.Study) -> list[TrialRecord]:
    """The same as plain data; raises `StudyError` where somebody changed what autometa wrote."""
    records = []
    for trial in ended(study):
        try:
            records.append(record_of(trial))
        except ValidationError as error:
            where = f"study {study.study_name!r}: trial {trial.number}"
            raise StudyError(f"{where} is not as autometa wrote it: {explain(error)}") from None
    return records


def record_of(trial: FrozenTrial) -> TrialRecord:
    """An ended Optuna trial as plain data."""
    return TrialRecord(
        number=trial.number,
        state=trial.state.name.lower(),
        config=TrialConfig(values=trial.params),
        curve=[RungReport.model_validate(r) for r in attributes.CURVE.of(trial, [])],
        reason=attributes.FAIL_REASON.of(trial),
        facts=attributes.FACTS.of(trial, {}),
    )
