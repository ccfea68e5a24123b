"""Heads on features that are not trained: what they learn of train classes, and that no step is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autometa.errors import ConfigError
from autometa.learning.backbones.lite import Lite
from autometa.learning.evaluation import episode_accuracies
from autometa.learning.learners.frozen import CENTRES, HEADS, Frozen, directions, whitening
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("centre", CENTRES)
def test_every_head_tells_separate_classes_apart(head: str, centre: str) -> None:
    learner = Frozen(Identity(), SETTING, head=head, centre=centre, whiten=0.5)
    learner.see(Fixed(make_episodes(batch=4, seed=3)))
    episodes = make_episodes(batch=3)
    assert float(episode_accuracies(learner.query_logits(episodes), episodes).mean()) > 0.95


def test_centre_and_covariance_are_those_of_train_classes_alone() -> None:
    train, new = make_episodes(batch=4, seed=3), make_episodes(batch=2, seed=8)
    learner = Frozen(Identity(), SETTING, whiten=1.0, dims=20)
    learner.see(Fixed(train))
    images = torch.cat([train.support_x, train.query_x], 1).flatten(0, 1).flatten(1)
    torch.testing.assert_close(learner.mean, images.mean(0))
    before = learner.query_logits(new)
    harder = replace(new, query_x=torch.cat([new.query_x[:, :1], 9 * new.query_x[:, 1:]], 1))
    torch.testing.assert_close(learner.query_logits(harder)[:, 0], before[:, 0])


def test_whitened_deviations_have_equal_variances_without_correlation() -> None:
    torch.manual_seed(4)
    turned = torch.linalg.qr(torch.randn(6, 6)).Q
    deviations = torch.randn(5000, 6) @ torch.diag(torch.tensor([5.0, 3, 2, 1, 1, 1])) @ turned
    white = deviations @ whitening(deviations, 6, 1.0)
    covariance = white.mT @ white / len(white)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 1e-3
    assert 0.7 < float(covariance.diag().min()) <= float(covariance.diag().max()) <= 1.001
    unchanged = deviations @ whitening(deviations, 6, 0.0)
    torch.testing.assert_close(unchanged.norm(dim=1), deviations.norm(dim=1), rtol=1e-3, atol=1e-3)


def test_few_images_that_recur_are_whitened_where_single_precision_fails() -> None:
    """12 features of a network with random weights, 111 times; their covariance has rank 12 of 1,280."""
    torch.manual_seed(2)
    backbone = Lite((3, 8, 8), weights="none", image_size=32)
    with torch.no_grad():
        features = backbone(torch.randn(12, 3, 8, 8)).repeat(111, 1)
    found = whitening(features - features.mean(0), 2048, 0.5)
    assert bool(found.isfinite().all())


def test_features_that_never_vary_are_no_division_by_nothing() -> None:
    assert bool(whitening(torch.zeros(10, 4), 4, 1.0).isfinite().all())


def test_directions_in_which_train_classes_differ_are_made_longer_and_the_others_stay() -> None:
    generator = torch.Generator().manual_seed(6)
    means = torch.zeros(8, 5)
    means[:, 1] = torch.linspace(-6, 6, 8)
    classes = torch.arange(8).repeat_interleave(400)
    features = means[classes] + torch.randn(3200, 5, generator=generator) * torch.tensor([1.0, 2, 1, 3, 1])
    how = {"features": features, "classes": classes, "dims": 5, "strength": 1.0}
    plain, longer = directions(**how, spread=0.0), directions(**how, spread=0.5)
    variance = means[:, 1].var(correction=0) / 4  # after whitening
    times = longer.norm(dim=1) / plain.norm(dim=1)
    assert float(times[1]) == pytest.approx(float((1 + 0.5 * variance).sqrt()), rel=0.05)
    torch.testing.assert_close(times[[0, 2, 3, 4]], torch.ones(4), rtol=0.02, atol=0.0)
    again = directions(features, classes % 2, 5, strength=1.0, spread=0.0)
    assert not torch.allclose(again, plain), "classes matter"


@pytest.mark.parametrize(
    ("budget", "rungs"), [(Budget(steps=8, rungs=4), [4]), (Budget(seconds=3.0, open=True), [1, 2, 3])]
)
def test_no_step_is_taken_and_each_rung_of_an_open_budget_is_reached_at_once(budget: Budget, rungs: list[int]) -> None:
    learner = Frozen(Identity(), SETTING)
    training = Training(
        learner,
        Fixed(make_episodes()),
        options=TrainingOptions(),
        budget=budget,
        validate=lambda training, rung: Accuracy(mean=0.5, half_width=0.1, episodes=rung, seed=0),
        generator=torch.Generator(),
    )
    reports = list(training.rungs(until=rungs[-1]))
    assert [(report.rung, report.steps, report.seconds) for report in reports] == [(rung, 0, 0.0) for rung in rungs]
    assert float(learner.mean.norm()) > 0  # it has seen the train classes
    if budget.open:
        training.cool_down()
        training.train()
        assert training.report().rung > 3
        assert training.is_over


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"head": "knn"}, "frozen.head = 'knn': it may be cosine"),
        ({"centre": "query"}, "frozen.centre = 'query': it may be none"),
        ({"power": 0.0}, "frozen.power = 0.0: it must be above 0"),
        ({"whiten": 1.5}, r"frozen.whiten = 1.5: it must be in \[0, 1\]"),
        ({"spread": -0.1}, "frozen.spread = -0.1: it must be at least 0"),
        ({"penalty": -1.0}, "frozen.penalty = -1.0: both must be positive"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Frozen(Identity(), SETTING, **options)  # type: ignore[arg-type]
