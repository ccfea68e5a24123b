"""Trained models from their folders, and several of them made into an ensemble; see `model_files.py`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.errors import OutOfTimeError
from autometa.learning import checkpoint_files, checkpoints
from autometa.learning.backbones.backbone import Shape
from autometa.learning.checkpoint_facts import ENSEMBLE_FACTS, is_ensemble, read_facts
from autometa.learning.device import pick_device
from autometa.learning.ensemble import Ensemble, Mixture, best_views, fit_mixture
from autometa.learning.features import pool_for
from autometa.learning.learner import Learner, each_image_once
from autometa.learning.symmetries import VIEWS
from autometa.learning.views import mean_of, view_logits
from autometa.trial import build
from autometa.trial.job import DatasetRef
from autometa.trial.model_files import EnsembleFacts, copy_member, ensemble_facts, job_of
from autometa.trial.opened import open_dataset
from autometa.trial.validation import episodes_at_once

# Where a model is so much less accurate on turned images, it was not trained on such.
_LOST_BY_TURNING = 0.03


def load_model(folder: Path, data: FewShotDataset) -> Learner:
    """The trained learner in a folder, on the CPU; raises `CheckpointError` where there is none, or it is damaged."""
    return load_learner(folder, data.image_shape, len(data.splits["train"]))


def load_learner(folder: Path, image_shape: Shape, train_classes: int = 1) -> Learner:
    """The same without the data set.

    Args:
        train_classes: that it was trained on, of earlier checkpoints, which do not say.
    """
    if not is_ensemble(folder):
        return _load_one(folder, image_shape, train_classes)
    facts = ensemble_facts(folder)
    members = [_load_one(folder / name, image_shape, train_classes) for name in facts.members]
    return Ensemble(members, Mixture(tuple(facts.temperatures), tuple(facts.weights)), facts.views)


def said_in_views(
    folder: Path, *, dataset: DatasetRef, episodes: int, seed: int, seconds: float, use_gpu: bool | None
) -> dict[str, np.ndarray]:
    """What a model says of validation episodes: logits [E, Q, N] by the name of the views, and `targets` [E, Q].

    Turned views are left out where the first episodes show that the model does not know turned images.

    Args:
        folder: of a trained model.
        episodes, seed: the validation episodes.
        seconds: after which no further episode is begun; there are some in any case.
    """
    started = time.monotonic()
    data = open_dataset(dataset)
    spec = job_of(folder).episodes
    device = pick_device(use_gpu)
    learner = load_model(folder, data).to(device).eval()
    pool = pool_for(learner, data, "val", device)
    found: list[tuple[Tensor, Tensor]] = []
    views = _views(data, pool)

    def is_late() -> bool:
        return bool(found) and time.monotonic() - started > seconds

    pool.stop_features(is_late)  # of one batch they may take more than all the time there is
    with torch.no_grad(), each_image_once(learner), contextlib.suppress(OutOfTimeError):
        for batch in fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec)):
            logits = torch.stack([view_logits(learner, batch, view) for view in views])  # [views, B, Q, N]
            found.append((logits.cpu(), batch.query_y.cpu()))
            if len(views) == len(VIEWS["turned"]) and not _knows_turned(*found[0]):
                views = VIEWS["mirrored"]
                found = [(logits[list(views)], targets) for logits, targets in found]
            if is_late():
                break
    by_view = dict(zip(views, torch.cat([logits for logits, _ in found], 1), strict=True))
    sets = {name: wanted for name, wanted in VIEWS.items() if by_view.keys() >= set(wanted)}
    said = {name: mean_of([by_view[view] for view in wanted]).numpy() for name, wanted in sets.items()}
    return said | {"targets": torch.cat([targets for _, targets in found]).numpy()}


def fit_ensemble(folders: Sequence[Path], said: Sequence[dict[str, np.ndarray]], to: Path) -> dict[int, str]:
    """Write the ensemble of these models that is best on validation episodes; returns its members' views by index.

    An ensemble of one is a model that sees each episode in several views. Where one model is best as it is, nothing is
    written and nothing returned.

    Args:
        folders: of trained models of one task.
        said: by each, of the same episodes, as of `said_in_views`; of those that all have, where they are not as many.
    """
    count = min(len(one["targets"]) for one in said)
    targets = torch.from_numpy(said[0]["targets"][:count])
    answers = [{name: torch.from_numpy(one[name][:count]) for name in VIEWS if name in one} for one in said]
    views = [best_views(one, targets) for one in answers]
    mixture = fit_mixture([one[name] for one, name in zip(answers, views, strict=True)], targets)
    chosen = [index for index, weight in enumerate(mixture.weights) if weight > 0]
    if len(chosen) < 2 and views[chosen[0]] == "plain":
        return {}
    (to / ENSEMBLE_FACTS).unlink(missing_ok=True)  # of an earlier one, whose members are now written over
    names = [f"member-{place}" for place in range(len(chosen))]
    for name, index in zip(names, chosen, strict=True):
        copy_member(folders[index], to / name)
    facts = {
        "members": names,
        "temperatures": [mixture.temperatures[index] for index in chosen],
        "weights": [mixture.weights[index] for index in chosen],
        "views": [views[index] for index in chosen],
    }
    text = EnsembleFacts.model_validate(facts).model_dump_json(indent=2)
    checkpoint_files.write(to / ENSEMBLE_FACTS, text.encode())
    return {index: views[index] for index in chosen}


def _views(data: FewShotDataset, pool: ImagePool) -> tuple[int, ...]:
    if pool.features:  # those of mirrored images are in no table: they cost more than the rest of a search
        return VIEWS["plain"]
    return VIEWS["turned"] if data.image_shape[1] == data.image_shape[2] else VIEWS["mirrored"]


def _knows_turned(logits: Tensor, targets: Tensor) -> bool:
    """Whether images that are turned by 90° [1] are told apart about as well as upright ones [0]."""
    upright, turned = ((logits[view].argmax(-1) == targets).double().mean() for view in (0, 1))
    return bool(turned > upright - _LOST_BY_TURNING)


def _load_one(folder: Path, image_shape: Shape, train_classes: int) -> Learner:
    job = job_of(folder)
    classes = int(read_facts(folder)["extra"].get("train_classes", train_classes))
    learner = build.candidate(job.config, budget=job.budget).build(
        image_shape=image_shape, way=job.episodes.way, train_classes=classes
    )
    checkpoints.load_weights(folder, learner)
    return learner
