"""The main job: search a data set for its best few-shot learner, and confirm the winner.

Reads top to bottom as it happens: check everything, start Ray, recover what a dead search left, run
trials, confirm the best on fresh episodes, measure meta-test once, archive.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import optuna

from autometa import trial_attributes as attributes
from autometa.archives import archive
from autometa.errors import StopSearchError, StudyError
from autometa.events import ClusterJoined, LearningFromPast, OnEvent, SearchStarted, Warned, ignore
from autometa.hpo import study_record
from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.earlier_names import WithNamesOfNow
from autometa.hpo.ledger import Ledger, ended, record_of
from autometa.hpo.never_twice import NeverTwice
from autometa.hpo.open_history import OpenHistory
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.pruning import make_pruner
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import RUNS, masked, storage_failures
from autometa.hpo.tried import Tried
from autometa.orchestrator.cluster import Cluster, Share
from autometa.records import (
    Comparison,
    Confirmation,
    StudyRecord,
    TrialRecord,
)
from autometa.study import confirm, finals, timed, warm
from autometa.study.baselines import StudyBaselines
from autometa.study.documented import with_fields_of
from autometa.study.measuring import WITHOUT_END
from autometa.study.outlook import Outlook, outlook
from autometa.study.plan import Plan
from autometa.study.planning import make_plan
from autometa.study.records_of_plan import (
    PART_FOR_TRIALS,
    at_its_place,
    existing_record,
    new_record,
    trial_budget,
    with_features,
)
from autometa.study.search_settings import SearchSettings

VALIDATION_EPISODES = 100


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    `winner` is None when no trial has an accuracy yet; `interrupted` says that Ctrl-C ended it early;
    `missing` trials have not ended, because the time budget did; none is missing where the space has no more
    configurations. `origins` is what each source of
    configurations was worth, if a prior was asked: how many trials, and the best accuracy of one in full.
    `comparisons` are of the winner with each other confirmed model, on common episodes. `model` is the folder of the
    winner's model. Where the best baseline is better than all trials, it is the winner, and there is no winning trial.
    `outlook` is there where accuracy still rose when the time was over.
    """

    study: StudyRecord
    trials: tuple[TrialRecord, ...]
    winner: Confirmation | None
    interrupted: bool
    missing: int
    archive: Path | None
    storage: str = field(repr=False)  # may hold a password
    origins: Mapping[str, warm.Worth]
    comparisons: tuple[Comparison, ...] = ()
    model: Path | None = None
    outlook: Outlook | None = None

    @property
    def winning_trial(self) -> TrialRecord | None:
        """The winner's own record; None where it is a baseline."""
        return next((t for t in self.trials if self.winner and t.number == self.winner.trial), None)


@dataclass(frozen=True, kw_only=True)
class Search(SearchSettings):
    """A search as Python asks for one: its settings, and what the command line has no option for."""

    cluster: Cluster | None = None
    runs: str | Path = RUNS
    archives: str | Path = archive.ARCHIVES
    validation_episodes: int = VALIDATION_EPISODES
    on_event: OnEvent = ignore
    started: float | None = None


@with_fields_of(Search)
def search(asked: Search) -> SearchResult:
    """Search a data set for its best backbone and learner; call it again to continue an interrupted search.

    The arguments are the settings in `SearchSettings`, and these:

    Args:
        cluster: one that is starting already, in place of one at `address`; it outlives the search.
        runs: folder of the studies' checkpoints and, without another `storage`, of their database.
        archives: folder that the ended study is written to.
        validation_episodes: how many episodes every trial is validated on.
        on_event: called with each `Event`, as it happens.
        started: `time.monotonic()` from which `time_budget` counts; by default that of the call.

    Raises:
        AutometaError: anything that is wrong with the arguments, the data, the storage or the study;
            nothing has been written then.
    """

    def warn(reason: str) -> None:
        asked.on_event(Warned(reason))

    with nullcontext(asked.cluster) if asked.cluster else Cluster(asked.address, workers=asked.workers) as cluster:
        plan = make_plan(
            asked,
            runs=Path(asked.runs),
            validation_episodes=asked.validation_episodes,
            started=asked.started,
        )
        for note in plan.notes:
            warn(note)
        past = warm.Past() if asked.cold else _comparable(plan, asked.prior, warn)
        past = warm.permitted(past, transductive=asked.transductive, external=bool(plan.settings.external))
        cluster.wait()
        if cluster.joined:
            asked.on_event(ClusterJoined(cluster.joined))
        fitting = functools.partial(_trials_at_once, plan)
        share = cluster.share_out(asked.gpus_per_trial, fitting, together=asked.vectorise)
        share = timed.for_last_trainings(plan, share)
        with _locked(plan), storage_failures(plan.url):
            writer = SingleWriter(WithNamesOfNow(plan.storage))
            if past.studies:
                asked.on_event(LearningFromPast(len(past.studies), sum(len(one.trials) for one in past.studies)))
            opened, line = _open_study(plan, writer, share, past, warn)
            result = _run(asked, plan, opened, writer, share, line)
            if cluster.lost:
                raise StudyError(cluster.lost)
            return result


def _comparable(plan: Plan, folder: str | Path | None, warn: Callable[[str], None]) -> warm.Past:
    held_out = {plan.dataset.class_names[c] for split in ("val", "test") for c in plan.dataset.splits[split]}
    return warm.comparable(plan.name, plan.fingerprint, folder, warn, dataset=plan.ref.name, held_out=held_out)


def _trials_at_once(plan: Plan) -> int:
    """How many of the plan's trials share one GPU."""
    from autometa.orchestrator import everywhere

    return everywhere.ask_trials_at_once(
        plan.space,
        spec=plan.episodes,
        image_shape=plan.dataset.image_shape,
        train_classes=len(plan.dataset.splits["train"]) or plan.episodes.way,
        resident=plan.dataset.images.nbytes,
    )


@contextmanager
def _locked(plan: Plan) -> Iterator[None]:
    """One driver a study: two would both think the other's trials were left by a dead search."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(plan.folder / "lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except filelock.Timeout:
        raise StudyError(f"study {plan.name!r} is being searched by another process; wait for it or stop it") from None


def _open_study(
    plan: Plan, storage: SingleWriter, share: Share, past: warm.Past, warn: Callable[[str], None]
) -> tuple[optuna.Study, str]:
    """The study, made with its settings and first proposals in the queue if it is new; and what the prior did."""
    existing = existing_record(plan)
    record = existing or new_record(plan, plan.settings.budget or trial_budget(plan, share), share)
    record = with_features(plan, at_its_place(plan, record))
    record = warm.noted(record, past, is_new=existing is None, warn=warn)
    study = optuna.create_study(
        study_name=plan.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=make_pruner(plan.settings.pruner, record.budget.rungs, past.studies),
    )
    so_far = len(study.get_trials(deepcopy=False))
    start = warm.start(record, plan.space, past, trials=plan.settings.most_trials, trials_so_far=so_far)
    history = OpenHistory if record.budget.open else CappedHistory
    study.sampler = NeverTwice(history(start.sampler, storage), Tried(study, plan.space), seed=plan.settings.seed)
    if record != existing:
        study_record.write(study, record)  # before any trial: a study without settings is nobody's to continue
    if not so_far:
        seconds = timed.seconds_of_last_training(plan, record.budget, share)
        for values, why in start.first(plan.space.for_training(seconds), timed.believed(share)):
            study.enqueue_trial(dict(values), user_attrs=attributes.ORIGIN.entry(why))
    return study, start.line


def _run(
    asked: Search, plan: Plan, study: optuna.Study, storage: SingleWriter, share: Share, prior: str
) -> SearchResult:
    record, on_event = study_record.read(study), asked.on_event
    kind = OpenLedger if record.budget.open else Ledger
    ledger = kind(
        study,
        plan.space,
        storage=storage,
        rungs=None if record.budget.open else record.budget.rungs,
        seed=plan.settings.seed,
        folder=plan.trials_folder,
        on_event=on_event,
    )
    if isinstance(ledger, OpenLedger):
        ledger.adopt()
    else:
        ledger.recover(died=True)
    on_event(_started(plan, study, share, record, prior))
    baselines = StudyBaselines(plan, study, share, on_event)
    before = {trial.number for trial in ended(study)}
    if isinstance(ledger, OpenLedger):
        interrupted, missing = timed.run_candidates(plan, ledger, record, share, baselines), 0
    else:
        interrupted = _run_trials(plan, ledger, record, share, baselines)
        missing = _missing(plan, ledger)
    if ledger.hopeless_reason:
        raise StudyError(f"study {plan.name!r}: every trial so far failed, the last one: {ledger.hopeless_reason}")
    trials = tuple(record_of(t) for t in ended(study))
    is_new = {trial.number for trial in trials} != before
    won = None if interrupted else _won(plan, study, trials, share, on_event, is_new=is_new)
    if won:
        finals.deployed_task(plan, study, share, on_event)
    where = archive.write(Path(asked.archives), study_record.read(study), trials) if won else None
    return SearchResult(
        study_record.read(study),
        trials,
        won,
        interrupted,
        missing,
        where,
        plan.url,
        warm.worth(study) if prior else {},
        tuple(confirm.compared(won.source, finals.kept_scores(plan, study_record.read(study)))) if won else (),
        plan.model_folder if won else None,
        _outlook(plan, trials, won) if won and record.budget.open else None,
    )


def _outlook(plan: Plan, trials: Sequence[TrialRecord], won: Confirmation) -> Outlook | None:
    """What more time would give."""
    assert plan.settings.time_budget is not None
    won_by = set(won.ensemble or ()) | {won.trial}
    return outlook([t for t in trials if t.number in won_by], won.validation.mean, plan.settings.time_budget)


def _won(
    plan: Plan, study: optuna.Study, trials: Sequence[TrialRecord], share: Share, on_event: OnEvent, *, is_new: bool
) -> Confirmation | None:
    """The winner, confirmed and tested; of an open search in the time that is left.

    Args:
        is_new: whether a trial ended in this run.
    """
    if not study_record.read(study).budget.open:
        ends = timed.ends(plan, confirm.best(trials), share) if plan.deadline else WITHOUT_END
        return finals.run(plan, study, trials, share, on_event, ends=ends)
    rivals = confirm.rivals(trials)
    to_combine = [] if plan.settings.hands_over_one else confirm.to_combine(trials)
    may_win = [*rivals, *to_combine]
    seconds = timed.PART_FOR_ENSEMBLE * timed.seconds_to_measure(plan, may_win, share)
    ensemble = finals.combine(plan, study, to_combine, share, seconds=seconds, is_new=is_new) if to_combine else None
    ends = timed.ends(plan, may_win, share, passes=ensemble.passes if ensemble else 1.0)
    return finals.run(plan, study, rivals, share, on_event, ends=ends, ensemble=ensemble)


def _missing(plan: Plan, ledger: Ledger) -> int:
    """How many trials have not ended, of a search with a number of them."""
    over = len(ended(ledger.study))
    if ledger.is_exhausted and over < plan.settings.most_trials:
        ledger.warn(_all_tried(plan, over))
    return 0 if ledger.is_exhausted else max(0, plan.settings.most_trials - over)


def _all_tried(plan: Plan, over: int) -> str:
    return f"the space {plan.space.name} has no configuration that was not tried: the search ends with {over} trials"


def _started(plan: Plan, study: optuna.Study, share: Share, record: StudyRecord, prior: str) -> SearchStarted:
    return SearchStarted(
        study=plan.name,
        dataset=plan.dataset.name,
        episodes=plan.task,
        budget=str(record.budget),
        trials=None if record.budget.open else plan.settings.most_trials,
        ended=len(ended(study)),
        workers=share.trials,
        gpus_per_trial=share.gpus,
        deadline_seconds=plan.deadline - time.monotonic() if plan.deadline else None,
        storage=masked(plan.url),
        prior=prior,
    )


def _run_trials(plan: Plan, ledger: Ledger, record: StudyRecord, share: Share, baselines: StudyBaselines) -> bool:
    """Run what is missing; returns whether it was interrupted."""
    missing = plan.settings.most_trials - len(ended(ledger.study))
    if missing <= 0 or ledger.is_exhausted:
        return False

    # Ray Tune takes a second to import, and must not while Ray starts in its thread.
    from autometa.orchestrator.trials import run_trials

    deadline = plan.deadline
    if deadline:
        deadline -= (1 - PART_FOR_TRIALS) * (deadline - time.monotonic())
    try:
        run_trials(
            ledger,
            functools.partial(plan.job_of, budget=record.budget, use_gpu=share.gpus > 0),
            trials=missing,
            share=share,
            scratch=plan.folder / "tune",
            deadline=deadline,
            baselines=baselines,
        )
        interrupted = bool(ledger.running) and not (deadline and time.monotonic() >= deadline - 1)
    except KeyboardInterrupt:
        interrupted = True
    except StopSearchError as error:
        ledger.recover(died=False)
        raise plan.stopped(error) from None
    ledger.recover(died=False)
    return interrupted
