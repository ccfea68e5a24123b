"""What a study's record says of its plan: settings, data and its features, and the budget of a trial."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.study import StudyDirection

from autometa.data import catalog
from autometa.hpo import study_record
from autometa.orchestrator.cluster import Share
from autometa.records import Budget, Scalar, StudyRecord
from autometa.study.plan import Plan
from autometa.tasks.features import features

# With halving about half of all budgets is trained in a long search; the first trials of each worker have
# nobody to be compared with and run to their end. Validation comes on top.
_PART_OF_THE_COMPARED, _WITH_VALIDATION = 0.45, 1.15
# What confirmation, meta-test and the start take of a time budget.
PART_FOR_TRIALS = 0.85
_START_SECONDS = 12.0
# An open search could pay for so many first rungs, if it did nothing else.
_FIRST_RUNGS, _LEAST_FIRST_RUNG = 128, 0.5


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
