"""Checks of a whole training, for learners and backbones alike: resumed, in bfloat16, and stacked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from autometa.errors import CheckpointError, DivergedError, StackError
from autometa.learning import checkpoints
from autometa.learning.evaluation import evaluate
from autometa.learning.learner import Learner, Setting
from autometa.learning.stacked.training import StackedTraining
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget
from autometa.testing.example_data import SPEC, TRAIN_CLASSES, InDouble, training_source, validation_episodes

SETTING = Setting(way=SPEC.way, train_classes=TRAIN_CLASSES)
MakeLearner = Callable[[Setting], Learner]

_STEPS, _RUNGS = 4, 2
_SEED = 11
_STACKED_TOLERANCE = 1e-7  # of weights in float64; what is solved by iteration differs by some 1e-8


def require(holds: bool, check: str, sentence: str) -> None:
    """Raise an `AssertionError` of one sentence that begins with the check's name, unless it holds."""
    if not holds:
        raise AssertionError(f"{check}: {sentence}")


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results in float64 are the same but for rounding, and finite."""
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-8, atol=1e-9)


def largest_change(found: Tensor, expected: Tensor) -> str:
    """How far two results of one shape are apart, for a message."""
    return f"{float((found - expected).abs().max()):.2g}"


def training(
    make: MakeLearner, options: TrainingOptions | None = None, *, seed: int = _SEED, double: bool = False
) -> Training:
    """Four steps with two rungs on the example data. The same seed gives the same training.

    Args:
        double: weights and images in float64.
    """
    torch.manual_seed(seed)
    learner = make(SETTING)
    generator = torch.Generator().manual_seed(seed)
    source = training_source(learner.backbone.image_shape, generator)
    return Training(
        learner.double() if double else learner,
        InDouble(source) if double else source,
        options=options or TrainingOptions(outer_lr=0.01),
        budget=Budget(steps=_STEPS, rungs=_RUNGS),
        validate=lambda training, _: _validated(training.learner),
        generator=generator,
    )


def trained(make: MakeLearner) -> Learner:
    """A learner in float64 after two steps, in evaluation mode."""
    begun = training(make, double=True)
    next(begun.rungs())
    return begun.learner.eval()


def _validated(learner: Learner) -> Accuracy:
    dtype = next(learner.parameters()).dtype
    episodes = validation_episodes(learner.backbone.image_shape)
    return evaluate(learner, [episodes.to("cpu", dtype)], seed=5)


def check_resumes(make: MakeLearner, who: str) -> None:
    """Two steps, a checkpoint and two more steps give the weights of four steps to the bit."""
    straight = training(make)
    list(straight.rungs())
    first = training(make)
    next(first.rungs())
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder), first, extra={})
        second = training(make)  # which seeds torch's global generator; the checkpoint brings back its state
        try:
            checkpoints.load(Path(folder), second)
        except CheckpointError as error:
            raise AssertionError(f"resumes: a checkpoint of {who} cannot be loaded: {error}") from None
    list(second.rungs())
    resumed = second.learner.state_dict()
    for name, expected in straight.learner.state_dict().items():
        require(
            torch.equal(resumed[name], expected),
            "resumes",
            f"{name} of {who} is not the same to the bit after 2 steps, a checkpoint and 2 steps as after 4 steps",
        )


def check_bfloat16(make: MakeLearner, who: str) -> None:
    """Training whose backbone runs in bfloat16 stays finite, and leaves weights in float32."""
    rough = training(make, TrainingOptions(bfloat16=True))
    try:
        list(rough.rungs())
    except DivergedError as error:
        raise AssertionError(f"bfloat16: the training of {who} diverged: {error}") from None
    for name, parameter in rough.learner.named_parameters():
        require(bool(parameter.isfinite().all()), "bfloat16", f"{name} of {who} is not finite after {_STEPS} steps")
        require(parameter.dtype == torch.float32, "bfloat16", f"{name} of {who} has become {parameter.dtype}")
    episodes = validation_episodes(rough.learner.backbone.image_shape)
    with torch.no_grad():
        scores = rough.learner.eval().query_logits(episodes)
    require(bool(scores.isfinite().all()), "bfloat16", f"scores of {who} are not finite after {_STEPS} steps")


def check_stackable(make: MakeLearner, who: str, *, declared: bool) -> None:
    """Two candidates that are trained as one model end as they do alone, or it is refused where nothing is declared."""
    together = _two(make)
    try:
        for _ in StackedTraining(together).rungs():
            pass
    except StackError as error:
        require(not declared, "stackable", f"{who} declares that candidates train as one model, but {error}")
        return
    for alone, stacked in zip(_two(make), together, strict=True):
        list(alone.rungs())
        found = stacked.learner.state_dict()
        for name, expected in alone.learner.state_dict().items():
            require(
                torch.allclose(found[name], expected, rtol=0, atol=_STACKED_TOLERANCE),
                "stackable",
                f"{name} of {who}, trained as one model with another candidate, is not what it is trained alone",
            )


def _two(make: MakeLearner) -> list[Training]:
    """Candidates that differ in all they may."""
    options = [
        TrainingOptions(outer_lr=0.001, clip_norm=10.0),
        TrainingOptions(outer_lr=0.01, weight_decay=0.01, clip_norm=0.1, schedule="constant"),
    ]
    return [training(make, each, seed=_SEED + number, double=True) for number, each in enumerate(options)]
