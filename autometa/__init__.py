"""autometa: AutoML for few-shot image classification.

The public names load what they need when they are first used; importing autometa does no work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from autometa.archives.optuna_study import from_optuna
    from autometa.archives.read import past_studies
    from autometa.data.load import load_dataset
    from autometa.looks import looks_at as test_looks
    from autometa.pruning.pruner import PriorPruner
    from autometa.sampling.sampler import PriorSampler
    from autometa.space.files import load_space
    from autometa.study.search import search
    from autometa.trial.run import evaluate_checkpoint as evaluate
    from autometa.trial.train import train, train_seeds

_PUBLIC = {
    "PriorPruner": ("autometa.pruning.pruner", "PriorPruner"),
    "PriorSampler": ("autometa.sampling.sampler", "PriorSampler"),
    "evaluate": ("autometa.trial.run", "evaluate_checkpoint"),
    "from_optuna": ("autometa.archives.optuna_study", "from_optuna"),
    "load_dataset": ("autometa.data.load", "load_dataset"),
    "load_space": ("autometa.space.files", "load_space"),
    "past_studies": ("autometa.archives.read", "past_studies"),
    "search": ("autometa.study.search", "search"),
    "test_looks": ("autometa.looks", "looks_at"),
    "train": ("autometa.trial.train", "train"),
    "train_seeds": ("autometa.trial.train", "train_seeds"),
}

__all__ = [
    "PriorPruner",
    "PriorSampler",
    "__version__",
    "evaluate",
    "from_optuna",
    "load_dataset",
    "load_space",
    "past_studies",
    "search",
    "test_looks",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autometa' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)
