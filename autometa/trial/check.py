"""Whether a configuration or a whole space means something here: found when it is read, not in a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

import torch

from autometa.errors import ConfigError, SpaceError, did_you_mean
from autometa.learning.augment import make_augment
from autometa.learning.backbones.backbone import Shape
from autometa.learning.training import optimizer_for
from autometa.records import Scalar, TrialConfig, checked
from autometa.space.parameters import Choice, Parameter, Range
from autometa.space.space import SearchSpace
from autometa.trial import build
from autometa.trial.withdrawn import WITHDRAWN

_USUAL_IMAGE = (3, 32, 32)


def check_config(config: TrialConfig, *, where: str = "config") -> None:
    """Raise `ConfigError` where a name of the configuration means nothing here, or has a value of the wrong kind."""
    known = _common_names()
    for kind in build.tables():
        try:
            name = build.chosen(kind, config)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        known |= _dotted_names(name, build.tables()[kind][name])
    for name in config.values:
        if name not in known:
            raise ConfigError(f"{where}: {name!r} means nothing here; {did_you_mean(name, known)}")
    try:
        _check_kinds(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_kinds(config: TrialConfig) -> None:
    for common in build.COMMON:
        build.plain_options(common, config)
    for kind, table in build.tables().items():
        name = build.chosen(kind, config)
        build.check_kinds(config.options(name), table[name], f"{name}.")


def check_space(space: SearchSpace, image_shape: Shape = _USUAL_IMAGE) -> None:
    """Raise `SpaceError` when a name means nothing, or when parts do not fit together or the images.

    Every value of every choice and both ends of every range are built once, without memory for weights.
    """
    _check_names(space)
    for values in (*space.start, *cases(space)):
        try:
            _build_without_memory(checked(TrialConfig, {"values": dict(values)}, where="values"), image_shape)
        except ConfigError as error:
            raise SpaceError(f"{space.source}: {error} (with {_in_words(values)})") from None


def cases(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """Configurations that together show each value of each choice, and both ends of each range."""
    for parameter in space:
        for value in telling_values(parameter):
            yield space.suggest(_Forced({parameter.name: value, **_ancestors(space, parameter)}))


def _check_names(space: SearchSpace) -> None:
    known = _common_names()
    for table in build.tables().values():
        known |= {dotted for name, kind in table.items() for dotted in _dotted_names(name, kind)}
    for parameter in space:
        if parameter.name not in known:
            hint = did_you_mean(parameter.name, known)
            raise SpaceError(f"{space.source}: {parameter.name!r} is not an option of any learner or backbone; {hint}")
        if parameter.name in build.tables() and isinstance(parameter, Choice):
            _check_choices(space, parameter, build.tables()[parameter.name])


def _check_choices(space: SearchSpace, parameter: Choice, table: Mapping[str, type]) -> None:
    for choice in parameter.choices:
        if choice not in table:
            hint = did_you_mean(str(choice), table)
            raise SpaceError(f"{space.source}: unknown {parameter.name} {choice!r}; {hint}")


def _build_without_memory(config: TrialConfig, image_shape: Shape) -> None:
    with torch.device("meta"):
        setting = build.setting_of(config, way=5, train_classes=64)
        learner = build.build_learner(config, image_shape=image_shape, setting=setting)
        optimizer_for(build.training_options(config), learner.parameters())
    build.objective_options(config)
    make_augment(build.sampling(config).augment)


def _ancestors(space: SearchSpace, parameter: Parameter) -> dict[str, Scalar]:
    """Values of the parameters it depends on, however indirectly, that make it active."""
    found: dict[str, Scalar] = {}
    for parent, allowed in parameter.when.items():
        found |= {parent: allowed[0], **_ancestors(space, space[parent])}
    return found


def telling_values(parameter: Parameter) -> tuple[Scalar, ...]:
    """Every choice, or both ends of a range."""
    if isinstance(parameter, Choice):
        return parameter.choices
    assert isinstance(parameter, Range)
    return (parameter.low, parameter.high) if not parameter.integer else (int(parameter.low), int(parameter.high))


class _Forced:
    """Suggests the values it was given, and for everything else the first choice or the low end."""

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self._values = values

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Scalar:
        return self._values.get(name, choices[0])

    def suggest_int(self, name: str, low: int, high: int, **_: object) -> Scalar:
        return self._values.get(name, low)

    def suggest_float(self, name: str, low: float, high: float, **_: object) -> Scalar:
        return self._values.get(name, low)


def _common_names() -> set[str]:
    """Names that mean something whatever the learner and the backbone."""
    options = {field.name for kind in build.COMMON for field in fields(kind)}
    return {*build.tables(), *build.OF_BACKBONES, *options, *WITHDRAWN}


def _dotted_names(name: str, kind: type) -> set[str]:
    """Names that belong to one learner or backbone."""
    return {f"{name}.{option}" for option in (*build.options_of(kind), *build.OF_BACKBONES)}


def _in_words(values: Mapping[str, Scalar]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())
