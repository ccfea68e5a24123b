"""The one place where a name becomes an object: learners and backbones by the names a space may use.

To add a learner, write its file in `learning/learners/`, add its row here and name it in a search space.
Its keyword-only constructor arguments become options `NAME.OPTION` of the space.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from autometa.errors import ConfigError, SpaceError, did_you_mean
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.anil import Anil
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.training import TrainingOptions
from autometa.records import Scalar, TrialConfig
from autometa.space.parameters import Choice
from autometa.space.space import SearchSpace

LEARNERS: dict[str, type[Learner]] = {
    "prototypical": Prototypical,
    "maml": Maml,
    "anil": Anil,
    "pretrain": Pretrain,
}

BACKBONES: dict[str, type[nn.Module]] = {
    "conv": Conv,
    "resnet12": ResNet12,
}


@dataclass(frozen=True)
class Sampling:
    """How training episodes are drawn. `train_way` 0 means the way of the evaluation episodes."""

    episodes_per_step: int = 4
    train_way: int = 0
    augment: str = "none"


_CHOSEN_BY_NAME: dict[str, Mapping[str, type]] = {"learner": LEARNERS, "backbone": BACKBONES}
# Options of every backbone, without its name; `maml.norm` is what the backbone gets under that learner.
_OF_BACKBONES = ("norm",)


def build_learner(config: TrialConfig, *, image_shape: tuple[int, int, int], setting: Setting) -> Learner:
    """The learner a configuration describes, with fresh weights from torch's global generator.

    Raises:
        ConfigError: an unknown name or option, or a value that the option does not take.
    """
    backbone = _build(BACKBONES, "backbone", config, image_shape)
    learner: Learner = _build(LEARNERS, "learner", config, backbone, setting)
    return learner


def training_options(config: TrialConfig) -> TrainingOptions:
    """Optimiser and schedule of a configuration; what it leaves out keeps its default."""
    return TrainingOptions(**_plain_options(TrainingOptions, config))


def sampling(config: TrialConfig) -> Sampling:
    """How training episodes are drawn; what the configuration leaves out keeps its default."""
    return Sampling(**_plain_options(Sampling, config))


def check_config(config: TrialConfig, *, where: str = "config") -> None:
    """Raise `ConfigError` where the configuration has a name that means nothing here."""
    known = _common_names()
    for kind, table in _CHOSEN_BY_NAME.items():
        chosen = config.values.get(kind, next(iter(table)))
        if chosen not in table:
            raise ConfigError(f"{where}: unknown {kind} {chosen!r}; {did_you_mean(str(chosen), table)}")
        known |= _dotted_names(str(chosen), table[str(chosen)])
    for name in config.values:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} means nothing here; {did_you_mean(name, known)}")


def check_space(space: SearchSpace) -> None:
    """Raise `SpaceError` when a parameter's name, or a learner or backbone it chooses, does not exist."""
    known = _common_names()
    for table in _CHOSEN_BY_NAME.values():
        known |= {dotted for name, kind in table.items() for dotted in _dotted_names(name, kind)}
    for parameter in space:
        if parameter.name not in known:
            hint = did_you_mean(parameter.name, known)
            raise SpaceError(f"{space.source}: {parameter.name!r} is not an option of any learner or backbone; {hint}")
        if parameter.name in _CHOSEN_BY_NAME and isinstance(parameter, Choice):
            _check_choices(space, parameter, _CHOSEN_BY_NAME[parameter.name])


def _check_choices(space: SearchSpace, parameter: Choice, table: Mapping[str, type]) -> None:
    for choice in parameter.choices:
        if choice not in table:
            hint = did_you_mean(str(choice), table)
            raise SpaceError(f"{space.source}: unknown {parameter.name} {choice!r}; {hint}")


def _build(table: Mapping[str, Callable[..., Any]], kind: str, config: TrialConfig, *needs: Any) -> Any:
    name = str(config.values.get(kind, next(iter(table))))
    if name not in table:
        raise ConfigError(f"unknown {kind} {name!r}; {did_you_mean(name, table)}")
    options = {k: v for k, v in config.options(name).items() if kind != "learner" or k not in _OF_BACKBONES}
    if kind == "backbone":
        options = _of_backbones(config) | options
    for option in options:
        if option not in _options(table[name]):
            raise ConfigError(f"{name} has no option {option!r}; {did_you_mean(option, _options(table[name]))}")
    return table[name](*needs, **options)


def _of_backbones(config: TrialConfig) -> dict[str, Scalar]:
    learner = config.values.get("learner", next(iter(LEARNERS)))
    found = {k: config.values.get(f"{learner}.{k}", config.values.get(k)) for k in _OF_BACKBONES}
    return {k: v for k, v in found.items() if v is not None}


def _options(kind: Callable[..., Any]) -> list[str]:
    """The keyword-only arguments of a constructor."""
    signature = inspect.signature(kind)
    return [name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]


def _common_names() -> set[str]:
    """Names that mean something whatever the learner and the backbone."""
    return {*_CHOSEN_BY_NAME, *_OF_BACKBONES, *_names(TrainingOptions), *_names(Sampling)}


def _dotted_names(name: str, kind: type) -> set[str]:
    """Names that belong to one learner or backbone."""
    return {f"{name}.{option}" for option in (*_options(kind), *_OF_BACKBONES)}


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _plain_options(kind: type, config: TrialConfig) -> dict[str, Any]:
    options: dict[str, Scalar] = {k: v for k, v in config.values.items() if k in _names(kind)}
    return options
