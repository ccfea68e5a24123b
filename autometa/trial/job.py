"""What a worker needs to run one trial, as plain data that travels to another process as JSON.

Knows no torch, so a driver that only hands out jobs starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from autometa.records import LARGEST_SEED, Budget, EpisodeSpec, Record, Scalar, TrialConfig


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
    seed: int = Field(ge=0, le=LARGEST_SEED)
    folder: str
    validation_episodes: int = Field(200, ge=2)
    validation_seed: int = Field(0, ge=0, le=LARGEST_SEED)
    use_gpu: bool | None = None


# What candidates that are trained as one model may be: learners whose outer step is the gradient of one loss, and
# no option with which a pass draws random numbers, adds terms of its own, or keeps weights beside its own.
_STACKED = ("prototypical", "matching", "siamese", "relation", "ridge", "svm", "cnaps", "pretrain")
_WITHOUT: dict[str, Scalar] = {
    "drop_rate": 0,
    "full_context": False,
    "mixing": "none",
    "rotation_weight": 0,
    "distillation_weight": 0,
    "contrastive_weight": 0,
    "covariance_weight": 0,
    "gradient_penalty": 0,
    "attack_epsilon": 0,
}


def is_stackable(values: Mapping[str, Scalar]) -> bool:
    """Whether candidates with these values but for continuous ones are worth being trained together.

    A worker finds out for sure, and trains alone what cannot be trained together.
    """
    options = {name.rpartition(".")[2]: value for name, value in values.items()}
    return (
        values.get("learner", "prototypical") in _STACKED
        and values.get("backbone") != "timm"
        and all(options.get(name, neutral) == neutral for name, neutral in _WITHOUT.items())
    )
