"""What a worker needs to run one trial, as plain data that travels to another process as JSON.

Knows no torch, so a driver that only hands out jobs starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from autometa.records import LARGEST_SEED, Budget, DataIdentity, EpisodeSpec, Record, Scalar, TrialConfig
from autometa.space.parameters import Parameter
from autometa.space.space import SearchSpace


class DatasetRef(Record):
    """How any process finds a data set: its name or folder, where archives may lie, and what is left out of it.

    What is found there must be the data of this `identity`, where one is known; the place may differ.
    """

    name: str
    root: str | None = None
    image_size: int | None = None
    seed: int = 0
    skip_unreadable: bool = False
    identity: DataIdentity | None = None


def is_transductive(name: str, value: Scalar) -> bool:
    """Whether this value of this option lets query images influence each other's predictions."""
    option = name.rpartition(".")[2]
    return (option == "norm" and value == "transductive") or (option == "transduction" and value != "none")


# Backbones that come with weights trained elsewhere: the option that says which, its default, and its value for none.
_EXTERNAL: dict[Scalar, tuple[str, Scalar, Scalar]] = {"timm": ("timm.weights", "hub", "none")}


def is_external(values: Mapping[str, Scalar]) -> bool:
    """Whether a configuration uses weights trained elsewhere, which may have seen the test classes by other names."""
    option, default, without = _EXTERNAL.get(values.get("backbone", ""), ("", "", ""))
    return values.get(option, default) != without


def external_backbones(space: SearchSpace) -> list[Scalar]:
    """The backbones of a space with which a configuration of it may be external."""
    by_name = {parameter.name: parameter for parameter in space}
    backbones = getattr(by_name.get("backbone"), "choices", ())
    return [name for name in backbones if name in _EXTERNAL and not _is_without(by_name, *_EXTERNAL[name])]


def _is_without(by_name: Mapping[str, Parameter], option: str, default: Scalar, without: Scalar) -> bool:
    """Whether the option is there with each configuration of its backbone, and never has another value."""
    weights = by_name.get(option)
    return weights is not None and set(weights.when) <= {"backbone"} and getattr(weights, "choices", ()) == (without,)


def marks(values: Mapping[str, Scalar], facts: Mapping[str, Scalar] | None = None) -> tuple[str, ...]:
    """What keeps a candidate's accuracy from being compared with that of others: transductive, external.

    Args:
        facts: of its trial, where that is known: a learner or backbone of another package says there what it is.
    """
    found = {"transductive": any(is_transductive(*item) for item in values.items()), "external": is_external(values)}
    return tuple(mark for mark, holds in found.items() if holds or (facts or {}).get(mark))


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
