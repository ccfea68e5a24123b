"""What holds for every learner beside what `autometa.testing` checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learners.anil import Anil
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.trial import build
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity
from tests.testing.test_conformance import LEARNERS


def test_a_learner_with_transductive_statistics_says_so() -> None:
    learner = Prototypical(Conv((2, 8, 8), depth=1, width=4, norm="transductive"), SETTING)
    assert learner.transductive


@pytest.mark.parametrize(("name", "options"), [one for one in LEARNERS if build.LEARNERS[one[0]].is_trained], ids=str)
def test_a_few_outer_steps_lower_the_loss(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    learner = build.LEARNERS[name](Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, **options)
    source = Fixed(make_episodes())
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(float(learner.outer_step(source)["loss"]))
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prototypical(Identity(), SETTING, temperature=0),
        lambda: Prototypical(Identity(), SETTING, metric="manhattan"),
        lambda: Maml(Identity(), SETTING, inner_steps=0),
        lambda: Maml(Identity(), SETTING, inner_lr=-1.0),
        lambda: Anil(Identity(), SETTING, inner_steps=0),
        lambda: Pretrain(Identity(), SETTING, head="svm"),
        lambda: Conv((1, 8, 8), depth=0),
        lambda: ResNet12((1, 8, 8), drop_rate=1.0),
    ],
)
def test_an_option_out_of_range_names_itself(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"\w+\.\w+ = "):
        make()
