"""Candidates trained together are what they would be alone, whatever happens to their neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.errors import DivergedError, StackError
from autometa.learning import checkpoints
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.stacked.training import StackedTraining
from autometa.records import Budget, RungReport
from tests.learning.stacked.three import RUNGS, STEPS, assert_same, three

TEMPERATURES = (0.1, 0.3, 0.7)


def prototypical(backbone: Backbone, setting: Setting, number: int) -> Learner:
    return Prototypical(backbone, setting, temperature=TEMPERATURES[number])


def pretrain(backbone: Backbone, setting: Setting, number: int) -> Learner:
    return Pretrain(backbone, setting, batch_size=12)


def all_rungs(training: StackedTraining) -> None:
    for _ in training.rungs():
        pass


@pytest.mark.parametrize("make", [prototypical, pretrain])
@pytest.mark.parametrize("norm", ["running", "group", "none", "support", "per_step"])
def test_together_is_as_alone_step_by_step(digits: FewShotDataset, make: Any, norm: str) -> None:
    """A rung at every step, so that nothing can go apart and come together again."""
    budget = Budget(steps=STEPS, rungs=STEPS)
    alone, together = (three(digits, make, norm=norm, budget=budget) for _ in range(2))
    singles = [training.rungs() for training in alone]
    for reached in StackedTraining(together).rungs():
        assert reached.keys() == {0, 1, 2}
        for number, single in enumerate(singles):
            next(single)
            assert_same(together[number], alone[number])
    assert all(training.is_over for training in together)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimiser_does_torchs_arithmetic(digits: FewShotDataset, optimizer: str) -> None:
    alone, together = (three(digits, prototypical, optimizer=optimizer) for _ in range(2))
    all_rungs(StackedTraining(together))
    for single, other in zip(alone, together, strict=True):
        list(single.rungs())
        assert_same(other, single)


@pytest.mark.parametrize("make", [prototypical, pretrain])
def test_a_candidate_that_diverges_takes_nobody_with_it(digits: FewShotDataset, make: Any) -> None:
    alone, together = (three(digits, make, norm="none", optimizer="sgd") for _ in range(2))
    for trainings in (alone, together):
        options = vars(trainings[1].options)
        options["outer_lr"] = options["clip_norm"] = 1e200
    reached = list(StackedTraining(together).rungs())
    errors = [found[1] for found in reached if isinstance(found.get(1), DivergedError)]
    assert len(errors) == 1
    with pytest.raises(DivergedError) as error:
        list(alone[1].rungs())
    assert str(errors[0]) == str(error.value)
    for number in (0, 2):
        list(alone[number].rungs())
        assert_same(together[number], alone[number])


def test_all_may_diverge(digits: FewShotDataset) -> None:
    together = three(digits, prototypical, norm="none", optimizer="sgd", outer_lr=1e200, clip_norm=1e200)
    ends = [end for found in StackedTraining(together).rungs() for end in found.values()]
    assert len(ends) == 3
    assert all(isinstance(end, DivergedError) for end in ends)


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_a_candidate_that_is_stopped_leaves_the_others_as_they_are(digits: FewShotDataset, stopped: int) -> None:
    alone, together = (three(digits, prototypical) for _ in range(2))
    training = StackedTraining(together)
    for found in training.rungs():
        if together[stopped].curve[-1].rung == 1 and stopped in training.running:
            training.stop(stopped)
        assert all(isinstance(report, RungReport) for report in found.values())
    next(alone[stopped].rungs())
    for number in {0, 1, 2} - {stopped}:
        list(alone[number].rungs())
    for single, other in zip(alone, together, strict=True):
        assert_same(other, single)
    assert len(together[stopped].curve) == 1


def test_a_candidate_goes_on_alone_from_a_checkpoint_written_in_company(digits: FewShotDataset, tmp_path: Path) -> None:
    alone, together = (three(digits, pretrain) for _ in range(2))
    next(iter(StackedTraining(together).rungs()))
    for number, training in enumerate(together):
        checkpoints.save(tmp_path / str(number), training, extra={})
    resumed = three(digits, pretrain)
    for number, training in enumerate(resumed):
        checkpoints.load(tmp_path / str(number), training)
        list(training.rungs())
        list(alone[number].rungs())
        assert_same(training, alone[number])


def test_candidates_meet_again_where_checkpoints_left_them(digits: FewShotDataset) -> None:
    alone, together = (three(digits, prototypical, optimizer="sgd") for _ in range(2))
    for training in together:
        next(training.rungs())
    all_rungs(StackedTraining(together))
    for single, other in zip(alone, together, strict=True):
        list(single.rungs())
        assert_same(other, single)


def test_a_budget_in_operations_ends_at_the_same_step(digits: FewShotDataset) -> None:
    budget = Budget(steps=500, teraflops=2e-4, rungs=2)
    alone, together = (three(digits, prototypical, budget=budget) for _ in range(2))
    all_rungs(StackedTraining(together))
    for single, other in zip(alone, together, strict=True):
        list(single.rungs())
        assert 2 <= single.steps < 500
        assert_same(other, single)


def test_a_clock_runs_for_all(digits: FewShotDataset) -> None:
    together = three(digits, prototypical, budget=Budget(seconds=0.2, rungs=RUNGS))
    all_rungs(StackedTraining(together))
    assert {len(training.curve) for training in together} <= {1, 2, 3}
    assert len({(training.steps, training.state.seconds) for training in together}) == 1
    assert together[0].state.seconds >= 0.2


def test_what_draws_in_its_pass_is_trained_alone(digits: FewShotDataset) -> None:
    def dropping() -> Backbone:
        return ResNet12(digits.image_shape, width=4, drop_rate=0.3, drop_block=2)

    with pytest.raises(StackError, match="random"):
        all_rungs(StackedTraining(three(digits, prototypical, backbone=dropping)))


def mixing(backbone: Backbone, setting: Setting, number: int) -> Learner:
    return Pretrain(backbone, setting, mixing="mixup")


def with_teacher(backbone: Backbone, setting: Setting, number: int) -> Learner:
    return Pretrain(backbone, setting, distillation_weight=0.5)


@pytest.mark.parametrize("make", [mixing, with_teacher])
def test_what_cannot_be_done_for_many_at_once_says_so(digits: FewShotDataset, make: Any) -> None:
    with pytest.raises(StackError, match="cannot be done for many at once"):
        all_rungs(StackedTraining(three(digits, make)))


def test_candidates_that_cannot_be_one_model_are_refused(digits: FewShotDataset) -> None:
    def of_two_metrics(backbone: Backbone, setting: Setting, number: int) -> Learner:
        return Prototypical(backbone, setting, metric="cosine" if number else "euclidean")

    def of_two_widths() -> Backbone:
        return Conv(digits.image_shape, depth=2, width=4 + int(torch.initial_seed()) % 2)

    def maml(backbone: Backbone, setting: Setting, number: int) -> Learner:
        return Maml(backbone, setting)

    for refused, match in (
        (three(digits, of_two_metrics), "differ in metric"),
        (three(digits, prototypical, backbone=of_two_widths), "differ in backbone.* of shape"),
        (three(digits, maml), "Maml is not trained by the gradient of one loss"),
        ([*three(digits, prototypical)[:2], three(digits, prototypical, optimizer="sgd")[2]], "their optimiser"),
    ):
        with pytest.raises(StackError, match=match):
            StackedTraining(refused)
    ahead = three(digits, prototypical)
    next(ahead[0].rungs())
    with pytest.raises(StackError, match="not in step"):
        StackedTraining(ahead)
