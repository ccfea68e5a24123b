"""An ensemble's temperatures and weights: found by what members say, and used as they are found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.learning.backbones.conv import Conv
from autometa.learning.ensemble import Ensemble, Mixture, fit_mixture
from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes
from tests.learning.small import SETTING

WAY = 5


def said(noise: float, scale: float, seed: int) -> tuple[Tensor, Tensor]:
    """Logits of a member whose log probabilities are right up to noise, times a scale; and the right classes."""
    targets = torch.randint(WAY, (200, 20), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    logits = 2.0 * F.one_hot(targets, WAY) + noise * torch.randn(200, 20, WAY, generator=generator)
    return scale * logits, targets


def accuracy(log_probabilities: Tensor, targets: Tensor) -> float:
    return float((log_probabilities.argmax(-1) == targets).float().mean())


def test_a_member_that_is_too_sure_gets_a_higher_temperature() -> None:
    (calm, targets), (loud, _) = said(1.0, 1.0, seed=2), said(1.0, 10.0, seed=2)
    mixture = fit_mixture([calm, loud], targets)
    assert mixture.temperatures[1] == pytest.approx(10 * mixture.temperatures[0], rel=0.15)


def test_members_that_err_apart_are_better_together_than_the_best_alone() -> None:
    members = [said(1.4, 1.0, seed)[0] for seed in (2, 3)]
    targets = said(1.4, 1.0, 2)[1]
    mixture = fit_mixture([members[0], 30 * members[1]], targets)
    assert min(mixture.weights) > 0.3
    together = accuracy(mixture.log_probabilities([members[0], 30 * members[1]]), targets)
    assert together > max(accuracy(member, targets) for member in members) + 0.03


def test_a_member_that_knows_nothing_gets_no_weight() -> None:
    good, targets = said(1.0, 1.0, seed=2)
    noise = torch.randn(good.shape, generator=torch.Generator().manual_seed(9))
    assert fit_mixture([good, noise], targets).weights == (1.0, 0.0)


def test_probabilities_are_the_weighted_mean() -> None:
    logits = [torch.randn(3, 4, WAY, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    mixture = Mixture((2.0, 0.5), (0.25, 0.75))
    expected = 0.25 * F.softmax(logits[0] / 2.0, -1) + 0.75 * F.softmax(logits[1] / 0.5, -1)
    torch.testing.assert_close(mixture.log_probabilities(logits).exp(), expected)


def test_an_ensemble_of_one_answers_as_its_member() -> None:
    torch.manual_seed(0)
    member = Prototypical(Conv((2, 8, 8), depth=2, width=4, norm="running"), SETTING).eval()
    episodes = make_episodes()
    logits = Ensemble([member], Mixture((1.0,), (1.0,))).eval().query_logits(episodes)
    torch.testing.assert_close(logits, F.log_softmax(member.query_logits(episodes), -1))
    with pytest.raises(NotImplementedError):
        Ensemble([member], Mixture((1.0,), (1.0,))).outer_step(None)  # type: ignore[arg-type]
