"""Every learner and backbone, trained together, is what it is alone; or says that it has to be alone."""

from __future__ import annotations

from typing import Any

import pytest

from autometa.data.dataset import FewShotDataset
from autometa.errors import StackError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.blocks import Blocks
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.resnet18 import ResNet18
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.learner import Learner, LossLearner, Setting
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.stacked.training import StackedTraining
from tests.learning.stacked.three import assert_same, three
from tests.learning.test_learners import LEARNERS

# These draw random numbers in their pass (label embeddings, mixtures, rotations) or differentiate in it, and an
# LSTM keeps a second list of its weights.
ALONE = {"Reader", "MetaNetworks", "full_context", "mixing", "rotation_weight", "distillation_weight"}


@pytest.mark.parametrize(("kind", "options"), LEARNERS, ids=str)
def test_a_learner_together_is_as_alone(digits: FewShotDataset, kind: type[Learner], options: dict[str, Any]) -> None:
    def make(backbone: Backbone, setting: Setting, number: int) -> Learner:
        return kind(backbone, setting, **options)

    def train() -> list[Any]:
        together = three(digits, make)
        for _ in StackedTraining(together).rungs():
            pass
        return together

    drawn = {kind.__name__, *(name for name, value in options.items() if value)} & ALONE
    if drawn or not issubclass(kind, LossLearner):
        with pytest.raises(StackError):
            train()
        return
    for single, other in zip(three(digits, make), train(), strict=True):
        list(single.rungs())
        assert_same(other, single, tolerance=1e-7)


BACKBONES = {
    "resnet12": lambda shape: ResNet12(shape, width=4),
    "resnet18": lambda shape: ResNet18(shape, width=4),
    "wrn": lambda shape: WideResNet(shape, depth=10, factor=1),
    "vit": lambda shape: ViT(shape, dim=16, depth=2),
    "mlp": lambda shape: Mlp(shape, depth=2, width=16),
    "blocks": lambda shape: Blocks(
        shape,
        stages=3,
        width1=8,
        width2=8,
        width3=8,
        block1="depthwise",
        block2="residual",
        block3="convnext",
        attention2=True,
        pooling="mean",
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_together_is_as_alone(digits: FewShotDataset, name: str) -> None:
    def prototypical(backbone: Backbone, setting: Setting, number: int) -> Learner:
        return Prototypical(backbone, setting)

    def make() -> Backbone:
        return BACKBONES[name](digits.image_shape)

    alone, together = (three(digits, prototypical, backbone=make, optimizer="sgd") for _ in range(2))
    for _ in StackedTraining(together).rungs():
        pass
    for single, other in zip(alone, together, strict=True):
        list(single.rungs())
        assert_same(other, single)
