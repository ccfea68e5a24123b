"""What learners and backbones declare of themselves, as far as a driver without torch can know it.

A class declares in attributes (`stackable_with`, `inductive_with`, `class_order_invariant_with`, `own_weights_with`:
see `Learner` and `Backbone`). `autometa.testing` checks that what it declares is true.
`abilities.json` is the driver's copy of what the classes of this package declare: `python -m autometa.trial.declare`
writes it, and a test compares it. A class of another package is asked itself. That loads torch, as the check of a space
with that class does anyway.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from autometa.errors import ConfigError
from autometa.records import Scalar
from autometa.space.parameters import Parameter
from autometa.space.space import SearchSpace

FILE = Path(__file__).with_name("abilities.json")
Condition = Mapping[str, Scalar]


@dataclass(frozen=True)
class Abilities:
    """Conditions on a class's own options: each option with the one value that meets it. None is never met.

    Attributes:
        stackable_with: candidates can be trained as one model.
        inductive_with: no query image influences the prediction for another.
        class_order_invariant_with: permuted class labels give permuted scores.
        own_weights_with: no weights were trained elsewhere.
        backbone_name: of a learner's backbone where a configuration names none; empty for the first of the table.
        defaults: of the options in these conditions, where that is another value.
    """

    stackable_with: Condition | None = None
    inductive_with: Condition = field(default_factory=dict)
    class_order_invariant_with: Condition | None = field(default_factory=dict)
    own_weights_with: Condition | None = field(default_factory=dict)
    defaults: Condition = field(default_factory=dict)
    backbone_name: str = ""

    def meets(self, condition: Condition | None, options: Mapping[str, Scalar]) -> bool:
        """Whether options given, or their defaults, meet a condition."""
        if condition is None:
            return False
        return all(options.get(name, self.defaults.get(name, value)) == value for name, value in condition.items())


def declared(kind: type) -> Abilities:
    """What a class declares, without conditions on options that it does not have."""
    parameters = inspect.signature(kind).parameters

    def condition(name: str) -> Condition | None:
        found: Condition | None = getattr(kind, name, {})
        return found and {option: value for option, value in found.items() if option in parameters}

    names = ("stackable_with", "inductive_with", "class_order_invariant_with", "own_weights_with")
    stackable, inductive, invariant, own_weights = map(condition, names)
    if getattr(kind, "external", False) is True:  # whatever its options are
        own_weights = None
    conditions = {**(stackable or {}), **(inductive or {}), **(invariant or {}), **(own_weights or {})}
    others = {name: parameters[name].default for name, value in conditions.items() if parameters[name].default != value}
    return Abilities(stackable, inductive or {}, invariant, own_weights, others, getattr(kind, "backbone_name", ""))


@functools.cache
def of(kind: str, name: Scalar) -> Abilities:
    """Abilities of the "learner" or "backbone" of this name; none of one that no installed package has."""
    if any(name in table for table in _shipped().values()):
        return _shipped()[kind].get(name, Abilities())
    if name not in _names_of_others():
        return Abilities()
    from autometa.trial import build  # loads torch

    try:
        return declared(build.tables()[kind][str(name)])
    except (ConfigError, KeyError):  # where it is to be trained, that is an error
        return Abilities()


@functools.cache
def _shipped() -> Mapping[str, Mapping[Scalar, Abilities]]:
    tables: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {kind: {name: Abilities(**says) for name, says in table.items()} for kind, table in tables.items()}


@functools.cache
def _names_of_others() -> frozenset[str]:
    groups = ("autometa.learners", "autometa.backbones")
    return frozenset(point.name for group in groups for point in entry_points(group=group))


def is_transductive(name: str, value: Scalar) -> bool:
    """Whether this value of this option lets query images influence each other's predictions."""
    prefix, _, option = name.rpartition(".")
    if option == "norm":  # of any backbone; its mode of this name is the only one that mixes query images
        return value == "transductive"
    return bool(prefix) and of("learner", prefix).inductive_with.get(option, value) != value


def is_external(values: Mapping[str, Scalar]) -> bool:
    """Whether a configuration uses weights trained elsewhere, which may have seen the test classes by other names."""
    backbone, options = _part("backbone", values)
    return not backbone.meets(backbone.own_weights_with, options)


def external_backbones(space: SearchSpace) -> list[Scalar]:
    """The backbones of a space with which a configuration of it may be external."""
    by_name = {parameter.name: parameter for parameter in space}
    backbones = [*getattr(by_name.get("backbone"), "choices", ())]
    learners = getattr(by_name.get("learner"), "choices", ())
    backbones += [name for learner in learners if (name := of("learner", learner).backbone_name)]
    return [name for name in dict.fromkeys(backbones) if not _has_always_own_weights(name, by_name)]


def _has_always_own_weights(backbone: Scalar, by_name: Mapping[str, Parameter]) -> bool:
    abilities = of("backbone", backbone)
    return abilities.own_weights_with is not None and all(
        _is_always(by_name.get(f"{backbone}.{option}"), value, abilities.defaults.get(option, value))
        for option, value in abilities.own_weights_with.items()
    )


def _is_always(parameter: Parameter | None, value: Scalar, default: Scalar) -> bool:
    """Whether an option has this value in each configuration of its backbone."""
    if parameter is None:
        return default == value
    is_always_there = set(parameter.when) <= {"backbone"}
    return (is_always_there or default == value) and getattr(parameter, "choices", ()) == (value,)


def marks(values: Mapping[str, Scalar], facts: Mapping[str, Scalar] | None = None) -> tuple[str, ...]:
    """What keeps a candidate's accuracy from being compared with that of others: transductive, external.

    Args:
        facts: of its trial, where that is known: a learner or backbone of another package says there what it is.
    """
    found = {"transductive": any(is_transductive(*item) for item in values.items()), "external": is_external(values)}
    return tuple(mark for mark, holds in found.items() if holds or (facts or {}).get(mark))


def is_stackable(values: Mapping[str, Scalar]) -> bool:
    """Whether candidates with these values but for continuous ones are worth being trained together.

    A worker finds out for sure, and trains alone what cannot be trained together.
    """
    parts = [_part("learner", values), _part("backbone", values)]
    parts += [(common, values) for common in _shipped()["common"].values()]
    return all(abilities.meets(abilities.stackable_with, options) for abilities, options in parts)


def _part(kind: str, values: Mapping[str, Scalar]) -> tuple[Abilities, Mapping[str, Scalar]]:
    """Abilities and own options of a configuration's learner or backbone, by default the first of the table."""
    usual: Scalar = next(iter(_shipped()[kind]))
    if kind == "backbone":
        usual = _part("learner", values)[0].backbone_name or usual
    name = values.get(kind, usual)
    start = f"{name}."
    return of(kind, name), {k.removeprefix(start): value for k, value in values.items() if k.startswith(start)}
