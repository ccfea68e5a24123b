"""Three candidates of one architecture that differ in whatever they may, each as a `Training` of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.learning.augment import crop_flip
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.evaluation import evaluate
from autometa.learning.learner import Learner, Setting
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec
from autometa.testing.example_data import InDouble

SPEC = EpisodeSpec(way=3, shot=2, query=3)
TRAIN_CLASSES = 24
RATES, DECAYS, LENGTHS, SMOOTHINGS = (1e-3, 1e-2, 4e-3), (0.0, 1e-3, 1e-2), (10.0, 0.1, 1.0), (0.0, 0.1, 0.2)
SCHEDULES = ("cosine", "constant", "step")
STEPS, RUNGS = 9, 3

MakeLearner = Callable[[Backbone, Setting, int], Learner]


def three(
    data: FewShotDataset,
    make: MakeLearner,
    *,
    norm: str = "running",
    backbone: Callable[[], Backbone] | None = None,
    budget: Budget | None = None,
    **options: Any,
) -> list[Training]:
    """In float64; `make` gets a backbone, a setting and the candidate's number."""
    return [_one(data, make, number, norm, backbone, budget, options) for number in range(3)]


def _one(
    data: FewShotDataset,
    make: MakeLearner,
    number: int,
    norm: str,
    backbone: Callable[[], Backbone] | None,
    budget: Budget | None,
    options: dict[str, Any],
) -> Training:
    torch.manual_seed(31 + number)
    generator = torch.Generator().manual_seed(51 + number)
    base = backbone() if backbone else Conv(data.image_shape, depth=2, width=8, norm=norm)
    learner = make(base, Setting(SPEC.way, TRAIN_CLASSES, SMOOTHINGS[number]), number).double()
    own = {
        "outer_lr": RATES[number],
        "weight_decay": DECAYS[number],
        "clip_norm": LENGTHS[number],
        "schedule": SCHEDULES[number],
    }
    return Training(
        learner,
        InDouble(EpisodeSampler(ImagePool(data, "train"), SPEC, batch=2, generator=generator, augment=crop_flip)),
        options=TrainingOptions(**(own | options)),
        budget=budget or Budget(steps=STEPS, rungs=RUNGS),
        validate=lambda training, _: validated(data, training.learner),
        generator=generator,
    )


def validated(data: FewShotDataset, learner: Learner) -> Accuracy:
    batches = fixed_episodes(ImagePool(data, "val"), SPEC, count=12, seed=5, batch=6)
    return evaluate(learner, (batch.to("cpu", torch.float64) for batch in batches), seed=5)


def assert_same(found: Training, expected: Training, tolerance: float = 1e-9) -> None:
    """Weights, buffers, the optimiser's state and the curve, but for its seconds."""
    assert found.steps == expected.steps
    curves = [[(r.rung, r.steps, r.accuracy) for r in training.curve] for training in (found, expected)]
    assert curves[0] == curves[1]
    for name, tensor in expected.learner.state_dict().items():
        other = found.learner.state_dict()[name]
        torch.testing.assert_close(other, tensor, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
    ours, theirs = (training.optimizer.state_dict()["state"] for training in (found, expected))
    assert ours.keys() == theirs.keys()
    for index, state in theirs.items():
        assert ours[index].keys() == state.keys()
        for name, tensor in state.items():
            torch.testing.assert_close(ours[index][name], tensor, rtol=0, atol=tolerance)
