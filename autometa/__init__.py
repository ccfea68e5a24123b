"""autometa: AutoML for few-shot image classification.

The public names load what they need when they are first used; importing autometa does no work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from autometa.data.load import load_dataset
    from autometa.space.files import load_space
    from autometa.study.search import search
    from autometa.trial.run import evaluate_checkpoint as evaluate
    from autometa.trial.train import train

_PUBLIC = {
    "evaluate": ("autometa.trial.run", "evaluate_checkpoint"),
    "load_dataset": ("autometa.data.load", "load_dataset"),
    "load_space": ("autometa.space.files", "load_space"),
    "search": ("autometa.study.search", "search"),
    "train": ("autometa.trial.train", "train"),
}

__all__ = ["__version__", "evaluate", "load_dataset", "load_space", "search", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autometa' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(importlib.import_module(module), attribute)
