"""Measure a trained checkpoint on episodes of a split; who measured test classes is noted by whoever asked."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, fixed_episodes
from autometa.learning.attacks import Attack, PixelRange
from autometa.learning.device import pick_device
from autometa.learning.evaluation import answers
from autometa.learning.features import pool_for
from autometa.learning.learner import Learner
from autometa.records import Accuracy, EpisodeSpec, Look
from autometa.trial.job import DatasetRef
from autometa.trial.measured import Measured, models_in, together
from autometa.trial.model import load_model
from autometa.trial.model_files import job_of
from autometa.trial.opened import at, open_dataset
from autometa.trial.validation import episodes_at_once, look_at, within

_log = logging.getLogger(__name__)

# Of the episodes that are asked for: so many say something, where there is no time for more.
_FEWEST_PART = 1 / 30


def evaluate_checkpoint(
    folder: str | Path,
    *,
    split: str = "test",
    episodes: int = 600,
    seed: int = 0,
    use_gpu: bool | None = None,
    spec: EpisodeSpec | None = None,
    dataset: DatasetRef | str | Path | None = None,
    on_batch: Callable[[int], None] | None = None,
    attack: tuple[float, int] | None = None,
) -> Accuracy:
    """Accuracy of a trained checkpoint on `episodes` episodes of one split, by default of the task it was trained for.

    The same seed gives the same episodes to every model. `spec` is another way, shot or query; `dataset`
    another place to find the same data, such as a folder that was moved. `attack` (ε as a share of the intensity
    range, steps; one step is FGSM, more are PGD) makes the query images adversarial first. A measurement on test
    classes is noted (`autometa.test_looks`). A folder of the same recipe trained with several seeds
    (`autometa train --seeds`) is measured as a whole.

    Raises:
        CheckpointError: there is none, or it is damaged.
        DataChangedError: the data is not what the model was trained with, so that some of its "new" classes may
            have been trained on. Of a checkpoint that does not say, the log says so.
        DataError: the split is too small for the episodes.
    """
    how: dict[str, Any] = {"split": split, "episodes": episodes, "seed": seed, "use_gpu": use_gpu, "spec": spec}
    how |= {"dataset": dataset, "on_batch": on_batch, "attack": attack}
    return together([measure_checkpoint(model, **how).noted() for model in models_in(Path(folder))])


def measure_checkpoint(
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
    seconds: float | None = None,
) -> Measured:
    """What one checkpoint answers, arguments and errors as of `evaluate_checkpoint`; whoever calls notes the look.

    Args:
        seconds: from now, after which it ends with the episodes that it has: a thirtieth of them at least.
    """
    end = _end(seconds)
    folder = Path(folder)
    job = job_of(folder)
    device = pick_device(use_gpu)
    ref = at(dataset, job.dataset)
    if ref.identity is None:
        _warn_not_verified(folder)
    data = open_dataset(ref)
    learner = load_model(folder, data)
    model = _content(learner)
    pool, spec = pool_for(learner, data, split, device), spec or job.episodes
    batches = _by(end, fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec)), episodes)
    change = _attacker(Attack(*attack), data, device, seed) if attack else None
    scores = answers(
        learner.to(device), batches, pool.families, images=pool.images_of_task, on_batch=on_batch, change=change
    )
    look = Look(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        dataset=data.name,
        fingerprint=data.fingerprint,
        model=model,
        what=f"evaluate {folder.resolve()}",
        episodes=spec,
        seed=seed,
        mean=float(scores.accuracies.mean()),
        attack=attack,
    )
    return Measured(scores, seed, look if split == "test" else None)


def compute_features(
    folder: Path,
    *,
    split: str,
    episodes: int,
    seed: int,
    use_gpu: bool | None,
    dataset: DatasetRef,
    seconds: float | None = None,
) -> None:
    """Have those features in the cache that `measure_checkpoint` needs; processes that do it at once share the work."""
    end = _end(seconds)
    job = job_of(folder)
    data, device = open_dataset(at(dataset, job.dataset)), pick_device(use_gpu)
    pool, spec = pool_for(load_model(folder, data).to(device), data, split, device), job.episodes
    batches = fixed_episodes(pool, spec, count=episodes, seed=seed, batch=episodes_at_once(spec))
    look_at(pool, _by(end, batches, episodes))


def _end(seconds: float | None) -> float:
    return math.inf if seconds is None else time.monotonic() + seconds


def _by(end: float, batches: Iterable[EpisodeBatch], episodes: int) -> Iterable[EpisodeBatch]:
    """Of so many episodes in batches those that are over by the end, and a thirtieth at least."""
    return within(batches, end, fewest=math.ceil(_FEWEST_PART * episodes))


def _content(learner: Learner) -> str:
    """A hash of a model's weights, wherever its checkpoint lies."""
    state = hashlib.sha256()
    for name, tensor in sorted(learner.state_dict().items()):
        state.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()[:16]


@functools.cache
def _warn_not_verified(folder: Path) -> None:
    """Once a model, also where it is measured several times."""
    _log.warning("warning: %s: data not verified: the checkpoint does not say what it was trained on", folder)


def _attacker(
    attack: Attack, data: FewShotDataset, device: torch.device, seed: int
) -> Callable[[Learner, EpisodeBatch], EpisodeBatch]:
    pixels = PixelRange.of(data.mean, data.std, device)
    generator = torch.Generator(device).manual_seed(seed)
    return lambda learner, episodes: attack(learner, episodes, pixels, generator)
