"""A search's settings become its plan: checked from end to end before anything is started or written.

It reads arguments, data and storage; it does not run anything.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from autometa.aliases import ALIASES
from autometa.archives.folders import check_name, is_folder_name, safe_name
from autometa.data import catalog
from autometa.data.all_classes import MOST_LABELLED, split_by_images
from autometa.data.dataset import FewShotDataset
from autometa.data.identity import identity_of
from autometa.data.load import load_dataset
from autometa.errors import ConfigError, StudyError
from autometa.hpo import study_record
from autometa.hpo.pruning import make_pruner
from autometa.hpo.storage import damage_told, default_url, open_storage, reading, storage_exists
from autometa.orchestrator.cluster import require_local_gpus
from autometa.records import EpisodeSpec, StudyRecord
from autometa.space.files import load_space, shipped_spaces
from autometa.space.space import SearchSpace
from autometa.study.plan import Plan, part_of_episodes
from autometa.study.records_of_plan import existing_record, new_record
from autometa.study.search_settings import ALL_CLASSES, SearchSettings
from autometa.study.space_checks import check_rotations, check_train_shots, images_needed, require_comparable
from autometa.trial.job import DatasetRef

# Bytes of a default name: a hundred in all.
_LONGEST_DATASET, _LONGEST_TASK = 49, 50
# Where all classes are told apart: images of a class to name in an episode, and numbers of an episode's images in all
# (half a gigabyte).
_QUERIES_OF_ALL, _NUMBERS_OF_AN_EPISODE = 2, 2**27
# Spaces where nobody names one: with weights from elsewhere, and without.
_EXTERNAL, _INTERNAL = "pretrained", "few_shot"


def make_plan(settings: SearchSettings, *, runs: Path, validation_episodes: int, started: float | None = None) -> Plan:
    """Check the settings of a search, load its data set and open its storage.

    Args:
        runs: folder of the studies' checkpoints.
        validation_episodes: how many every trial is validated on; fewer where all classes are told apart.
        started: `time.monotonic()` when the time budget began; now by default.

    Raises:
        AutometaError: the first thing that is wrong.
    """
    now = time.monotonic() if started is None else started
    settings = _with_usual_space(_with_an_end(settings))
    url = settings.storage or default_url(runs)
    space = _checked_space(settings, url)
    asked = _data_asked_for(settings)
    data = _load(asked)
    if not (isinstance(settings.space, str) and settings.space in {path.stem for path in shipped_spaces()}):
        from autometa.trial.check import check_space  # loads torch, so not for a space that has its test

        check_space(space, data.image_shape)
    ref = _identified(asked, data)
    if asked.all_classes:
        data = split_by_images(data)
    spec = _episode_spec_of_all(settings, data) if asked.all_classes else _episode_spec(settings)
    pretrain, pretrain_data = (
        _pretrain(settings.pretrain_dataset, asked, data) if settings.pretrain_dataset else (None, None)
    )
    _check_images(space, spec, data, pretrain_data, all_classes=asked.all_classes)
    if catalog.is_folder(ref.name) and not pretrain and not asked.all_classes:
        ref = ref.model_copy(update={"keep_back": images_needed(space, spec)})
    plan = Plan(
        dataset=data,
        ref=ref,
        pretrain=pretrain,
        settings=settings,
        space=space,
        episodes=spec,
        deadline=now + settings.time_budget if settings.time_budget else None,
        url=url,
        storage=open_storage(url),
        runs=runs,
        name=settings.study or _default_name(data.name, settings, spec, space, pretrain, url),
        validation_episodes=max(2, round(part_of_episodes(ref) * validation_episodes)),
        pretrain_data=pretrain_data,
    )
    with damage_told(url):
        existing = existing_record(plan)
    if existing:
        study_record.check_same(existing, new_record(plan, settings.budget or existing.budget))
        plan = _continued(plan, existing)
    return plan


def _checked_space(settings: SearchSettings, url: str) -> SearchSpace:
    """The space of a search; what does not need its data is checked first."""
    if settings.study is not None and not _is_continued(settings.study, url):
        check_name(settings.study, where="--study")
    make_pruner(settings.pruner, rungs=9)
    assert settings.space is not None
    space = settings.space.renamed(ALIASES) if isinstance(settings.space, SearchSpace) else load_space(settings.space)
    require_comparable(space, transductive=settings.transductive, external=bool(settings.external))
    if settings.gpus_per_trial and not settings.address:
        require_local_gpus(settings.gpus_per_trial)
    return space


def _check_images(
    space: SearchSpace,
    spec: EpisodeSpec,
    data: FewShotDataset,
    pretrain_data: FewShotDataset | None,
    *,
    all_classes: bool,
) -> None:
    """Refuse data with too few classes, or images of one, for the episodes of the search and of the space."""
    for split in ("val", "test") if pretrain_data or all_classes else ("train", "val", "test"):
        data.require(split, spec)
    check_rotations(space, pretrain_data or data)
    if not all_classes:
        check_train_shots(space, pretrain_data or data, spec)


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


def _task_name(settings: SearchSettings, spec: EpisodeSpec) -> str:
    """`5w1s`, or `all-classes` where the labelled images are as many as there are."""
    if settings.task != ALL_CLASSES:
        return str(spec)
    return ALL_CLASSES if settings.shot is None else f"{ALL_CLASSES}-{spec.shot}s"


def _default_name(
    dataset: str,
    settings: SearchSettings,
    spec: EpisodeSpec,
    space: SearchSpace,
    pretrain: DatasetRef | None,
    storage: str,
) -> str:
    """Data set, task, and what differs from the usual; only the data set's part is cut where that is too long."""
    usual_space = _EXTERNAL if catalog.is_folder(settings.dataset) else _INTERNAL
    extras = [] if space.name == usual_space else [space.name]
    extras += [f"from-{Path(pretrain.name).name}"] if pretrain else []
    extras += [f"seed{settings.seed}"] if settings.seed else []
    task = "-".join([_task_name(settings, spec), *extras])
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
