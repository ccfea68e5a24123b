"""Options of earlier versions that change nothing now; recipes, spaces and checkpoints that name them are read."""

from __future__ import annotations

from autometa.records import TrialConfig

WITHDRAWN = {"cuda_graph": "training steps are no longer recorded as CUDA graphs"}


def notes(config: TrialConfig) -> list[str]:
    """One line for each withdrawn option that the configuration asks for; none where it is false."""
    asked = [name for name in WITHDRAWN if config.values.get(name, False) is not False]
    return [f"{name} = {str(config.values[name]).lower()} is ignored: {WITHDRAWN[name]}" for name in asked]
