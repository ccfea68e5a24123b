"""autometa: AutoML for few-shot image classification.

The public names load what they need when they are first used; importing autometa does no work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the table below once more, for type checkers and editors; a test compares them
    from autometa.archives.optuna_study import from_optuna as from_optuna
    from autometa.archives.read import past_studies as past_studies
    from autometa.archives.table import from_frame as from_frame
    from autometa.data.load import load_dataset as load_dataset
    from autometa.deployment.predictor import Predictor as Predictor
    from autometa.looks import looks_at
    from autometa.pruning.pruner import PriorPruner as PriorPruner
    from autometa.sampling.sampler import PriorSampler as PriorSampler
    from autometa.space.files import load_space as load_space
    from autometa.study.search import search as search
    from autometa.trial.evaluate import evaluate_checkpoint
    from autometa.trial.train import train as train
    from autometa.trial.train import train_seeds as train_seeds
    from autometa.trial.train_further import train_further as train_further

    evaluate, test_looks = evaluate_checkpoint, looks_at

# The public names, and where each is: read by `__getattr__` and `__all__`.
_PUBLIC = {
    "Predictor": ("autometa.deployment.predictor", "Predictor"),
    "PriorPruner": ("autometa.pruning.pruner", "PriorPruner"),
    "PriorSampler": ("autometa.sampling.sampler", "PriorSampler"),
    "evaluate": ("autometa.trial.evaluate", "evaluate_checkpoint"),
    "from_frame": ("autometa.archives.table", "from_frame"),
    "from_optuna": ("autometa.archives.optuna_study", "from_optuna"),
    "load_dataset": ("autometa.data.load", "load_dataset"),
    "load_space": ("autometa.space.files", "load_space"),
    "past_studies": ("autometa.archives.read", "past_studies"),
    "search": ("autometa.study.search", "search"),
    "test_looks": ("autometa.looks", "looks_at"),
    "train": ("autometa.trial.train", "train"),
    "train_further": ("autometa.trial.train_further", "train_further"),
    "train_seeds": ("autometa.trial.train", "train_seeds"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autometa' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)
