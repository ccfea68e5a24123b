"""The files of a trained model: one checkpoint, or an ensemble of several. It loads no torch.

An ensemble's folder holds `ensemble.json`, which is written last, and one checkpoint per member in a folder of its own.
Beside a checkpoint that was cooled down is the one before, from which training goes on.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autometa.data import catalog
from autometa.data.dataset import FewShotDataset
from autometa.errors import CheckpointError
from autometa.learning import checkpoint_files
from autometa.learning.checkpoint_facts import BEFORE, ENSEMBLE_FACTS, FINAL, exists, is_ensemble, read_facts
from autometa.parsing import parse_json
from autometa.records import Record, checked
from autometa.trial.job import Job

FORMAT = "autometa-ensemble/1"
RECIPE = "recipe.toml"  # in a model's folder: how to train it again


class ModelInput(Record):
    """The images that a model takes: `channels` × `size` × `size`, normalised by the data set it was validated on.

    `mean` and `std` are of each channel, in [0, 1]. `is_inverted` says that dark ink on white paper was made bright.
    """

    channels: Literal[1, 3]
    size: int = Field(ge=1, le=4096)
    mean: list[float] = Field(min_length=1, max_length=3)
    std: list[float] = Field(min_length=1, max_length=3)
    is_inverted: bool = False

    @model_validator(mode="after")
    def _is_of_its_channels(self) -> ModelInput:
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0:
            raise ValueError("give mean and a positive std of each channel")
        return self

    @classmethod
    def of(cls, data: FewShotDataset) -> ModelInput:
        """That of a model of this data set."""
        channels, size, _ = data.image_shape
        source = catalog.SOURCES.get(data.name)
        return cls(
            channels=1 if channels == 1 else 3,
            size=size,
            mean=list(data.mean),
            std=list(data.std),
            is_inverted=source is not None and source.is_inverted,
        )


class EnsembleFacts(Record):
    """Which folders an ensemble's members are in, with their temperatures, weights and views (see `learning/views.py`).

    Files of earlier versions name no views: those members see an episode as it is.
    """

    format: str = Field(FORMAT, pattern=FORMAT)
    members: list[str] = Field(min_length=1)
    temperatures: list[float]
    weights: list[float]
    views: list[Literal["plain", "mirrored", "turned"]] = []

    @model_validator(mode="after")
    def _is_whole(self) -> EnsembleFacts:
        if not len(self.members) == len(self.temperatures) == len(self.weights):
            raise ValueError("each member needs a temperature and a weight")
        if self.views and len(self.views) != len(self.members):
            raise ValueError("each member needs its views")
        if min(self.temperatures) <= 0 or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError("temperatures must be positive, and weights at least 0 and not all 0")
        if any(Path(name).name != name or name in ("", "..") for name in self.members):
            raise ValueError("members must be folders inside the ensemble's")
        return self


def ensemble_facts(folder: Path) -> EnsembleFacts:
    """What an ensemble is made of; raises `CheckpointError` or `ConfigError` where its file is wrong."""
    file = folder / ENSEMBLE_FACTS
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: damaged: a table is expected")
    return checked(EnsembleFacts, found, where=str(file))


def job_of(folder: Path) -> Job:
    """The job that a model belongs to, or an ensemble's first member; raises `CheckpointError` where there is none."""
    if is_ensemble(folder):
        folder = folder / ensemble_facts(folder).members[0]
    extra = read_facts(folder).get("extra", {})
    if "job" not in extra:
        raise CheckpointError(f"{folder}: not an autometa checkpoint: it does not say how it was trained")
    return checked(Job, extra["job"], where=str(folder))


def is_model(folder: Path) -> bool:
    """Whether the folder holds a model, single or ensemble."""
    return exists(folder) or is_ensemble(folder)


def name_of(folder: Path) -> str:
    """What to call a model by its folder: that of a search by the study."""
    place = folder.resolve()
    return place.parent.name if place.name == "model" else place.name


def members_of(folder: Path) -> list[Path]:
    """The folder of each member of an ensemble, or that of a single model alone."""
    return [folder / name for name in ensemble_facts(folder).members] if is_ensemble(folder) else [folder]


def goes_on_from(folder: Path) -> Path:
    """The state from which a single model's training goes on: before its cool-down, where that is known, or its own."""
    places = [folder / BEFORE, *([folder.parent] if folder.name == FINAL else [])]
    return next((place for place in places if exists(place)), folder)


def input_of(folder: Path) -> ModelInput | None:
    """The images that a model takes, or an ensemble's first member; None of earlier models, which do not say."""
    if is_ensemble(folder):
        folder = folder / ensemble_facts(folder).members[0]
    said = read_facts(folder).get("extra", {}).get("input")
    return checked(ModelInput, said, where=str(folder)) if isinstance(said, dict) else None


def content_of(folder: Path) -> str:
    """A hash of a model's weights and configuration, by what its files say of them."""
    state = hashlib.sha256()
    if is_ensemble(folder):
        facts = ensemble_facts(folder)
        state.update(facts.model_dump_json().encode())
        members = [folder / name for name in facts.members]
    else:
        members = [folder]
    for member in members:
        said = read_facts(member)
        state.update(json.dumps([said.get("sha256"), said.get("extra", {}).get("job", {}).get("config")]).encode())
    return state.hexdigest()[:16]


def copy_model(folder: Path, to: Path) -> None:
    """Write a model's copy into another folder, in place of one that is there."""
    (to / ENSEMBLE_FACTS).unlink(missing_ok=True)
    if not is_ensemble(folder):
        copy_member(folder, to)
        return
    facts = ensemble_facts(folder)
    for name in facts.members:
        copy_member(folder / name, to / name)
    checkpoint_files.write(to / ENSEMBLE_FACTS, facts.model_dump_json().encode())


def copy_member(folder: Path, to: Path) -> None:
    """Write the copy of a single model, and of the state that it goes on from."""
    checkpoint_files.remove(to / BEFORE)  # that of another model must not stand beside this one
    checkpoint_files.copy(folder, to)
    if (state := goes_on_from(folder)) != folder:
        checkpoint_files.copy(state, to / BEFORE)
