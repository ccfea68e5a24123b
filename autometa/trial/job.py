"""What a worker needs to run one trial, as plain data that travels to another process as JSON.

Knows no torch, so a driver that only hands out jobs starts fast.
"""

from __future__ import annotations

from pydantic import Field

from autometa.records import Budget, EpisodeSpec, Record, Scalar, TrialConfig


class DatasetRef(Record):
    """How any process finds a data set: its name or folder, and where archives may lie."""

    name: str
    root: str | None = None
    image_size: int | None = None
    seed: int = 0


def is_transductive(name: str, value: Scalar) -> bool:
    """Whether this value of this option lets query images influence each other's predictions."""
    option = name.rpartition(".")[2]
    return (option == "norm" and value == "transductive") or (option == "transduction" and value != "none")


class Job(Record):
    """One candidate to train. `folder` is where its checkpoint is, or will be.

    With `pretrain` the train classes come from that data set, validation and meta-test from `dataset`.
    """

    config: TrialConfig
    dataset: DatasetRef
    pretrain: DatasetRef | None = None
    episodes: EpisodeSpec
    budget: Budget
    seed: int = Field(ge=0)
    folder: str
    validation_episodes: int = Field(200, ge=2)
    validation_seed: int = 0
    use_gpu: bool | None = None
