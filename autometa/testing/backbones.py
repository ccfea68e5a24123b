"""`check_backbone`: what autometa takes for granted of every backbone, checked on small random images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.normalization import MODES, Layout
from autometa.records import Scalar
from autometa.testing.trainings import (
    alike,
    check_bfloat16,
    check_resumes,
    check_stackable,
    largest_change,
    require,
)
from autometa.trial.abilities import declared
from autometa.trial.options import options_of

_TASKS, _SUPPORT, _QUERY = 2, 3, 2
_IMAGES = _TASKS * (_SUPPORT + _QUERY)
_LAYOUT = Layout(tasks=_TASKS, support=_SUPPORT)
_CHANGED = [4, 8, 9]  # all query images but the first of the first task
_KEPT = [0, 1, 2, 3, 5, 6, 7]


def check_backbone(kind: type[Backbone], /, *, image_shape: Shape = (2, 8, 8), **options: Scalar) -> None:
    """Check a backbone's class with these options. torch's global generator is left as it was.

    - `shape`: maps and features are as `map_shape` and `features` say, on torch's meta device and with real images.
    - `inductive`: features of an image do not change with the query images of its task or with other tasks, under
      every mode of normalisation but "transductive".
    - `batch_size`: a task has the same features alone as in a batch.
    - `evaluation`: nothing is drawn at random in evaluation mode.
    - `second_derivatives`: they exist for every weight and are finite, as MAML needs them.
    - `resumes`: 2 steps, a checkpoint and 2 more steps give the weights of 4 steps to the bit.
    - `bfloat16`: training in bfloat16 stays finite.
    - `stackable`: candidates train as one model as they do alone, where `stackable_with` is met.
    - `external`: as `own_weights_with` says.

    Args:
        kind: called with the shape of an image and the options, and with each `norm` if it has that option.
        image_shape: (channels, height, width).
        options: of the backbone; those left out keep their default. With `norm` only that mode is checked.

    Raises:
        AssertionError: one sentence that begins with the name of the check that failed.
    """
    says = declared(kind)
    who = f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    own: dict[str, Any] = dict(options)

    def make(norm: str | None = None) -> Backbone:
        return kind(image_shape, **({"norm": norm} if norm else {}) | own)

    def prototypical(setting: Setting) -> Learner:
        return Prototypical(make(), setting, learned_temperature=True)  # the one weight where a backbone has none

    given = str(options["norm"]) if "norm" in options else None
    modes: Sequence[str | None] = MODES if given is None and "norm" in options_of(kind) else [given]
    own_weights = says.meets(says.own_weights_with, options)
    stackable = says.meets(says.stackable_with, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        _check_shape(make, image_shape, who)
        for norm in modes:
            _check_features(make(norm), f"{who}, norm = {norm!r}," if norm else who, norm)
        _check_second_derivatives(make("support" if "support" in modes else None), who)
        sentence = f"{who} has external = {make().external}, and own_weights_with says something else"
        require(make().external is not own_weights, "external", sentence)
        check_resumes(prototypical, who)
        check_bfloat16(prototypical, who)
        check_stackable(prototypical, who, declared=stackable)


def _check_shape(make: Callable[[], Backbone], image_shape: Shape, who: str) -> None:
    for device in ("meta", "cpu"):
        with torch.device(device):
            backbone = make()
            images = torch.randn(3, *image_shape)
            maps, features = backbone.maps(images), backbone(images)
        for found, wanted in ((maps, (3, *backbone.map_shape)), (features, (3, backbone.features))):
            sentence = f"{who} gives {tuple(found.shape)} on {device}, and says {wanted}"
            require(tuple(found.shape) == wanted, "shape", sentence)
    require(bool(features.isfinite().all()), "shape", f"features of {who} are not finite")


@torch.no_grad()
def _check_features(backbone: Backbone, who: str, norm: str | None) -> None:
    backbone = backbone.double()
    images = torch.randn(_IMAGES, *backbone.image_shape, dtype=torch.float64)
    backbone(images, _LAYOUT)  # so that running statistics are not their initial ones
    backbone.eval()
    before = backbone(images, _LAYOUT)
    sentence = f"features of {who} differ between two passes"
    require(torch.equal(backbone(images, _LAYOUT), before), "evaluation", sentence)
    alone = torch.cat([backbone(part, Layout(tasks=1, support=_SUPPORT)) for part in images.chunk(_TASKS)])
    change = largest_change(alone, before)
    require(alike(alone, before), "batch_size", f"features of {who} change by {change} when a task is alone")
    after = backbone(_with_other_queries(images), _LAYOUT)
    require(not alike(after[_CHANGED], before[_CHANGED]), "inductive", f"features of {who} do not depend on the image")
    if norm != "transductive":
        change = largest_change(after[_KEPT], before[_KEPT])
        sentence = f"features that {who} gives an image change by {change} with other query images"
        require(alike(after[_KEPT], before[_KEPT]), "inductive", sentence)


def _with_other_queries(images: Tensor) -> Tensor:
    others = images.clone()
    others[_CHANGED] = torch.randn_like(others[_CHANGED])
    return others


def _check_second_derivatives(backbone: Backbone, who: str) -> None:
    backbone = backbone.double()
    weights = {name: p.detach().requires_grad_() for name, p in backbone.named_parameters()}
    images = torch.randn(4, *backbone.image_shape, dtype=torch.float64)
    features = functional_call(backbone, weights, (images, Layout(tasks=1, support=4)))
    if not weights:
        return
    try:
        first = torch.autograd.grad(features.square().mean(), list(weights.values()), create_graph=True)
        total = torch.stack([gradient.square().sum() for gradient in first]).sum()
        second = torch.autograd.grad(total, list(weights.values()))
    except RuntimeError as error:
        raise AssertionError(f"second_derivatives: {who} has none of a weight: {error}") from None
    for name, found in zip(weights, second, strict=True):
        sentence = f"those of {name} of {who} are not finite"
        require(bool(found.isfinite().all()), "second_derivatives", sentence)
