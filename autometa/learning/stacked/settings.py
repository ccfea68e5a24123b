"""What learners of one architecture may differ in beside their weights: numbers among their settings.

A number in which they differ becomes a tensor, one value a candidate, and stands in the number's place while
a pass is computed for all of them. Any other difference is refused, also one inside an object that does not
say what it is made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autometa.errors import StackError
from autometa.learning.learner import Learner

# What `nn.Module` itself keeps among a module's attributes.
_OF_MODULES = frozenset(vars(nn.Module()))
_SETTING = "setting"
_TOLD = "progress"  # before each step, the same to all


def differing(learners: Sequence[Learner]) -> dict[str, Tensor]:
    """The numbers in which the learners differ, [G] each, by the attribute's dotted name.

    Raises:
        StackError: they differ in something else.
    """
    each = [dict(_facts(learner)) for learner in learners]
    like = next(learners[0].parameters())
    found = {}
    for name, value in each[0].items():
        values = [facts.get(name) for facts in each]
        if all(_same(value, other) for other in values):
            continue
        if not all(type(other) is float for other in values):
            raise StackError(f"the candidates differ in {name.lstrip('.')}")
        found[name] = torch.tensor(values, dtype=like.dtype, device=like.device)
    return found


@contextmanager
def applied(learner: Learner, values: Mapping[str, Any]) -> Iterator[None]:
    """These attributes in place of the learner's own for the length of a `with` block."""
    before = {name: _swapped(learner, name, value) for name, value in values.items()}
    try:
        yield
    finally:
        for name, value in before.items():
            _swapped(learner, name, value)


def _facts(learner: Learner) -> Iterator[tuple[str, Any]]:
    """All that decides what a learner computes, beside the values of its parameters and buffers."""
    for name, parameter in learner.named_parameters():
        yield f"{name} of shape", (parameter.shape, parameter.requires_grad)
    for path, module in learner.named_modules():
        yield f"the kind of {path}", type(module)
        for name, value in vars(module).items():
            if name not in _OF_MODULES and name not in (_SETTING, _TOLD):
                yield f"{path}.{name}", value
    for field in dataclasses.fields(learner.setting):
        yield f"{_SETTING}.{field.name}", getattr(learner.setting, field.name)


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    try:
        return type(a) is type(b) and bool(a == b)
    except RuntimeError:  # a list of tensors has no equality
        return False


def _swapped(learner: Learner, name: str, value: Any) -> Any:
    """Write an attribute; returns what was there."""
    path, _, attribute = name.rpartition(".")
    if path == _SETTING:
        before = getattr(learner.setting, attribute)
        learner.setting = dataclasses.replace(learner.setting, **{attribute: value})
        return before
    module = learner.get_submodule(path)
    before = getattr(module, attribute)
    setattr(module, attribute, value)
    return before
