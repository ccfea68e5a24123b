"""Run one trial: configuration and seed in, `TrialRecord` out, a checkpoint at every rung.

The same code serves a search, `autometa train` and the Python API; it does not know which, nor that
Ray or Optuna exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from autometa.data.all_classes import labelled_alone
from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.data.rotation import TURNS
from autometa.errors import CheckpointError, ConfigError, DivergedError
from autometa.learning import checkpoints
from autometa.learning.attacks import PixelRange
from autometa.learning.augment import make_augment
from autometa.learning.checkpoint_facts import exists, read_facts
from autometa.learning.device import give_back_memory, is_out_of_memory, pick_device, seed_everything
from autometa.learning.features import pool_for
from autometa.learning.objective import Objective, ObjectiveOptions
from autometa.learning.training import Training
from autometa.records import EpisodeSpec, RungReport, TrialRecord
from autometa.trial import build
from autometa.trial.facts import facts_of
from autometa.trial.job import Job
from autometa.trial.model_files import ModelInput, job_of
from autometa.trial.opened import change_between, noted, open_both
from autometa.trial.validation import Validation

# Labelled images of a class in a training episode of all classes; forty classes by twenty are too many for a step.
_MOST_TRAIN_SHOTS = 5

R = TypeVar("R")
OnRung = Callable[[RungReport], None]
OnStep = Callable[[int, float, dict[str, torch.Tensor]], None]


def run(job: Job, *, on_rung: OnRung | None = None, on_step: OnStep | None = None, number: int = 0) -> TrialRecord:
    """Meta-train one candidate, from its checkpoint in `job.folder` where there is one.

    `on_rung` gets every `RungReport` after its checkpoint is safe on disk; on a resume it first gets the
    last rung again, in case the report was lost. A candidate that diverges or does not fit the memory ends as a
    record of state "fail" with its reason, the latter with the fact `out_of_memory`.

    Raises:
        ConfigError, DataError: the job cannot be carried out at all.
        CheckpointError: `job.folder` holds a checkpoint that is damaged or of another job.
    """
    return within_memory(job, number, lambda: _run(job, on_rung, on_step, number))


def within_memory(job: Job, number: int, work: Callable[[], R]) -> R | TrialRecord:
    """What `work` on a job returns; where it does not fit the memory, the record that says so."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        record = _without_memory(job, number, error)
    give_back_memory()  # out of the handler, whose traceback holds tensors
    return record


def _run(job: Job, on_rung: OnRung | None, on_step: OnStep | None, number: int) -> TrialRecord:
    training = begin(job)
    if training.curve and on_rung:
        on_rung(training.curve[-1])
    reason = None
    try:
        for report in training.rungs(on_step):
            keep(training, job)
            if on_rung:
                on_rung(report)
    except DivergedError as error:
        reason = diverged(error)
    return ended(training, job, number=number, reason=reason)


def begin(job: Job) -> Training:
    """A job's training, from its checkpoint in `job.folder` where there is one; raises as `run` does."""
    folder = Path(job.folder)
    training = prepare(job)
    if exists(folder):
        _check_same(_as_trained(job, training), folder)
        checkpoints.load(folder, training)
    return training


def keep(training: Training, job: Job) -> None:
    """Write the job's checkpoint."""
    assert isinstance(training.validate, Validation)
    extra = {
        "job": _as_trained(job, training).model_dump(mode="json"),
        "train_classes": training.learner.setting.train_classes,
        "input": ModelInput.of(training.validate.dataset).model_dump(mode="json"),
    }
    checkpoints.save(Path(job.folder), training, extra=extra)


def _as_trained(job: Job, training: Training) -> Job:
    """The job with the identity of the data that it really trains on, whatever lies in the same place by now."""
    assert isinstance(training.validate, Validation)
    assert isinstance(training.source, EpisodeSampler)
    return noted(job, training.validate.dataset, training.source.dataset)


def ended(training: Training, job: Job, *, number: int, reason: str | None) -> TrialRecord:
    """What came of a job: complete, or fail for a reason."""
    return TrialRecord(
        number=number,
        state="fail" if reason else "complete",
        config=job.config,
        curve=training.curve,
        reason=reason,
        facts=facts_of(training),
    )


def _without_memory(job: Job, number: int, error: Exception) -> TrialRecord:
    """The record of a candidate that does not fit, with the curve of its checkpoint."""
    folder = Path(job.folder)
    curve = read_facts(folder)["curve"] if exists(folder) else []
    where = "GPU memory" if "CU" in str(error) or isinstance(error, torch.OutOfMemoryError) else "memory"
    said = (str(error).splitlines() or ["nothing more is known"])[0]
    return TrialRecord(
        number=number,
        state="fail",
        config=job.config,
        curve=[RungReport.model_validate(report) for report in curve],
        reason=f"out of {where}: {said}",
        facts={"out_of_memory": True},
    )


def prepare(job: Job) -> Training:
    """Data, learner and optimiser of a job, not yet trained; the same seed gives the same weights."""
    device = pick_device(job.use_gpu)
    seed_everything(job.seed)
    dataset, train_on = open_both(job)
    candidate = build.candidate(job.config, budget=job.budget)
    generator = torch.Generator(device).manual_seed(job.seed)
    turns = TURNS if candidate.sampling.rotations else 1
    learner = candidate.build(
        image_shape=dataset.image_shape,
        way=job.episodes.way,
        train_classes=len(train_on.splits["train"]) * turns,
    )
    learner.backbone.normalised_by(dataset.mean, dataset.std)
    if learner.backbone.external:  # it takes back what one data set was normalised by
        train_on = replace(train_on, mean=dataset.mean, std=dataset.std)
    if train_on.labelled and not learner.is_trained:
        train_on = labelled_alone(train_on)
    pool = pool_for(learner, train_on, "train", device, most=candidate.sampling.train_images)
    source = _training_source(candidate.sampling, job.episodes, pool, generator)
    # The same images for all candidates of a study: each would have a frozen network describe others.
    of_study = torch.Generator(device).manual_seed(job.validation_seed)
    first_sight = _training_source(build.Sampling(episodes_per_step=1), job.episodes, pool, of_study)
    validate = Validation(pool_for(learner, dataset, "val", device), job)
    return Training(
        learner.to(device),
        source,
        options=candidate.training,
        budget=job.budget,
        validate=validate,
        generator=generator,
        first_sight=first_sight,
        objective=_objective(candidate.objective, train_on, device, generator),
        uncounted=lambda: source.feature_seconds + validate.feature_seconds(),
    )


def diverged(error: DivergedError) -> str:
    """The reason in a record."""
    return f"diverged: {error}"


def _training_source(
    how: build.Sampling,
    evaluated: EpisodeSpec,
    pool: ImagePool,
    generator: torch.Generator,
) -> EpisodeSampler:
    dataset = pool.dataset
    if how.rotations:
        dataset.require_unrotated()
    spec = how.episodes(evaluated, len(dataset.splits["train"]))
    if dataset.labelled:
        spec = _within(spec, dataset)
    elif how.train_shot:
        dataset.require_train_shot(how.train_shot, spec.query)
    if 0 < how.train_images < spec.shot + spec.query:
        episode = f"{spec.shot} + {spec.query} images of a class"
        raise ConfigError(f"train_images = {how.train_images}: a training episode has {episode}")
    return EpisodeSampler(
        pool,
        spec,
        batch=how.episodes_per_step,
        generator=generator,
        augment=make_augment(how.augment),
        rotations=how.rotations,
    )


def _within(spec: EpisodeSpec, dataset: FewShotDataset) -> EpisodeSpec:
    """Training episodes for a task of many labelled images, within what each class has and a step can take."""
    fewest = int(dataset.class_counts[dataset.splits["train"]].min())
    query = min(spec.query, max(1, fewest // 2))
    return spec.model_copy(update={"shot": min(spec.shot, _MOST_TRAIN_SHOTS, fewest - query), "query": query})


def _objective(
    options: ObjectiveOptions, dataset: FewShotDataset, device: torch.device, generator: torch.Generator
) -> Objective | None:
    if options == ObjectiveOptions():
        return None
    return Objective(options, PixelRange.of(dataset.mean, dataset.std, device), generator)


def _check_same(job: Job, folder: Path) -> None:
    """A checkpoint may be continued only by the job it belongs to, wherever its folder and its data were moved."""
    before = job_of(folder)
    places = {"folder", "use_gpu", "dataset", "pretrain"}
    was, now = before.model_dump(exclude=places), job.model_dump(exclude=places)
    changed = [name for name in now if now[name] != was[name]]
    if changed:
        raise CheckpointError(
            f"{folder}: holds a model trained with another {', '.join(changed)}; choose another folder"
        )
    for old, new in ((before.dataset, job.dataset), (before.pretrain, job.pretrain)):
        change = change_between(old, new)
        if change:
            name = new.name if new else job.dataset.name
            raise CheckpointError(f"{folder}: holds a model of other data than {name}: {change}; choose another folder")
