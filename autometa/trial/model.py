"""Trained models from their folders, and several of them made into an ensemble; see `model_files.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.learning import checkpoint_files, checkpoints
from autometa.learning.checkpoint_facts import ENSEMBLE_FACTS, is_ensemble, read_facts
from autometa.learning.device import pick_device
from autometa.learning.ensemble import Ensemble, Mixture, fit_mixture
from autometa.learning.features import pool_for
from autometa.learning.learner import Learner
from autometa.trial import build
from autometa.trial.job import DatasetRef
from autometa.trial.model_files import EnsembleFacts, ensemble_facts, job_of
from autometa.trial.opened import open_dataset
from autometa.trial.validation import episodes_at_once


def load_model(folder: Path, data: FewShotDataset) -> Learner:
    """The trained learner in a folder, on the CPU; raises `CheckpointError` where there is none, or it is damaged."""
    if not is_ensemble(folder):
        return _load_one(folder, data)
    facts = ensemble_facts(folder)
    members = [_load_one(folder / name, data) for name in facts.members]
    return Ensemble(members, Mixture(tuple(facts.temperatures), tuple(facts.weights)))


def fit_ensemble(
    folders: Sequence[Path], to: Path, *, dataset: DatasetRef, episodes: int, seed: int, use_gpu: bool | None
) -> list[int]:
    """Write the ensemble of these models that is best on validation episodes; returns the indices of its members.

    Where one model alone is best, nothing is written and none is returned.

    Args:
        folders: of trained models of one task.
        episodes, seed: the validation episodes that temperatures and weights are fitted on.
    """
    data = open_dataset(dataset)
    spec = job_of(folders[0]).episodes
    device = pick_device(use_gpu)

    def said(folder: Path) -> tuple[Tensor, Tensor]:
        learner = load_model(folder, data).to(device).eval()
        pool = pool_for(learner, data, "val", device)
        batches = fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec))
        with torch.no_grad():
            found = [(learner.query_logits(batch).cpu(), batch.query_y.cpu()) for batch in batches]
        return torch.cat([logits for logits, _ in found]), torch.cat([targets for _, targets in found])

    answers = [said(folder) for folder in folders]
    mixture = fit_mixture([logits for logits, _ in answers], answers[0][1])
    chosen = [index for index, weight in enumerate(mixture.weights) if weight > 0]
    if len(chosen) < 2:
        return []
    (to / ENSEMBLE_FACTS).unlink(missing_ok=True)  # of an earlier one, whose members are now written over
    names = [f"member-{place}" for place in range(len(chosen))]
    for name, index in zip(names, chosen, strict=True):
        checkpoint_files.copy(folders[index], to / name)
    facts = EnsembleFacts(
        members=names,
        temperatures=[mixture.temperatures[index] for index in chosen],
        weights=[mixture.weights[index] for index in chosen],
    )
    checkpoint_files.write(to / ENSEMBLE_FACTS, facts.model_dump_json(indent=2).encode())
    return chosen


def _load_one(folder: Path, data: FewShotDataset) -> Learner:
    job = job_of(folder)
    classes = int(read_facts(folder)["extra"].get("train_classes", len(data.splits["train"])))
    learner = build.candidate(job.config, budget=job.budget).build(
        image_shape=data.image_shape, way=job.episodes.way, train_classes=classes
    )
    checkpoints.load_weights(folder, learner)
    return learner
