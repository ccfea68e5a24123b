"""Run one trial: configuration and seed in, `TrialRecord` out, a checkpoint at every rung.

The same code serves a search, `autometa train` and the Python API; it does not know which, nor that
Ray or Optuna exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, EpisodeSampler, ImagePool, fixed_episodes
from autometa.data.load import load_dataset
from autometa.errors import CheckpointError, DivergedError
from autometa.learning import checkpoints
from autometa.learning.attacks import Attack, PixelRange
from autometa.learning.augment import make_augment
from autometa.learning.checkpoint_facts import exists, read_facts
from autometa.learning.device import give_back_memory, is_out_of_memory, pick_device, seed_everything
from autometa.learning.evaluation import evaluate
from autometa.learning.learner import Learner
from autometa.learning.objective import Objective, ObjectiveOptions
from autometa.learning.operations import operations_counter
from autometa.learning.training import Training
from autometa.records import Accuracy, EpisodeSpec, RungReport, TrialRecord, checked
from autometa.trial import build
from autometa.trial.job import DatasetRef, Job
from autometa.trial.validation import Validation, episodes_at_once

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
    try:
        return _run(job, on_rung, on_step, number)
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
    reason = _train(training, job, on_rung, on_step)
    return ended(training, job, number=number, reason=reason)


def begin(job: Job) -> Training:
    """A job's training, from its checkpoint in `job.folder` where there is one; raises as `run` does."""
    folder = Path(job.folder)
    training = prepare(job, _validation(job, folder))
    if exists(folder):
        _check_same(job, folder)
        checkpoints.load(folder, training)
    return training


def keep(training: Training, job: Job) -> None:
    """Write the job's checkpoint."""
    assert isinstance(training.validate, Validation)
    extra = {
        "job": job.model_dump(mode="json"),
        "train_classes": training.learner.setting.train_classes,
        "validation_counts": training.validate.counts,
    }
    checkpoints.save(Path(job.folder), training, extra=extra)


def ended(training: Training, job: Job, *, number: int, reason: str | None) -> TrialRecord:
    """What came of a job: complete, or fail for a reason."""
    return TrialRecord(
        number=number,
        state="fail" if reason else "complete",
        config=job.config,
        curve=training.curve,
        reason=reason,
        facts=_facts(training.learner, open_dataset(job.dataset).image_shape),
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


def prepare(job: Job, validation: Validation | None = None) -> Training:
    """Data, learner and optimiser of a job, not yet trained; the same seed gives the same weights."""
    device = pick_device(job.use_gpu)
    seed_everything(job.seed)
    dataset = open_dataset(job.dataset)
    train_on = open_dataset(job.pretrain) if job.pretrain else dataset
    if job.pretrain:
        dataset.require_new_to(train_on)
    generator = torch.Generator(device).manual_seed(job.seed)
    source = _training_source(job, train_on, device, generator)
    learner = new_learner(job, dataset, source.classes).to(device)
    return Training(
        learner,
        source,
        options=build.training_options(job.config),
        budget=job.budget,
        validate=validation or Validation(ImagePool(dataset, "val", device), job),
        generator=generator,
        objective=_objective(job, train_on, device, generator),
    )


def open_dataset(ref: DatasetRef) -> FewShotDataset:
    """The data set a job names, from the cache where it is there."""
    return load_dataset(ref.name, data_root=ref.root, image_size=ref.image_size, seed=ref.seed)


def new_learner(job: Job, dataset: FewShotDataset, train_classes: int) -> Learner:
    """The job's learner with fresh weights."""
    setting = build.setting_of(job.config, way=job.episodes.way, train_classes=train_classes)
    return build.build_learner(job.config, image_shape=dataset.image_shape, setting=setting)


def evaluate_checkpoint(
    folder: str | Path,
    *,
    split: str = "test",
    episodes: int = 600,
    seed: int = 0,
    use_gpu: bool | None = None,
    spec: EpisodeSpec | None = None,
    dataset: DatasetRef | None = None,
    on_batch: Callable[[int], None] | None = None,
    attack: tuple[float, int] | None = None,
) -> Accuracy:
    """Accuracy of a trained checkpoint on `episodes` episodes of one split, by default of the task it was trained for.

    The same seed gives the same episodes to every model. `spec` is another way, shot or query; `dataset`
    another place to find the data. `attack` (ε as a share of the intensity range, steps; one step is FGSM, more
    are PGD) makes the query images adversarial first.

    Raises:
        CheckpointError: there is none, or it is damaged.
        DataError: the split is too small for the episodes.
    """
    folder = Path(folder)
    job = job_of(folder)
    device = pick_device(use_gpu)
    data = open_dataset(dataset or job.dataset)
    learner = new_learner(job, data, _train_classes(folder, data))
    checkpoints.load_weights(folder, learner)
    pool, spec = ImagePool(data, split, device), spec or job.episodes
    batches = fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec))
    change = _attacker(Attack(*attack), data, device, seed) if attack else None
    return evaluate(learner.to(device), batches, seed=seed, on_batch=on_batch, change=change)


def _attacker(
    attack: Attack, data: FewShotDataset, device: torch.device, seed: int
) -> Callable[[Learner, EpisodeBatch], EpisodeBatch]:
    pixels = PixelRange.of(data.mean, data.std, device)
    generator = torch.Generator(device).manual_seed(seed)
    return lambda learner, episodes: attack(learner, episodes, pixels, generator)


def job_of(folder: Path) -> Job:
    """The job that a checkpoint belongs to; raises `CheckpointError` where there is none."""
    extra = read_facts(folder).get("extra", {})
    if "job" not in extra:
        raise CheckpointError(f"{folder}: not an autometa checkpoint: it does not say how it was trained")
    return checked(Job, extra["job"], where=str(folder))


def _train_classes(folder: Path, data: FewShotDataset) -> int:
    """How many classes the model in the folder was trained on; the data of its training need not be here."""
    return int(read_facts(folder)["extra"].get("train_classes", len(data.splits["train"])))


def _validation(job: Job, folder: Path) -> Validation:
    """On as many episodes as were decided on before, if the folder has a checkpoint that says so."""
    counts = read_facts(folder).get("extra", {}).get("validation_counts") if exists(folder) else None
    return Validation(ImagePool(open_dataset(job.dataset), "val", pick_device(job.use_gpu)), job, counts)


def _train(training: Training, job: Job, on_rung: OnRung | None, on_step: OnStep | None) -> str | None:
    """Train to the end of the budget; returns why it failed, if it did."""
    try:
        for report in training.rungs(on_step):
            keep(training, job)
            if on_rung:
                on_rung(report)
    except DivergedError as error:
        return diverged(error)
    return None


def diverged(error: DivergedError) -> str:
    """The reason in a record."""
    return f"diverged: {error}"


def _training_source(
    job: Job, dataset: FewShotDataset, device: torch.device, generator: torch.Generator
) -> EpisodeSampler:
    how = build.sampling(job.config)
    spec = how.episodes(job.episodes, len(dataset.splits["train"]))
    if how.train_shot:
        dataset.require_train_shot(how.train_shot, spec.query)
    return EpisodeSampler(
        ImagePool(dataset, "train", device),
        spec,
        batch=how.episodes_per_step,
        generator=generator,
        augment=make_augment(how.augment),
        rotations=how.rotations,
    )


def _objective(job: Job, dataset: FewShotDataset, device: torch.device, generator: torch.Generator) -> Objective | None:
    options = build.objective_options(job.config)
    if options == ObjectiveOptions():
        return None
    return Objective(options, PixelRange.of(dataset.mean, dataset.std, device), generator)


def _facts(learner: Learner, image_shape: tuple[int, int, int]) -> dict[str, int | float | str | bool]:
    """Whether it is transductive, its size, and the operations of one image's way through the backbone."""
    parameters = sum(p.numel() for p in learner.parameters())
    return {
        "transductive": learner.transductive,
        "parameters": parameters,
        "flops": forward_flops(learner, image_shape),
    }


def forward_flops(learner: Learner, image_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of the backbone for one image, forward only."""
    backbone = learner.backbone
    was_training = backbone.training
    images = torch.zeros(2, *image_shape, device=next(learner.parameters()).device)  # one has no batch statistics
    with torch.no_grad(), operations_counter() as counter:
        backbone.eval()(images)
    backbone.train(was_training)
    return int(counter.get_total_flops()) // len(images)


def _check_same(job: Job, folder: Path) -> None:
    """A checkpoint may be continued only by the job it belongs to, wherever its folder was moved."""
    before = job_of(folder).model_dump(exclude={"folder", "use_gpu", "dataset", "pretrain"})
    now = job.model_dump(exclude={"folder", "use_gpu", "dataset", "pretrain"})
    changed = [name for name in now if now[name] != before[name]]
    if changed:
        raise CheckpointError(
            f"{folder}: holds a model trained with another {', '.join(changed)}; choose another folder"
        )
