"""The part of a checkpoint that needs no torch: its JSON, for drivers and lists.

`checkpoint.json` is written last and names the tensor file it belongs to, so it is the truth of what is
there; see `checkpoints.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autometa.errors import CheckpointError
from autometa.parsing import parse_json
from autometa.records import RungReport, explain

# Folders in a candidate's own: its model where its accuracy was highest, and the one after its cool-down.
BEST, FINAL = "best", "final"
BEFORE = "before-cool-down"  # in a model's folder: the state that it goes on from
FACTS = "checkpoint.json"
ENSEMBLE_FACTS = "ensemble.json"  # in its place, of an ensemble: see `trial/model.py`
FORMAT = "autometa-checkpoint/1"


class _Extra(BaseModel):
    train_classes: int = Field(1, ge=1)
    validation_counts: list[int] | None = None


class _Facts(BaseModel):
    """What must be of its kind where it is there; whoever needs something that is not there says so."""

    model_config = ConfigDict(allow_inf_nan=False)
    tensors: str = ""
    sha256: str = ""
    device: str = ""
    steps: int = Field(0, ge=0)
    seconds: float = Field(0, ge=0)
    last_step: int | None = None
    warms_from: int = Field(0, ge=0)
    curve: list[RungReport] = []
    extra: dict[str, Any] = {}


def is_ensemble(folder: Path) -> bool:
    """Whether the folder holds an ensemble."""
    return (folder / ENSEMBLE_FACTS).is_file()


def exists(folder: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """Steps, seconds, curve and `extra` of a checkpoint; raises `CheckpointError` when it is not one."""
    file = folder / FACTS
    try:
        facts: dict[str, Any] = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint there ({FACTS} is missing)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a checkpoint of this version ({FORMAT})")
    try:
        _Extra.model_validate(_Facts.model_validate(facts).extra)
    except ValidationError as error:
        raise CheckpointError(f"{file}: damaged: {explain(error)}") from None
    return facts
