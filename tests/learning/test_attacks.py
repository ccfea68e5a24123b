"""Attacks: how far pixels may move, and that they do harm."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.attacks import Attack, PixelRange
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Learner
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Smooth

PIXELS = PixelRange.of((0.5, 0.4), (0.2, 0.25))


def generator(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def learner(kind: type[Learner]) -> Learner:
    torch.manual_seed(3)
    return kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING).eval()


def loss(of: Learner, episodes: object) -> float:
    logits = of.query_logits(episodes)  # type: ignore[arg-type]
    return float(F.cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten()).detach())  # type: ignore[attr-defined]


def test_the_pixel_range_is_black_and_white_in_normalised_units() -> None:
    torch.testing.assert_close(PIXELS.low[:, 0, 0], torch.tensor([-2.5, -1.6]))
    torch.testing.assert_close(PIXELS.high[:, 0, 0], torch.tensor([2.5, 2.4]))


@pytest.mark.parametrize("kind", [Prototypical, Maml])
@pytest.mark.parametrize("steps", [1, 4])
def test_an_attack_stays_in_its_box_and_raises_the_loss(kind: type[Learner], steps: int) -> None:
    episodes = make_episodes()
    clean = PIXELS.clamp(episodes.query_x)
    episodes = type(episodes)(episodes.support_x, episodes.support_y, clean, episodes.query_y, episodes.way)
    model = learner(kind)
    attacked = Attack(0.06, steps)(model, episodes, PIXELS, generator())
    change = (attacked.query_x - clean).abs().amax((0, 1, 3, 4))
    assert (change <= 0.06 * torch.tensor([5.0, 4.0]) + 1e-5).all()
    assert change.min() > 0.1
    assert ((attacked.query_x >= PIXELS.low - 1e-5) & (attacked.query_x <= PIXELS.high + 1e-5)).all()
    assert loss(model, attacked) > loss(model, episodes) + 0.05
    torch.testing.assert_close(attacked.support_x, episodes.support_x)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fgsm_is_one_step_of_the_gradients_sign() -> None:
    torch.manual_seed(4)
    model = Prototypical(Smooth(), SETTING)
    episodes = make_episodes(batch=1)
    wide = PixelRange.of((0.5, 0.5), (0.01, 0.01))  # images lie far inside, so nothing is cut
    attacked = Attack(0.001)(model, episodes, wide, generator())
    query = episodes.query_x.clone().requires_grad_()
    inputs = type(episodes)(episodes.support_x, episodes.support_y, query, episodes.query_y, episodes.way)
    F.cross_entropy(model.query_logits(inputs)[0], episodes.query_y[0]).backward()
    assert query.grad is not None
    torch.testing.assert_close(attacked.query_x, episodes.query_x + 0.001 * 100 * query.grad.sign())


@pytest.mark.parametrize(("epsilon", "steps"), [(-0.1, 1), (1.5, 1), (0.1, 0)])
def test_an_attack_out_of_range_is_refused(epsilon: float, steps: int) -> None:
    with pytest.raises(ConfigError, match=r"attack_\w+ = "):
        Attack(epsilon, steps)
