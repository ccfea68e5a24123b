"""What a worker needs to run one trial, as plain data that travels to another process as JSON.

Knows no torch, so a driver that only hands out jobs starts fast.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from autometa.records import LARGEST_SEED, Budget, DataIdentity, EpisodeSpec, Record, TrialConfig


class DatasetRef(Record):
    """How any process finds a data set: its name or folder, where archives may lie, and what is left out of it.

    What is found there must be the data of this `identity`, where one is known; the place may differ. Where
    `keep_back` is given, some images of each class are kept back from training, for the task as it is deployed: each
    class is left with so many at least. With `all_classes` it is split by images, to tell all of its classes apart.
    """

    name: str = Field(min_length=1)
    root: str | None = None
    image_size: int | None = None
    seed: int = 0
    skip_unreadable: bool = False
    identity: DataIdentity | None = None
    keep_back: int | None = Field(None, ge=1)
    all_classes: bool = False


class Further(Record):
    """How a trained model goes on: from the state with this SHA-256, which had taken so much, `budget` more."""

    state: str
    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    budget: Budget


class Job(Record):
    """One candidate to train. `folder` is where its checkpoint is, or will be.

    With `pretrain` the train classes come from that data set, validation and meta-test from `dataset`. With `further`
    it is a model that was trained before.
    """

    config: TrialConfig
    dataset: DatasetRef
    pretrain: DatasetRef | None = None
    episodes: EpisodeSpec
    budget: Budget
    seed: int = Field(ge=0, le=LARGEST_SEED)
    folder: str
    validation_episodes: int = Field(200, ge=2)
    validation_seed: int = Field(0, ge=0, le=LARGEST_SEED)
    use_gpu: bool | None = None
    further: Further | None = None

    def inside(self, place: str) -> Job:
        """The same job with its checkpoint in a folder inside its own."""
        return self.model_copy(update={"folder": str(Path(self.folder) / place)})
