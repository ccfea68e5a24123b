"""A trained model from its folder: one checkpoint, or an ensemble of several.

An ensemble's folder holds `ensemble.json`, which is written last, and one checkpoint per member in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import ImagePool, fixed_episodes
from autometa.errors import CheckpointError
from autometa.learning import checkpoint_files, checkpoints
from autometa.learning.checkpoint_facts import ENSEMBLE, is_ensemble, read_facts
from autometa.learning.device import pick_device
from autometa.learning.ensemble import Ensemble, Mixture, fit_mixture
from autometa.learning.learner import Learner
from autometa.parsing import parse_json
from autometa.records import Record, checked
from autometa.trial import build
from autometa.trial.job import DatasetRef, Job
from autometa.trial.opened import open_dataset
from autometa.trial.validation import episodes_at_once

FORMAT = "autometa-ensemble/1"


class EnsembleFacts(Record):
    """Which folders an ensemble's members are in, with their temperatures and weights."""

    format: str = Field(FORMAT, pattern=FORMAT)
    members: list[str] = Field(min_length=1)
    temperatures: list[float]
    weights: list[float]

    @model_validator(mode="after")
    def _is_whole(self) -> EnsembleFacts:
        if not len(self.members) == len(self.temperatures) == len(self.weights):
            raise ValueError("each member needs a temperature and a weight")
        if min(self.temperatures) <= 0 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError("temperatures must be positive, and weights at least 0 and not all 0")
        if any(Path(name).name != name or name in ("", "..") for name in self.members):
            raise ValueError("members must be folders inside the ensemble's")
        return self


def load_model(folder: Path, data: FewShotDataset) -> Learner:
    """The trained learner in a folder, on the CPU; raises `CheckpointError` where there is none, or it is damaged."""
    if not is_ensemble(folder):
        return _load_one(folder, data)
    facts = _ensemble_facts(folder)
    members = [_load_one(folder / name, data) for name in facts.members]
    return Ensemble(members, Mixture(tuple(facts.temperatures), tuple(facts.weights)))


def job_of(folder: Path) -> Job:
    """The job that a model belongs to, or an ensemble's first member; raises `CheckpointError` where there is none."""
    if is_ensemble(folder):
        folder = folder / _ensemble_facts(folder).members[0]
    extra = read_facts(folder).get("extra", {})
    if "job" not in extra:
        raise CheckpointError(f"{folder}: not an autometa checkpoint: it does not say how it was trained")
    return checked(Job, extra["job"], where=str(folder))


def copy_model(folder: Path, to: Path) -> None:
    """Write a model's copy into another folder, in place of one that is there."""
    (to / ENSEMBLE).unlink(missing_ok=True)
    if not is_ensemble(folder):
        checkpoint_files.copy(folder, to)
        return
    facts = _ensemble_facts(folder)
    for name in facts.members:
        checkpoint_files.copy(folder / name, to / name)
    checkpoint_files.write(to / ENSEMBLE, facts.model_dump_json().encode())


def fit_ensemble(
    folders: Sequence[Path], to: Path, *, dataset: DatasetRef, episodes: int, seed: int, use_gpu: bool | None
) -> bool:
    """Write the ensemble of these models that is best on validation episodes; returns whether it has more than one.

    Args:
        folders: of trained models of one task.
        episodes, seed: the validation episodes that temperatures and weights are fitted on.
    """
    data = open_dataset(dataset)
    spec = job_of(folders[0]).episodes
    pool = ImagePool(data, "val", pick_device(use_gpu))

    def said(folder: Path) -> tuple[Tensor, Tensor]:
        batches = fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec))
        learner = load_model(folder, data).to(pool.device).eval()
        with torch.no_grad():
            found = [(learner.query_logits(batch).cpu(), batch.query_y.cpu()) for batch in batches]
        return torch.cat([logits for logits, _ in found]), torch.cat([targets for _, targets in found])

    answers = [said(folder) for folder in folders]
    mixture = fit_mixture([logits for logits, _ in answers], answers[0][1])
    chosen = [index for index, weight in enumerate(mixture.weights) if weight > 0]
    if len(chosen) < 2:
        return False
    names = [f"member-{place}" for place in range(len(chosen))]
    for name, index in zip(names, chosen, strict=True):
        checkpoint_files.copy(folders[index], to / name)
    facts = EnsembleFacts(
        members=names,
        temperatures=[mixture.temperatures[index] for index in chosen],
        weights=[mixture.weights[index] for index in chosen],
    )
    checkpoint_files.write(to / ENSEMBLE, facts.model_dump_json(indent=2).encode())
    return True


def _load_one(folder: Path, data: FewShotDataset) -> Learner:
    job = job_of(folder)
    classes = int(read_facts(folder)["extra"].get("train_classes", len(data.splits["train"])))
    learner = build.candidate(job.config, budget=job.budget).build(
        image_shape=data.image_shape, way=job.episodes.way, train_classes=classes
    )
    checkpoints.load_weights(folder, learner)
    return learner


def _ensemble_facts(folder: Path) -> EnsembleFacts:
    file = folder / ENSEMBLE
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: damaged: a table is expected")
    return checked(EnsembleFacts, found, where=str(file))
