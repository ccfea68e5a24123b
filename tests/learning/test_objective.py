"""Additions to the training loss against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.attacks import PixelRange
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Learner
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.objective import Objective, ObjectiveOptions, correlation_penalty, supervised_contrastive
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double

PIXELS = PixelRange.of((0.5, 0.5), (0.2, 0.2))


def step(learner: Learner, **options: float) -> dict[str, torch.Tensor]:
    objective = Objective(ObjectiveOptions(**options), PIXELS, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    learner.zero_grad(set_to_none=True)
    return objective.outer_step(learner, Fixed(make_episodes()))


def gradients(learner: Learner) -> list[torch.Tensor]:
    return [p.grad.clone() for p in learner.parameters() if p.grad is not None]


def test_supervised_contrastive_is_equation_2() -> None:
    features = torch.randn(1, 6, 4, dtype=torch.float64)
    labels = torch.tensor([[0, 0, 1, 1, 1, 2]])
    unit = F.normalize(features[0], dim=-1).numpy()
    terms = []
    for i in range(5):  # image 5 has no positive
        others = [a for a in range(6) if a != i]
        total = sum(np.exp(unit[i] @ unit[a] / 0.3) for a in others)
        positives = [p for p in others if labels[0, p] == labels[0, i]]
        terms.append(-np.mean([np.log(np.exp(unit[i] @ unit[p] / 0.3) / total) for p in positives]))
    assert float(supervised_contrastive(features, labels, 0.3)) == pytest.approx(np.mean(terms), rel=1e-9)


def test_supervised_contrastive_has_a_finite_gradient() -> None:
    features = torch.randn(2, 6, 4, requires_grad=True)
    supervised_contrastive(features, torch.tensor([[0, 0, 1, 1, 1, 2]] * 2), 0.1).backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_the_correlation_penalty_is_the_mean_squared_correlation() -> None:
    features = torch.randn(50, 3, dtype=torch.float64)
    features[:, 1] += features[:, 0]
    correlation = np.corrcoef(features.numpy().T)
    expected = (np.square(correlation).sum() - 3) / 6
    assert float(correlation_penalty(features)) == pytest.approx(expected, rel=1e-5)
    assert float(correlation_penalty(10 * features)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", [Prototypical, Maml, Pretrain])
def test_terms_add_their_weighted_gradient_to_any_learner(kind: type[Learner]) -> None:
    torch.manual_seed(5)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING)
    metrics = step(learner)
    plain = gradients(learner)
    full = step(learner, contrastive_weight=0.5, covariance_weight=2.0)
    assert float(full["loss"]) == pytest.approx(
        float(metrics["loss"]) + 0.5 * float(full["contrastive"]) + 2 * float(full["covariance"]), rel=1e-5
    )
    with_terms = gradients(learner)
    step(learner, contrastive_weight=1.0, covariance_weight=4.0)
    for none, once, twice in zip(plain, with_terms, gradients(learner), strict=True):
        torch.testing.assert_close(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-5)


def test_the_gradient_penalty_mixes_in_the_gradient_uphill() -> None:
    torch.manual_seed(6)
    learner = Prototypical(Smooth(), SETTING).double()
    task = double(make_episodes(batch=1))
    objective = Objective(ObjectiveOptions(gradient_penalty=0.3), PIXELS, torch.Generator())
    objective.outer_step(learner, Fixed(task))
    found = gradients(learner)

    parameters = list(learner.parameters())
    here = torch.autograd.grad(learner.loss(task)[0], parameters)
    length = torch.stack([g.square().sum() for g in here]).sum().sqrt()
    with torch.no_grad():
        for parameter, gradient in zip(parameters, here, strict=True):
            parameter += 0.05 * gradient / length
    uphill = torch.autograd.grad(learner.loss(task)[0], parameters)
    for mixed, a, b in zip(found, here, uphill, strict=True):
        torch.testing.assert_close(mixed, 0.7 * a + 0.3 * b)


def test_a_gradient_penalty_leaves_weights_and_statistics_as_they_were() -> None:
    torch.manual_seed(7)
    learners = [Maml(Conv((2, 8, 8), depth=2, width=8, norm="running"), SETTING, multi_step_loss=0.5) for _ in range(2)]
    learners[1].load_state_dict(learners[0].state_dict())
    step(learners[0])
    step(learners[1], gradient_penalty=0.5)
    for a, b in zip(learners[0].state_dict().values(), learners[1].state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_the_second_look_sees_what_the_first_saw(mixing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no way uphill both gradients are one, whatever the learner draws on its way."""
    monkeypatch.setattr("autometa.learning.objective._ASCENT_RADIUS", 0.0)
    torch.manual_seed(9)
    learner = Pretrain(Smooth(), SETTING, mixing=mixing, rotation_weight=1.0, distillation_weight=0.5)
    torch.manual_seed(1)
    step(learner)
    plain = gradients(learner)
    learner.outer_steps.zero_()
    torch.manual_seed(1)
    step(learner, gradient_penalty=1.0)
    torch.testing.assert_close(gradients(learner), plain)
    after = torch.rand(1)
    torch.manual_seed(1)
    step(learner)
    torch.testing.assert_close(torch.rand(1), after, rtol=0, atol=0)


def test_an_attack_leaves_running_statistics_alone() -> None:
    torch.manual_seed(10)
    learners = [Prototypical(Conv((2, 8, 8), depth=1, width=4), SETTING) for _ in range(2)]
    learners[1].load_state_dict(learners[0].state_dict())
    step(learners[0], attack_epsilon=1e-9, attack_steps=3)
    step(learners[1])
    torch.testing.assert_close(learners[0].state_dict(), learners[1].state_dict())


def test_adversarial_episodes_are_harder() -> None:
    torch.manual_seed(8)
    learner = Prototypical(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING)
    assert float(step(learner, attack_epsilon=0.1)["loss"]) > float(step(learner)["loss"]) + 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"contrastive_weight": -1.0},
        {"contrastive_temperature": 0.0},
        {"covariance_weight": -0.1},
        {"gradient_penalty": 1.1},
        {"attack_epsilon": 2.0},
        {"attack_epsilon": 0.1, "attack_steps": 0},
    ],
)
def test_an_option_out_of_range_names_itself(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"\w+ = "):
        ObjectiveOptions(**options)  # type: ignore[arg-type]
