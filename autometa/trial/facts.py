"""What there is to know of a candidate beside its curve: its size, its operations, and what a frozen network costs."""

from __future__ import annotations

import torch

from autometa.learning.features import seconds_per_image
from autometa.learning.learner import Learner
from autometa.learning.operations import operations_counter
from autometa.learning.training import Training
from autometa.records import Scalar
from autometa.trial.validation import Validation

_PASSED = 2  # blank images, whose operations are counted: one has no batch statistics


def facts_of(training: Training) -> dict[str, Scalar]:
    """What there is to know of a candidate beside its curve."""
    assert isinstance(training.validate, Validation)
    return _facts(training.learner, training.validate.dataset.image_shape)


def _facts(learner: Learner, image_shape: tuple[int, int, int]) -> dict[str, Scalar]:
    """Whether it is transductive or external, its size, and the operations of one image's way through the backbone."""
    parameters = sum(p.numel() for p in learner.parameters())
    return {
        "transductive": learner.transductive,
        "external": learner.backbone.external,
        **({"weights": learner.backbone.source} if learner.backbone.source else {}),
        **_features(learner),
        "parameters": parameters,
        "flops": forward_flops(learner, image_shape),
    }


def _features(learner: Learner) -> dict[str, str | float]:
    """Of a frozen network, whose features are computed once: its key, and how long it takes for an image here."""
    for key, seconds in seconds_per_image(learner).items():
        return {"features": key, "image_seconds": seconds}
    return {}


def forward_flops(learner: Learner, image_shape: tuple[int, int, int]) -> int:
    """Floating-point operations of the backbone for one image, forward only."""
    with operations_counter() as counter:
        pass_blank(learner, image_shape, _PASSED)
    return int(counter.get_total_flops()) // _PASSED


def pass_blank(learner: Learner, image_shape: tuple[int, int, int], count: int) -> None:
    """Send so many blank images through the backbone as in an evaluation, to see what that takes."""
    backbone = learner.backbone
    was_training = backbone.training
    images = torch.zeros(count, *image_shape, device=next(learner.parameters()).device)
    with torch.no_grad():
        backbone.eval()(images)
    backbone.train(was_training)
