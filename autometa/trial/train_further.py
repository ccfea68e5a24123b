"""Train a model further, single or ensemble, into a model's folder: the Python side of `autometa train MODEL`.

While it lasts, everything is in the folder `training` inside the result's, from which the same call goes on.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autometa.errors import CheckpointError, ConfigError
from autometa.learning.checkpoint_facts import FINAL, exists, is_ensemble, read_facts
from autometa.records import Accuracy, Budget, RungReport, TrialRecord
from autometa.trial.evaluate import measure_checkpoint
from autometa.trial.further import further_job, run_further
from autometa.trial.job import Job
from autometa.trial.measured import models_in, together
from autometa.trial.model import fit_ensemble, said_in_views
from autometa.trial.model_files import RECIPE, copy_model, is_model, job_of, members_of
from autometa.trial.model_recipes import recipes_of_further
from autometa.trial.opened import placed
from autometa.trial.recipe import write_recipes
from autometa.trial.run import OnRung, OnStep
from autometa.trial.train import tell_notes

# In the result's folder, while it is trained: a folder for each member by its number, and then the whole model.
_TRAINING, _RESULT = "training", "result"


@dataclass(frozen=True)
class TrainedFurther:
    """What came of it: a record of each member, or of a single model, with its curve.

    `validation` is what the model shows, and `before` what the one did that it went on from, both on the episodes that
    its members were validated on. There is no `before` of a model that was written over.
    """

    records: tuple[TrialRecord, ...]
    validation: Accuracy
    before: Accuracy | None


def train_further(
    model: str | Path,
    folder: str | Path,
    *,
    budget: Budget,
    data_root: str | Path | None = None,
    dataset: str | Path | None = None,
    pretrain_dataset: str | Path | None = None,
    use_gpu: bool | None = None,
    on_member: Callable[[int, int], None] = lambda number, count: None,
    on_rung: OnRung | None = None,
    on_step: OnStep | None = None,
) -> TrainedFurther:
    """Train a model further, and write the one that comes of it into `folder`; `model` itself stays as it is.

    It goes on from the state before its cool-down, at a constant learning rate, and is cooled down at the end. An
    ensemble's members go on in turn and share the budget; temperatures and weights are fitted again. Called again, it
    goes on where it stopped, and does nothing where it is done.

    Args:
        model: a folder that a search or `train` has made.
        folder: that of the model itself writes over it.
        budget: steps or seconds, beside those that the model had.
        on_member: told the number of each member, from 1, and how many there are.
        on_step: gets the part of this budget that is spent. Other arguments are as of `train`.

    Raises:
        ConfigError: it cannot be trained, or training failed.
        CheckpointError: `model` is none, or `folder` holds another one.
        DataError: the data set is missing, or not the model's own.
    """

    def at_its_place(job: Job) -> Job:
        job = placed(job, data_root=data_root, dataset=dataset, pretrain_dataset=pretrain_dataset)
        return job.model_copy(update={"use_gpu": use_gpu})

    source, out = Path(model), Path(folder)
    if is_model(out / _TRAINING / _RESULT):  # it died just before it could hand over
        _hand_over(out)
        return _trained(out, at_its_place(job_of(out)), None)
    jobs = [at_its_place(job) for job in _jobs(source, out, budget)]
    _check_free(out, jobs, writes_over=source.resolve() == out.resolve())
    before = _validated(source, jobs[0])
    if not _is_done(out, jobs):
        tell_notes(jobs[0])
        for number, (member, job) in enumerate(zip(members_of(source), jobs, strict=True), 1):
            on_member(number, len(jobs))
            record = run_further(member, job, on_rung=on_rung, on_step=on_step)
            if record.reason:
                raise ConfigError(f"training failed: {record.reason}")
        _put_together(source, out, jobs)
        _hand_over(out)
    return _trained(out, jobs[0], before)


def _jobs(source: Path, out: Path, budget: Budget) -> list[Job]:
    """The job of training each member further."""
    if models_in(source) != [source]:
        raise CheckpointError(f"{source}: holds one model a seed (--seeds); name the folder of one of them")
    members = members_of(source)
    share = _share(budget, len(members))
    return [further_job(member, out / _TRAINING / str(number), share) for number, member in enumerate(members)]


def _share(budget: Budget, members: int) -> Budget:
    """What each member gets."""
    if bool(budget.steps) == bool(budget.seconds) or budget.teraflops or budget.open:
        raise ConfigError(f"budget {budget}: a model goes on for some steps, or for some seconds")
    if budget.seconds:
        return Budget(seconds=budget.seconds / members)
    return Budget(steps=max(1, (budget.steps or 0) // members))


def _check_free(out: Path, jobs: Sequence[Job], *, writes_over: bool) -> None:
    """Refuse a folder that holds another model, or another training."""
    if models_in(out) != [out] or (is_model(out) and not writes_over and not _is_done(out, jobs)):
        raise CheckpointError(f"{out}: holds another model; choose another folder (--output)")
    for folder, job in ((Path(job.folder), job) for job in jobs):
        if exists(folder) and job_of(folder).further != job.further:
            raise CheckpointError(
                f"{folder.parent}: holds the training of another model or budget; remove it, or choose another --output"
            )


def _is_done(out: Path, jobs: Sequence[Job]) -> bool:
    """Whether the folder holds what comes of these jobs, or of those that are better together."""
    found = [job_of(member).further for member in members_of(out)] if is_model(out) else []
    return bool(found) and all(further in [job.further for job in jobs] for further in found)


def _put_together(source: Path, out: Path, jobs: Sequence[Job]) -> None:
    """Write the model of all members, or of the best where they are not better together."""
    result, draft = (out / _TRAINING / name for name in (_RESULT, f".{_RESULT}"))
    shutil.rmtree(draft, ignore_errors=True)
    finals = [Path(job.folder) / FINAL for job in jobs]
    if not is_ensemble(source) or not _fitted(finals, draft, jobs[0]):
        copy_model(max(finals, key=lambda final: _curve(final)[-1].accuracy.mean), draft)
    write_recipes(draft / RECIPE, recipes_of_further(draft, source), "toml")
    os.replace(draft, result)


def _fitted(models: Sequence[Path], to: Path, job: Job) -> bool:
    """Write the ensemble that is best on a job's validation episodes; returns whether there is one."""
    how: dict[str, Any] = {"dataset": job.dataset, "episodes": job.validation_episodes, "seed": job.validation_seed}
    how |= {"seconds": math.inf, "use_gpu": job.use_gpu}
    chosen = fit_ensemble(models, [said_in_views(model, **how) for model in models], to)
    return bool(chosen)


def _hand_over(out: Path) -> None:
    """Put the model where it is wanted, and remove what it was made of."""
    work, done = out / _TRAINING, out / f".{_TRAINING}"
    copy_model(work / _RESULT, out)
    shutil.copyfile(work / _RESULT / RECIPE, out / RECIPE)
    shutil.rmtree(done, ignore_errors=True)
    os.replace(work, done)  # at once: a part of it would be taken for a training
    shutil.rmtree(done, ignore_errors=True)


def _trained(out: Path, job: Job, before: Accuracy | None) -> TrainedFurther:
    records = tuple(
        TrialRecord(number=number, state="complete", config=job_of(member).config, curve=_curve(member))
        for number, member in enumerate(members_of(out))
    )
    return TrainedFurther(records, _validated(out, job), before)


def _validated(model: Path, job: Job) -> Accuracy:
    """What a model shows on the validation episodes of a job."""
    found = measure_checkpoint(
        model,
        split="val",
        episodes=job.validation_episodes,
        seed=job.validation_seed,
        dataset=job.dataset,
        use_gpu=job.use_gpu,
    )
    return together([found])


def _curve(model: Path) -> list[RungReport]:
    return [RungReport.model_validate(report) for report in read_facts(model)["curve"]]
