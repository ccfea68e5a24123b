"""What a search will do, checked from end to end before anything is started or written.

It reads arguments, data and storage; it does not run anything.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from autometa.aliases import ALIASES
from autometa.archives.folders import check_name, is_folder_name, safe_name
from autometa.data import catalog
from autometa.data.all_classes import MOST_LABELLED, split_by_images
from autometa.data.dataset import FewShotDataset
from autometa.data.identity import identity_of
from autometa.data.load import load_dataset
from autometa.errors import ConfigError, DataError, StopSearchError, StudyError
from autometa.hpo import study_record
from autometa.hpo.ledger import Asked
from autometa.hpo.pruning import make_pruner
from autometa.hpo.storage import damage_told, default_url, open_storage, reading, storage_exists
from autometa.orchestrator.cluster import Share, require_local_gpus
from autometa.records import Budget, EpisodeSpec, Scalar, StudyRecord, TrialConfig
from autometa.space.files import load_space, shipped_spaces
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.study.search_settings import ALL_CLASSES, SearchSettings
from autometa.tasks.features import features
from autometa.trial.abilities import external_backbones, is_transductive
from autometa.trial.job import DatasetRef, Job

# With halving about half of all budgets is trained in a long search; the first trials of each worker have
# nobody to be compared with and run to their end. Validation comes on top.
_PART_OF_THE_COMPARED, _WITH_VALIDATION = 0.45, 1.15
# What confirmation, meta-test and the start take of a time budget.
PART_FOR_TRIALS = 0.85
_START_SECONDS = 12.0
# An open search could pay for so many first rungs, if it did nothing else.
_FIRST_RUNGS, _LEAST_FIRST_RUNG = 128, 0.5
# Bytes of a default name: a hundred in all.
_LONGEST_DATASET, _LONGEST_TASK = 49, 50
# Where all classes are told apart: images of a class to name in an episode, numbers of an episode's images in all
# (half a gigabyte), and episodes as a part of the usual number.
_QUERIES_OF_ALL, _NUMBERS_OF_AN_EPISODE, _PART_OF_EPISODES = 2, 2**27, 0.5
# Spaces where nobody names one: with weights from elsewhere, and without.
_EXTERNAL, _INTERNAL = "pretrained", "few_shot"


@dataclass(frozen=True)
class Plan:
    """Everything checked, nothing written."""

    dataset: FewShotDataset
    ref: DatasetRef
    pretrain: DatasetRef | None
    settings: SearchSettings
    space: SearchSpace
    episodes: EpisodeSpec
    deadline: float | None
    url: str = field(repr=False)  # may hold a password
    storage: BaseStorage
    runs: Path
    name: str
    validation_episodes: int
    pretrain_data: FewShotDataset | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the images, and about weights from elsewhere."""
        of_images = self.dataset.notes + (self.pretrain_data.notes if self.pretrain_data else ())
        names = " | ".join(map(str, external_backbones(self.space)))
        if not names or not catalog.is_like_imagenet(self.ref.name):
            return of_images
        seen = (
            f"{self.dataset.name}: weights of {names} were trained on ImageNet, which has classes like its test classes"
        )
        return (*of_images, f"{seen}: their accuracy is not that of new classes")

    @property
    def fingerprint(self) -> str:
        """Of the data as it lies there, however it is split for the task."""
        assert self.ref.identity is not None
        return self.ref.identity.fingerprint

    @property
    def task(self) -> str:
        """The task for people: `5w1s`, or `all 40 classes, 20 shots`."""
        spec = self.episodes
        return f"all {spec.way} classes, {spec.shot} shots" if self.ref.all_classes else str(spec)

    @property
    def part_of_episodes(self) -> float:
        """How many episodes are measured, of the usual number: one of all classes says more, and takes longer."""
        return _part_of_episodes(self.ref)

    @property
    def measures_all_classes(self) -> bool:
        """Whether the model that is handed over is measured on all classes of the data at once."""
        return self.ref.all_classes or self.ref.keep_back is not None

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def model_folder(self) -> Path:
        """Where the winner's model is handed over."""
        return self.folder / "model"

    @property
    def baselines_folder(self) -> Path:
        return (self.folder / "baselines").resolve()

    @property
    def ensemble_folder(self) -> Path:
        """Where the model of several trials together is."""
        return (self.folder / "ensemble").resolve()

    @property
    def trials_folder(self) -> Path:
        return (self.folder / "trials").resolve()

    def job(self, values: dict[str, Scalar], seed: int, folder: Path, *, budget: Budget, use_gpu: bool) -> Job:
        """The job of training these values into a folder."""
        return Job(
            config=TrialConfig(values=values),
            dataset=self.ref,
            pretrain=self.pretrain,
            episodes=self.episodes,
            budget=budget,
            seed=seed,
            folder=str(folder),
            validation_episodes=self.validation_episodes,
            validation_seed=self.settings.seed,
            use_gpu=use_gpu,
        )

    def job_of(self, asked: Asked, *, budget: Budget, use_gpu: bool) -> Job:
        """The job of a trial, in its folder."""
        return self.job(asked.values, asked.seed, self.trials_folder / asked.folder, budget=budget, use_gpu=use_gpu)

    def stopped(self, error: StopSearchError) -> StopSearchError:
        """The error of the whole search, in place of the one that a worker met."""
        return StopSearchError(
            f"study {self.name!r} stopped: {error}; nothing is lost: when that is put right, the same command continues"
        )


def make_plan(settings: SearchSettings, *, runs: Path, validation_episodes: int, started: float | None = None) -> Plan:
    """Check the settings of a search, load its data set and open its storage.

    Args:
        runs: folder of the studies' checkpoints.
        validation_episodes: how many every trial is validated on; fewer where all classes are told apart.
        started: `time.monotonic()` when the time budget began; now by default.

    Raises:
        AutometaError: the first thing that is wrong.
    """
    settings = _with_usual_space(_with_an_end(settings))
    now = time.monotonic() if started is None else started
    deadline = now + settings.time_budget if settings.time_budget else None
    url = settings.storage or default_url(runs)
    if settings.study is not None and not _is_continued(settings.study, url):
        check_name(settings.study, where="--study")
    make_pruner(settings.pruner, rungs=9)
    assert settings.space is not None
    space = settings.space.renamed(ALIASES) if isinstance(settings.space, SearchSpace) else load_space(settings.space)
    require_comparable(space, transductive=settings.transductive, external=bool(settings.external))
    if settings.gpus_per_trial and not settings.address:
        require_local_gpus(settings.gpus_per_trial)
    asked = _data_asked_for(settings)
    data = _load(asked)
    if not (isinstance(settings.space, str) and settings.space in {path.stem for path in shipped_spaces()}):
        from autometa.trial.check import check_space  # loads torch, so not for a space that has its test

        check_space(space, data.image_shape)
    ref = _identified(asked, data)
    if asked.all_classes:
        data = split_by_images(data)
    spec = _episode_spec_of_all(settings, data) if asked.all_classes else _episode_spec(settings)
    for split in ("val", "test") if settings.pretrain_dataset or asked.all_classes else ("train", "val", "test"):
        data.require(split, spec)
    if catalog.is_folder(ref.name) and not settings.pretrain_dataset and not asked.all_classes:
        ref = ref.model_copy(update={"keep_back": _images_needed(space, spec)})
    pretrain, pretrain_data = (
        _pretrain(settings.pretrain_dataset, asked, data) if settings.pretrain_dataset else (None, None)
    )
    _check_rotations(space, pretrain_data or data)
    if not asked.all_classes:
        _check_train_shots(space, pretrain_data or data, spec)
    usual_space = _EXTERNAL if catalog.is_folder(settings.dataset) else _INTERNAL
    unusual_space = "" if space.name == usual_space else space.name
    plan = Plan(
        dataset=data,
        ref=ref,
        pretrain=pretrain,
        settings=settings,
        space=space,
        episodes=spec,
        deadline=deadline,
        url=url,
        storage=open_storage(url),
        runs=runs,
        name=settings.study
        or _default_name(data.name, _task_name(settings, spec), unusual_space, settings.seed, pretrain, url),
        validation_episodes=max(2, round(_part_of_episodes(ref) * validation_episodes)),
        pretrain_data=pretrain_data,
    )
    with damage_told(url):
        existing = existing_record(plan)
    if existing:
        study_record.check_same(existing, new_record(plan, settings.budget or existing.budget))
        plan = _continued(plan, existing)
    return plan


def _continued(plan: Plan, existing: StudyRecord) -> Plan:
    """The plan of a study that exists; the time budget of an open search is that of all its runs together."""
    if not existing.budget.open:
        return plan
    if not plan.settings.is_open or plan.deadline is None:
        raise StudyError(
            f"study {existing.name!r} has trials without a fixed budget: "
            "give --time-budget without --trials and --budget to continue it, or another --study NAME"
        )
    return replace(plan, deadline=plan.deadline - existing.search_seconds)


def _with_an_end(settings: SearchSettings) -> SearchSettings:
    """The settings with the data set's own time where nobody says when the search ends."""
    if (settings.trials, settings.budget, settings.time_budget) != (None, None, None):
        return settings
    return replace(settings, time_budget=catalog.default_search_seconds(settings.dataset))


def _with_usual_space(settings: SearchSettings) -> SearchSettings:
    """The settings with the space of the data where nobody names one.

    Whoever has a folder of photographs wants what works. Benchmarks compare methods, and weights from elsewhere may
    have seen their test classes.
    """
    external = catalog.is_folder(settings.dataset) if settings.external is None else settings.external
    return replace(settings, external=external, space=settings.space or (_EXTERNAL if external else _INTERNAL))


def _data_asked_for(settings: SearchSettings) -> DatasetRef:
    root = str(Path(settings.data_root).resolve()) if settings.data_root else os.environ.get("AUTOMETA_DATA")
    return DatasetRef(
        name=catalog.portable(settings.dataset),
        root=root,
        image_size=settings.image_size,
        skip_unreadable=settings.skip_unreadable,
        all_classes=settings.task == ALL_CLASSES,
    )


def _part_of_episodes(ref: DatasetRef) -> float:
    return _PART_OF_EPISODES if ref.all_classes else 1.0


def _episode_spec_of_all(settings: SearchSettings, data: FewShotDataset) -> EpisodeSpec:
    """All classes, by as many labelled images as half of them have, and as many to name as each has, within bounds."""
    if settings.shot is not None and settings.shot > MOST_LABELLED:
        raise ConfigError(f"--shot {settings.shot}: --task {ALL_CLASSES} takes {MOST_LABELLED} per class at most")
    way = len(data.splits["test"])
    labelled, asked = data.class_counts[:way], data.class_counts[way:]
    query = settings.query or min(_QUERIES_OF_ALL, int(asked.min()))
    room = _NUMBERS_OF_AN_EPISODE // (way * math.prod(data.image_shape)) - query
    shot = settings.shot or max(1, min(MOST_LABELLED, int(np.median(labelled)), room))
    return EpisodeSpec(way=way, shot=shot, query=query)


def _episode_spec(settings: SearchSettings) -> EpisodeSpec:
    usual = catalog.default_episodes(settings.dataset)
    given = (settings.way, settings.shot, settings.query)
    way, shot, query = (default if one is None else one for one, default in zip(given, usual, strict=True))
    return EpisodeSpec(way=way, shot=shot, query=query)


def _load(ref: DatasetRef) -> FewShotDataset:
    return load_dataset(
        ref.name, data_root=ref.root, image_size=ref.image_size, seed=ref.seed, skip_unreadable=ref.skip_unreadable
    )


def _identified(ref: DatasetRef, data: FewShotDataset) -> DatasetRef:
    """How a worker finds these very data. Who knows a name of the catalog knows its classes."""
    identity = identity_of(data, with_names=catalog.is_folder(ref.name))
    return ref.model_copy(update={"image_size": identity.image_size, "identity": identity})


def _pretrain(name: str, target_ref: DatasetRef, target: FewShotDataset) -> tuple[DatasetRef, FewShotDataset]:
    """The data set to train on, checked to have images like the target's, and classes that are new to it.

    A folder gets the size of the target's images.
    """
    size = target.image_shape[1] if catalog.is_folder(name) else None
    ref = target_ref.model_copy(update={"name": catalog.portable(name), "image_size": size})
    data = _load(ref)
    if data.image_shape != target.image_shape:
        have, need = ("×".join(map(str, shape)) for shape in (data.image_shape, target.image_shape))
        raise ConfigError(f"--pretrain-dataset {data.name}: its images are {have}, those of {target.name} {need}")
    target.require_new_to(data)
    return _identified(ref, data), data


def _check_rotations(space: SearchSpace, train_on: FewShotDataset) -> None:
    """Refuse to rotate the train classes of a data set whose classes are rotations already."""
    if any(parameter.name == "rotations" and parameter.contains(True) for parameter in space):
        try:
            train_on.require_unrotated()
        except DataError as error:
            raise ConfigError(f"{space.source}: {error}") from None


def _check_train_shots(space: SearchSpace, data: FewShotDataset, spec: EpisodeSpec) -> None:
    """Refuse a space of training shots for which train classes have too few images."""
    most = _most_train_shots(space)
    if most:
        data.require_train_shot(most, spec.query)


def _most_train_shots(space: SearchSpace) -> int:
    """The largest `train_shot` that the space has; 0 where it has none but that of the evaluation."""
    for parameter in space:
        if parameter.name == "train_shot":
            assert isinstance(parameter, Choice | Range)
            values = parameter.choices if isinstance(parameter, Choice) else (parameter.high,)
            return max(int(value) for value in values)
    return 0


def _images_needed(space: SearchSpace, spec: EpisodeSpec) -> int:
    """Images of a class that an episode of the search takes at most."""
    return max(spec.shot, _most_train_shots(space)) + spec.query


def require_comparable(space: SearchSpace, *, transductive: bool, external: bool) -> None:
    """Refuse to rank candidates with an advantage over the others, unless that was asked for.

    Args:
        transductive: allow candidates that adapt to the queries.
        external: allow candidates with weights trained elsewhere.
    """
    if not transductive:
        _check_inductive(space)
    if not external:
        _check_own_weights(space)


def _check_inductive(space: SearchSpace) -> None:
    """Refuse to rank transductive candidates among inductive ones unless that was asked for."""
    for parameter in space:
        for value in getattr(parameter, "choices", ()):
            if is_transductive(parameter.name, value):
                raise ConfigError(
                    f"{space.source}: {parameter.name} = {value!r} is transductive, and its accuracy does not compare "
                    "with inductive ones: add --transductive to rank them together, or take it out"
                )


def _check_own_weights(space: SearchSpace) -> None:
    """Refuse to rank candidates with weights from elsewhere among others unless that was asked for."""
    for backbone in external_backbones(space):
        raise ConfigError(
            f"{space.source}: backbone = {backbone!r} brings weights trained elsewhere, which may have seen the test "
            "classes, and its accuracy does not compare with others: add --external to rank them together"
        )


def _task_name(settings: SearchSettings, spec: EpisodeSpec) -> str:
    """`5w1s`, or `all-classes` where the labelled images are as many as there are."""
    if settings.task != ALL_CLASSES:
        return str(spec)
    return ALL_CLASSES if settings.shot is None else f"{ALL_CLASSES}-{spec.shot}s"


def _default_name(
    dataset: str, usual_task: str, unusual_space: str, seed: int, pretrain: DatasetRef | None, storage: str
) -> str:
    """Data set, task, and what differs from the usual; only the data set's part is cut where that is too long."""
    extras = [unusual_space] if unusual_space else []
    extras += [f"from-{Path(pretrain.name).name}"] if pretrain else []
    extras += [f"seed{seed}"] if seed else []
    task = "-".join([usual_task, *extras])
    before = f"{dataset}-{task}"
    if _is_continued(before, storage):
        return before
    task = safe_name(task, longest=_LONGEST_TASK)
    return f"{safe_name(dataset, longest=_LONGEST_DATASET)}-{task}"


def _is_continued(name: str, storage: str) -> bool:
    """Whether a study has this name that may be no name for a new one: it was made before names were checked."""
    if name == safe_name(name) or not is_folder_name(name) or not storage_exists(storage):
        return False
    with reading(storage) as there:
        return name in {summary.study_name for summary in there.get_all_studies()}


def existing_record(plan: Plan) -> StudyRecord | None:
    """The settings of the study if it exists; one without settings or trials is what a full disk left of a new one."""
    names = [summary.study_name for summary in plan.storage.get_all_studies()]
    if plan.name not in names:
        return None
    study = optuna.load_study(study_name=plan.name, storage=plan.storage)
    is_left_over = not study_record.is_ours(study) and not study.trials and study.direction == StudyDirection.MAXIMIZE
    return None if is_left_over else study_record.read(study)


def new_record(plan: Plan, budget: Budget, share: Share | None = None) -> StudyRecord:
    """The settings that a new study of this plan gets."""
    return StudyRecord(
        name=plan.name,
        dataset_fingerprint=plan.fingerprint,
        **_where_and_what(plan),
        episodes=plan.episodes,
        space=plan.space.name,
        space_version=plan.space.version,
        budget=budget,
        seed=plan.settings.seed,
        pruner=plan.settings.pruner,
        versions=study_record.versions(),
        hardware=study_record.hardware(share.workers, share.gpus) if share else {},
        dataset_facts=_facts(plan),
    )


def at_its_place(plan: Plan, record: StudyRecord) -> StudyRecord:
    """The settings of a study with the place where its data lies now, and the identity that older ones lack."""
    return record.model_copy(update=_where_and_what(plan))


def _where_and_what(plan: Plan) -> dict[str, Any]:
    return {
        "dataset": plan.ref.name,
        "dataset_identity": plan.ref.identity,
        "pretrain_dataset": plan.pretrain.name if plan.pretrain else None,
        "pretrain_identity": plan.pretrain.identity if plan.pretrain else None,
        "all_classes": plan.ref.all_classes,
    }


def _facts(plan: Plan) -> dict[str, Scalar]:
    """Size and splits of the data set, and how many files were left out of it and of the one to train on."""
    left_out = plan.pretrain_data.unreadable if plan.pretrain_data else 0
    return plan.dataset.facts() | ({"pretrain_unreadable": left_out} if left_out else {})


def with_features(plan: Plan, record: StudyRecord) -> StudyRecord:
    """The settings with the features of the data set, by which later searches know how near theirs is.

    A study from before there were features gets them when it is continued. They are computed from train
    classes, in 0.1 s (digits) to 1.5 s (CIFAR-FS) of CPU, once a data set.
    """
    if record.features or not len(plan.dataset.splits["train"]):  # none are needed with --pretrain-dataset
        return record
    known = {name: value for name, value in features(plan.dataset).items() if math.isfinite(value)}
    return record.model_copy(update={"features": known})


def trial_budget(plan: Plan, share: Share) -> Budget:
    """The data set's own budget per trial, or as many seconds as let all trials fit the time budget.

    Of an open search it is what the first rung costs.
    """
    if plan.settings.is_open:
        assert plan.settings.time_budget
        return Budget(seconds=_first_rung(plan.settings.time_budget * share.trials), open=True)
    time_budget, trials = plan.settings.time_budget, plan.settings.most_trials
    if not time_budget:
        return catalog.default_budget(plan.ref.name)
    for_trials = max(time_budget * PART_FOR_TRIALS - _START_SECONDS, time_budget * 0.3)
    uncompared = min(1.0, 2 * share.trials / trials)
    part_spent = _WITH_VALIDATION * (uncompared + (1 - uncompared) * _PART_OF_THE_COMPARED)
    return Budget(seconds=round(for_trials * share.trials / (trials * part_spent), 1))


def _first_rung(core_seconds: float) -> float:
    """Seconds of training up to the first rung, of a search of so many in all; two digits are enough."""
    return float(f"{max(_LEAST_FIRST_RUNG, core_seconds / _FIRST_RUNGS):.2g}")
