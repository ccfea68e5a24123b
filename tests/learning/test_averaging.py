"""Averaged weights: the average that is meant, over about the last part of all steps, and its copy on disk."""

from __future__ import annotations

import torch

from autometa.learning.averaging import AveragedWeights
from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from tests.learning.small import SETTING


def averaged(window: float, steps: int) -> float:
    """What becomes of a weight that is n after step n."""
    learner = Prototypical(Conv((1, 8, 8), depth=1, width=2, norm="running"), SETTING)
    average = AveragedWeights(learner, window)
    parameter = next(learner.parameters())
    for step in range(1, steps + 1):
        with torch.no_grad():
            parameter.fill_(float(step))
        average.update(learner)
    assert average.steps == steps
    return next(average.learner.parameters()).flatten()[0].item()


def test_the_first_step_counts_alone_and_others_as_shamir_and_zhang_have_it() -> None:
    assert averaged(8.0, 1) == 1.0
    expected = 0.0
    for step in range(1, 41):
        share = 9 / (step + 8)
        expected += share * (step - expected)
    assert abs(averaged(8.0, 40) - expected) < 1e-4


def test_the_average_lags_by_about_a_part_of_all_steps_however_many_there_are() -> None:
    for steps in (100, 1000):
        assert 0.85 < averaged(8.0, steps) / steps < 0.95
        assert 0.92 < averaged(16.0, steps) / steps < 0.97


def test_statistics_are_averaged_and_counters_are_not() -> None:
    learner = Pretrain(Conv((1, 8, 8), depth=1, width=2, norm="running"), SETTING, rotation_weight=0.5)
    average = AveragedWeights(learner, 8.0)
    for step in range(1, 4):
        for name, buffer in learner.named_buffers():
            buffer.fill_(step if name == "outer_steps" else float(step))
        average.update(learner)
    buffers = dict(average.learner.named_buffers())
    assert int(buffers["outer_steps"]) == 3
    means = [buffer for name, buffer in buffers.items() if "running_mean" in name]
    assert means
    assert all(1.0 < float(mean.flatten()[0]) < 3.0 for mean in means)


def test_nothing_is_shared_with_the_learner() -> None:
    learner = Prototypical(Conv((1, 8, 8), depth=1, width=2, norm="running"), SETTING)
    average = AveragedWeights(learner, 8.0)
    average.update(learner)
    before = {name: tensor.clone() for name, tensor in average.learner.state_dict().items()}
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.learner.state_dict().items())
