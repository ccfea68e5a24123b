"""The main job: search a data set for its best few-shot learner, and confirm the winner.

Reads top to bottom as it happens: check everything, start Ray, recover what a dead search left, run
trials, confirm the best on fresh episodes, measure meta-test once, archive.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import optuna

from autometa.errors import ConfigError, StopSearchError, StudyError
from autometa.priors import archive
from autometa.records import (
    Budget,
    Comparison,
    Confirmation,
    StudyRecord,
    TrialRecord,
)
from autometa.space.files import load_space, shipped_spaces
from autometa.space.space import SearchSpace
from autometa.study import confirm, finals, settings, warm
from autometa.study.capped_history import CappedHistory
from autometa.study.cluster import Cluster, Share
from autometa.study.events import ClusterJoined, OnEvent, SearchStarted, Warned, ignore
from autometa.study.ledger import Asked, Ledger, ended, record_of
from autometa.study.never_twice import NeverTwice
from autometa.study.plan import (
    PART_FOR_TRIALS,
    Plan,
    at_its_place,
    existing_record,
    make_plan,
    study_record,
    trial_budget,
    with_features,
)
from autometa.study.pruning import make_pruner
from autometa.study.single_writer import SingleWriter
from autometa.study.storage import RUNS, default_url, masked, storage_failures
from autometa.study.tried import Tried
from autometa.trial.job import Job

DEFAULT_TRIALS = 16
VALIDATION_EPISODES = 100


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    `winner` is None when no trial has an accuracy yet; `interrupted` says that Ctrl-C ended it early;
    `missing` trials have not ended, because the time budget did; none is missing where the space has no more
    configurations. `origins` is what each source of
    configurations was worth, if a prior was asked: how many trials, and the best accuracy of one in full.
    `comparisons` are of the winner with each other confirmed trial, on common episodes.
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

    @property
    def winning_trial(self) -> TrialRecord | None:
        """The winner's own record."""
        return next((t for t in self.trials if self.winner and t.number == self.winner.trial), None)


def search(
    dataset: str = "digits",
    *,
    space: str | Path | SearchSpace = "few_shot",
    study: str | None = None,
    way: int | None = None,
    shot: int | None = None,
    query: int | None = None,
    trials: int = DEFAULT_TRIALS,
    budget: Budget | None = None,
    time_budget: float | None = None,
    workers: int | None = None,
    gpus_per_trial: float | None = None,
    address: str | None = None,
    cluster: Cluster | None = None,
    storage: str | None = None,
    pruner: str = "halving",
    vectorise: int = 1,
    seed: int = 0,
    data_root: str | Path | None = None,
    image_size: int | None = None,
    skip_unreadable: bool = False,
    pretrain_dataset: str | None = None,
    transductive: bool = False,
    external: bool = False,
    cold: bool = False,
    prior: str | Path | None = None,
    runs: str | Path = RUNS,
    archives: str | Path = archive.ARCHIVES,
    validation_episodes: int = VALIDATION_EPISODES,
    confirm_seeds: int = 0,
    on_event: OnEvent = ignore,
) -> SearchResult:
    """Search a data set for its best backbone and learner; call it again to continue an interrupted search.

    Args:
        dataset: a name from the catalog, or a folder of images.
        space: a shipped search space, a TOML file, or a `SearchSpace`.
        study: its name; by default data set and task, such as `cifar-fs-5w1s`.
        way, shot, query: the few-shot task; the data set's usual one by default.
        trials: how many trials the study shall have in the end.
        budget: meta-training a trial gets; by default the data set's, or what fits `time_budget`.
        time_budget: seconds for the whole of this call.
        workers: trials at once; by default one a core, or one a GPU.
        gpus_per_trial: GPUs, or a fraction of one, for each trial.
        address: an existing Ray cluster; a private one on this machine by default.
        cluster: one that is starting already, in place of `address`; it outlives the search.
        storage: an Optuna storage URL; that of AUTOMETA_STORAGE by default, else `runs/autometa.db`.
        vectorise: how many trials of one architecture a worker trains as one batched model, each still a trial of
            its own; for small networks on a GPU.
        seed: trial n trains with seed + n, and all trials see the same validation episodes.
        skip_unreadable: leave out files of a folder that are no images; the study remembers how many.
        pretrain_dataset: train on the train classes of this data set in place of `dataset`'s own.
        transductive: let the space hold transductive candidates, ranked among the inductive ones.
        external: let it hold candidates with weights trained elsewhere, ranked among the others.
        cold: learn nothing from past studies.
        prior: an archived study, or a folder of them, to learn from in place of all archives of other data sets.
        confirm_seeds: train each of the best again with this many other seeds, 2 or more, after `time_budget`; the
            winner is then the best configuration by these, and its intervals are over seeds as well.

    Raises:
        AutometaError: anything that is wrong with the arguments, the data, the storage or the study;
            nothing has been written then.
    """
    if vectorise < 1:
        raise ConfigError(f"--vectorise {vectorise}: at least one trial is needed")
    if confirm_seeds < 0 or confirm_seeds == 1:
        raise ConfigError(f"--confirm-seeds {confirm_seeds}: one seed has no spread; give 2 or more, or 0 for none")
    started = time.monotonic()

    def warn(reason: str) -> None:
        on_event(Warned(reason))

    with nullcontext(cluster) if cluster else Cluster(address, workers=workers) as ray_cluster:
        plan = make_plan(
            dataset,
            space=space if isinstance(space, SearchSpace) else load_space(space),
            is_shipped=isinstance(space, str) and space in {path.stem for path in shipped_spaces()},
            study=study,
            episodes=(way, shot, query),
            trials=trials,
            budget=budget,
            deadline=started + time_budget if time_budget else None,
            storage=storage or default_url(Path(runs)),
            pruner=pruner,
            gpus=None if address else gpus_per_trial,
            seed=seed,
            data_root=data_root,
            image_size=image_size,
            skip_unreadable=skip_unreadable,
            pretrain_dataset=pretrain_dataset,
            transductive=transductive,
            external=external,
            runs=Path(runs),
            validation_episodes=validation_episodes,
        )
        for note in plan.notes:
            warn(note)
        past = warm.Past() if cold else warm.comparable(plan.name, plan.dataset.fingerprint, prior, warn)
        past = warm.permitted(past, transductive=transductive, external=external)
        ray_cluster.wait()
        if ray_cluster.joined:
            on_event(ClusterJoined(ray_cluster.joined))
        fitting = functools.partial(_trials_at_once, plan)
        share = ray_cluster.share_out(gpus_per_trial, fitting, together=vectorise)
        with _locked(plan), storage_failures(plan.url):
            writer = SingleWriter(plan.storage)
            opened, line = _open_study(plan, writer, share, time_budget, past, warn)
            result = _run(plan, opened, writer, share, Path(archives), line, confirm_seeds, on_event)
            if ray_cluster.lost:
                raise StudyError(ray_cluster.lost)
            return result


def _trials_at_once(plan: Plan) -> int:
    """How many of the plan's trials share one GPU."""
    from autometa.study import bridge

    return bridge.ask_trials_at_once(
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
    plan: Plan,
    storage: SingleWriter,
    share: Share,
    time_budget: float | None,
    past: warm.Past,
    warn: Callable[[str], None],
) -> tuple[optuna.Study, str]:
    """The study, made with its settings and first proposals in the queue if it is new; and what the prior did."""
    existing = existing_record(plan)
    record = existing or study_record(plan, plan.budget or trial_budget(plan, share, time_budget), share)
    record = with_features(plan, at_its_place(plan, record))
    record = warm.noted(record, past, is_new=existing is None, warn=warn)
    study = optuna.create_study(
        study_name=plan.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        pruner=make_pruner(plan.pruner, record.budget.rungs, past.studies),
    )
    so_far = len(study.get_trials(deepcopy=False))
    start = warm.start(record, plan.space, past, trials=plan.trials, trials_so_far=so_far)
    study.sampler = NeverTwice(CappedHistory(start.sampler, storage), Tried(study, plan.space), seed=plan.seed)
    if record != existing:
        settings.write(study, record)  # before any trial: a study without settings is nobody's to continue
    if not so_far:
        for values, why in start.first(plan.space):
            study.enqueue_trial(dict(values), user_attrs={"origin": why})
    return study, start.line


def _run(
    plan: Plan,
    study: optuna.Study,
    storage: SingleWriter,
    share: Share,
    archives: Path,
    prior: str,
    confirm_seeds: int,
    on_event: OnEvent,
) -> SearchResult:
    record = settings.read(study)
    ledger = Ledger(
        study,
        plan.space,
        storage=storage,
        rungs=record.budget.rungs,
        seed=plan.seed,
        folder=plan.trials_folder,
        on_event=on_event,
    )
    ledger.recover(died=True)
    on_event(_started(plan, study, share, record, prior))
    interrupted = _run_trials(plan, ledger, record, share)
    if ledger.is_exhausted and len(ended(study)) < plan.trials:
        on_event(Warned(_all_tried(plan, len(ended(study)))))
    if ledger.hopeless_reason:
        raise StudyError(f"study {plan.name!r}: every trial so far failed, the last one: {ledger.hopeless_reason}")
    trials = tuple(record_of(t) for t in ended(study))
    won = None if interrupted else finals.run(plan, study, trials, share, seeds=confirm_seeds, on_event=on_event)
    where = archive.write(archives, settings.read(study), trials) if won else None
    return SearchResult(
        settings.read(study),
        trials,
        won,
        interrupted,
        0 if ledger.is_exhausted else max(0, plan.trials - len(trials)),
        where,
        plan.url,
        warm.worth(study) if prior else {},
        tuple(confirm.compared(won.trial, finals.kept_scores(plan, settings.read(study)))) if won else (),
    )


def _all_tried(plan: Plan, over: int) -> str:
    return f"the space {plan.space.name} has no configuration that was not tried: the search ends with {over} trials"


def _started(plan: Plan, study: optuna.Study, share: Share, record: StudyRecord, prior: str) -> SearchStarted:
    return SearchStarted(
        study=plan.name,
        dataset=plan.dataset.name,
        episodes=str(plan.episodes),
        budget=str(record.budget),
        trials=plan.trials,
        ended=len(ended(study)),
        workers=share.trials,
        gpus_per_trial=share.gpus,
        deadline_seconds=plan.deadline - time.monotonic() if plan.deadline else None,
        storage=masked(plan.url),
        prior=prior,
    )


def _run_trials(plan: Plan, ledger: Ledger, record: StudyRecord, share: Share) -> bool:
    """Run what is missing; returns whether it was interrupted."""
    missing = plan.trials - len(ended(ledger.study))
    if missing <= 0 or ledger.is_exhausted:
        return False

    def make_job(asked: Asked) -> Job:
        folder = plan.trials_folder / asked.folder
        return plan.job(asked.values, asked.seed, folder, budget=record.budget, use_gpu=share.gpus > 0)

    from autometa.study import bridge  # Ray Tune takes a second to import, and must not while Ray starts in its thread

    deadline = plan.deadline
    if deadline:
        deadline -= (1 - PART_FOR_TRIALS) * (deadline - time.monotonic())
    try:
        bridge.run_trials(
            ledger, make_job, trials=missing, share=share, scratch=plan.folder / "tune", deadline=deadline
        )
        interrupted = bool(ledger.running) and not (deadline and time.monotonic() >= deadline - 1)
    except KeyboardInterrupt:
        interrupted = True
    except StopSearchError as error:
        ledger.recover(died=False)
        raise StopSearchError(
            f"study {plan.name!r} stopped: {error}; nothing is lost: when that is put right, the same command continues"
        ) from None
    ledger.recover(died=False)
    return interrupted
