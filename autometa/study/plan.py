"""What a search will do, checked from end to end before anything is started or written.

It reads arguments, data and storage; it does not run anything.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from autometa.data import catalog
from autometa.data.dataset import FewShotDataset
from autometa.data.load import load_dataset
from autometa.errors import ConfigError
from autometa.priors.features import features
from autometa.records import Budget, EpisodeSpec, StudyRecord
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.study import settings
from autometa.study.cluster import Share, require_local_gpus
from autometa.study.pruning import make_pruner
from autometa.study.storage import open_storage
from autometa.trial.job import DatasetRef, is_transductive

# With halving about half of all budgets is trained in a long search; the first trials of each worker have
# nobody to be compared with and run to their end. Validation comes on top.
_PART_OF_THE_COMPARED, _WITH_VALIDATION = 0.45, 1.15
# What confirmation, meta-test and the start take of a time budget.
PART_FOR_TRIALS = 0.85
_START_SECONDS = 12.0


@dataclass(frozen=True)
class Plan:
    """Everything checked, nothing written."""

    dataset: FewShotDataset
    ref: DatasetRef
    pretrain: DatasetRef | None
    space: SearchSpace
    episodes: EpisodeSpec
    budget: Budget | None
    seed: int
    pruner: str
    trials: int
    deadline: float | None
    url: str
    storage: BaseStorage
    runs: Path
    name: str
    validation_episodes: int

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def trials_folder(self) -> Path:
        return (self.folder / "trials").resolve()


def make_plan(
    name: str,
    *,
    space: SearchSpace,
    is_shipped: bool,
    study: str | None,
    episodes: tuple[int | None, int | None, int | None],
    trials: int,
    budget: Budget | None,
    deadline: float | None,
    storage: str,
    pruner: str,
    gpus: float | None,
    seed: int,
    data_root: str | Path | None,
    image_size: int | None,
    pretrain_dataset: str | None,
    transductive: bool,
    runs: Path,
    validation_episodes: int,
) -> Plan:
    """Check all arguments of a search, load its data set and open its storage.

    Raises:
        AutometaError: the first thing that is wrong.
    """
    if trials < 1:
        raise ConfigError(f"--trials {trials}: at least one is needed")
    make_pruner(pruner, rungs=9)
    if gpus:
        require_local_gpus(gpus)
    root = str(Path(data_root).resolve()) if data_root else os.environ.get("AUTOMETA_DATA")
    data = load_dataset(name, data_root=root, image_size=image_size, seed=0)
    if not is_shipped:
        from autometa.trial.check import check_space  # loads torch, so not for a space that has its test

        check_space(space, data.image_shape)
    spec = _episode_spec(name, episodes)
    for split in ("val", "test") if pretrain_dataset else ("train", "val", "test"):
        data.require(split, spec)
    if not pretrain_dataset:
        _check_train_shots(space, data, spec)
    ref = DatasetRef(name=_portable(name), root=root, image_size=image_size)
    pretrain = _pretrain_ref(pretrain_dataset, data, root) if pretrain_dataset else None
    if not transductive:
        _check_inductive(space)
    plan = Plan(
        dataset=data,
        ref=ref,
        pretrain=pretrain,
        space=space,
        episodes=spec,
        budget=budget,
        seed=seed,
        pruner=pruner,
        trials=trials,
        deadline=deadline,
        url=storage,
        storage=open_storage(storage),
        runs=runs,
        name=study or _study_name(data.name, spec, space, seed, pretrain),
        validation_episodes=validation_episodes,
    )
    existing = existing_record(plan)
    if existing:
        settings.check_same(existing, study_record(plan, budget or existing.budget))
    return plan


def _episode_spec(name: str, episodes: tuple[int | None, int | None, int | None]) -> EpisodeSpec:
    usual = catalog.default_episodes(name)
    way, shot, query = (given if given is not None else default for given, default in zip(episodes, usual, strict=True))
    for option, value, least in (("--way", way, 2), ("--shot", shot, 1), ("--query", query, 1)):
        if value < least:
            raise ConfigError(f"{option} {value}: at least {least} is needed")
    return EpisodeSpec(way=way, shot=shot, query=query)


def _pretrain_ref(name: str, target: FewShotDataset, root: str | None) -> DatasetRef:
    """The data set to train on, checked to have images like the target's."""
    size = target.image_shape[1] if catalog.is_folder(name) else None
    data = load_dataset(name, data_root=root, image_size=size, seed=0)
    if data.image_shape != target.image_shape:
        have, need = ("×".join(map(str, shape)) for shape in (data.image_shape, target.image_shape))
        raise ConfigError(f"--pretrain-dataset {name}: its images are {have}, those of {target.name} {need}")
    target.require_new_to(data)
    return DatasetRef(name=_portable(name), root=root, image_size=size)


def _check_train_shots(space: SearchSpace, data: FewShotDataset, spec: EpisodeSpec) -> None:
    """Refuse a space of training shots for which train classes have too few images."""
    for parameter in space:
        if parameter.name == "train_shot":
            assert isinstance(parameter, Choice | Range)
            values = parameter.choices if isinstance(parameter, Choice) else (parameter.high,)
            data.require_train_shot(max(int(value) for value in values), spec.query)


def _check_inductive(space: SearchSpace) -> None:
    """Refuse to rank transductive candidates among inductive ones unless that was asked for."""
    for parameter in space:
        for value in getattr(parameter, "choices", ()):
            if is_transductive(parameter.name, value):
                raise ConfigError(
                    f"{space.source}: {parameter.name} = {value!r} is transductive, and its accuracy does not compare "
                    "with inductive ones: add --transductive to rank them together, or take it out"
                )


def _portable(name: str) -> str:
    """An image folder is found from any working folder."""
    return str(Path(name).resolve()) if catalog.is_folder(name) else name


def _study_name(dataset: str, spec: EpisodeSpec, space: SearchSpace, seed: int, pretrain: DatasetRef | None) -> str:
    extras = [space.name] if space.name != "few_shot" else []
    extras += [f"from-{Path(pretrain.name).name}"] if pretrain else []
    extras += [f"seed{seed}"] if seed else []
    return "-".join([dataset, str(spec), *extras])


def existing_record(plan: Plan) -> StudyRecord | None:
    """The settings of the study if it exists; one without settings or trials is what a full disk left of a new one."""
    names = [summary.study_name for summary in plan.storage.get_all_studies()]
    if plan.name not in names:
        return None
    study = optuna.load_study(study_name=plan.name, storage=plan.storage)
    is_left_over = not settings.is_ours(study) and not study.trials and study.direction == StudyDirection.MAXIMIZE
    return None if is_left_over else settings.read(study)


def study_record(plan: Plan, budget: Budget, share: Share | None = None) -> StudyRecord:
    """The settings that a new study of this plan gets."""
    return StudyRecord(
        name=plan.name,
        dataset=plan.ref.name,
        dataset_fingerprint=plan.dataset.fingerprint,
        pretrain_dataset=plan.pretrain.name if plan.pretrain else None,
        episodes=plan.episodes,
        space=plan.space.name,
        space_version=plan.space.version,
        budget=budget,
        seed=plan.seed,
        pruner=plan.pruner,
        versions=settings.versions(),
        hardware=settings.hardware(share.workers, share.gpus) if share else {},
        dataset_facts=plan.dataset.facts(),
    )


def with_features(plan: Plan, record: StudyRecord) -> StudyRecord:
    """The settings with the features of the data set, by which later searches know how near theirs is.

    A study from before there were features gets them when it is continued. They are computed from train
    classes, in 0.1 s (digits) to 1.5 s (CIFAR-FS) of CPU, once a data set.
    """
    if record.features or not len(plan.dataset.splits["train"]):  # none are needed with --pretrain-dataset
        return record
    known = {name: value for name, value in features(plan.dataset).items() if math.isfinite(value)}
    return record.model_copy(update={"features": known})


def trial_budget(plan: Plan, share: Share, time_budget: float | None) -> Budget:
    """The data set's own budget a trial, or as many seconds as let all trials fit the time given."""
    if not time_budget:
        return catalog.default_budget(plan.ref.name)
    for_trials = max(time_budget * PART_FOR_TRIALS - _START_SECONDS, time_budget * 0.3)
    uncompared = min(1.0, 2 * share.trials / plan.trials)
    part_spent = _WITH_VALIDATION * (uncompared + (1 - uncompared) * _PART_OF_THE_COMPARED)
    return Budget(seconds=round(for_trials * share.trials / (plan.trials * part_spent), 1))
