"""What a study is about, as it is written into the study itself, and the check that nobody mixes two.

A study may be continued only with the settings it was made with: values of different tasks, spaces or
budgets do not compare.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import optuna

import autometa
from autometa.data import catalog
from autometa.errors import StudyError
from autometa.records import Baseline, Confirmation, DataIdentity, DeployedTask, Look, Scalar, StudyRecord, checked

_KEY = "autometa"
_MUST_AGREE = (
    "all_classes",
    "episodes",
    "space",
    "space_version",
    "budget",
    "seed",
    "pruner",
)
_SAYS = {"space_version": "parameters in the space"}


def versions() -> dict[str, str]:
    """Versions of what may change a number; whether kernels are used the workers say: see `add_kernels`."""
    found = {"autometa": autometa.__version__, "python": platform.python_version()}
    for package in ("torch", "optuna", "ray", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a vendored or renamed build
            found[package] = "unknown"
    return found


def hardware(workers: int, gpus_per_trial: float) -> dict[str, Scalar]:
    """The machine a search ran on, as far as it explains its seconds."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count() or 1,
        "workers": workers,
        "gpus_per_trial": gpus_per_trial,
    }


def is_ours(study: optuna.Study) -> bool:
    """Whether autometa made this study."""
    return _KEY in study.user_attrs


def read(study: optuna.Study) -> StudyRecord:
    """The settings written into a study; raises `StudyError` when autometa did not make it."""
    text = study.user_attrs.get(_KEY)
    if text is None:
        raise StudyError(f"study {study.study_name!r} was not made by autometa search")
    where = f"study {study.study_name!r}"
    try:
        return checked(StudyRecord, json.loads(text), where=where)
    except (TypeError, json.JSONDecodeError) as error:
        raise StudyError(f"{where}: its settings are not JSON: {error}") from None


def write(study: optuna.Study, record: StudyRecord) -> None:
    """Write the settings into the study."""
    study.set_user_attr(_KEY, record.model_dump_json())


def add_confirmation(study: optuna.Study, confirmation: Confirmation, looks: Sequence[Look] = ()) -> StudyRecord:
    """Add (or replace) what one of the best models showed on fresh episodes, and add the looks that this took."""
    record = read(study)
    others = [c for c in record.confirmed if c.source != confirmation.source]
    record = record.model_copy(
        update={
            "confirmed": [*others, confirmation],
            "looks": [*record.looks, *looks],
            "date": datetime.now(UTC).date().isoformat(),
        }
    )
    write(study, record)
    return record


def note_time(study: optuna.Study, seconds: float) -> None:
    """Keep how long a search has gone on, all its runs together."""
    write(study, read(study).model_copy(update={"search_seconds": round(seconds, 1)}))


def add_baseline(study: optuna.Study, baseline: Baseline) -> None:
    """Add (or replace) what a baseline showed."""
    record = read(study)
    others = [known for known in record.baselines if known.name != baseline.name]
    write(study, record.model_copy(update={"baselines": [*others, baseline]}))


def add_deployed(study: optuna.Study, found: DeployedTask) -> None:
    """Keep what the model that is handed over shows on all classes at once."""
    write(study, read(study).model_copy(update={"deployed": found}))


def add_kernels(study: optuna.Study, said: str) -> None:
    """Keep among the versions what a worker says of its compiled kernels, beside what others said."""
    record = read(study)
    known = record.versions.get("kernels")
    together = " | ".join(sorted({said, *(known.split(" | ") if known else ())}))
    if together != known:
        write(study, record.model_copy(update={"versions": {**record.versions, "kernels": together}}))


def check_same(existing: StudyRecord, wanted: StudyRecord) -> None:
    """Raise `StudyError` naming the first setting in which a study differs from what is asked for.

    The data must be the same; where it lies may differ.
    """
    found = _other_data(existing, wanted) or next(
        (
            f"another {_SAYS.get(name, name)} ({getattr(existing, name)}, not {getattr(wanted, name)})"
            for name in _MUST_AGREE
            if getattr(existing, name) != getattr(wanted, name)
        ),
        None,
    )
    if found:
        raise StudyError(
            f"study {existing.name!r} exists with {found}; "
            "choose another --study NAME, or give the same settings to continue it"
        )


def _other_data(existing: StudyRecord, wanted: StudyRecord) -> str | None:
    if existing.dataset_fingerprint != wanted.dataset_fingerprint:
        change = _change(existing.dataset_identity, wanted.dataset_identity)
        if catalog.is_folder(existing.dataset) and change:
            return f"other data in {wanted.dataset}: {change}"
        return f"another dataset ({existing.dataset}, not {wanted.dataset}), or another content of it"
    before, now = existing.pretrain_dataset, wanted.pretrain_dataset
    if existing.pretrain_identity and wanted.pretrain_identity:
        change = _change(existing.pretrain_identity, wanted.pretrain_identity)
        return f"other data to train on in {now}: {change}" if change else None
    return None if before == now else f"another pretrain_dataset ({before}, not {now})"


def _change(before: DataIdentity | None, now: DataIdentity | None) -> str | None:
    return before.change_to(now) if before and now else None
