"""Light fine-tuning begins where the frozen network stands, and moves nothing but the last layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.lite import Lite
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.frozen import Frozen
from autometa.learning.learners.tuned import Tuned
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity


def training_of(learner: Learner, episodes: EpisodeBatch, steps: int) -> Training:
    return Training(
        learner,
        Fixed(episodes),
        options=TrainingOptions(outer_lr=1e-3),
        budget=Budget(steps=steps, rungs=1),
        validate=lambda training, rung: Accuracy(mean=0.5, half_width=0.1, episodes=rung, seed=0),
        generator=torch.Generator(),
    )


def test_before_the_first_step_it_answers_as_the_frozen_network_does() -> None:
    frozen, tuned = Frozen(Identity(), SETTING, whiten=0.5, spread=0.04), Tuned(Identity(), SETTING, scale=20.0)
    seen = Fixed(make_episodes(batch=4, seed=3))
    for learner in (frozen, tuned):
        learner.see(seen)
    episodes = make_episodes(batch=3)
    torch.testing.assert_close(tuned.query_logits(episodes), 2 * frozen.query_logits(episodes))


def test_outer_steps_move_the_last_layers_alone_after_it_has_seen_train_classes() -> None:
    torch.manual_seed(2)
    backbone = Lite((3, 8, 8), weights="none", image_size=32, tuned=True)
    learner = Tuned(backbone, Setting(way=3, train_classes=8))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    training = training_of(learner, make_episodes(batch=2, seed=3, shape=(3, 8, 8)), steps=3)
    list(training.rungs())
    moved = {name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])}
    assert {"mean", "directions", "log_scale", "backbone.tail.head.conv.weight"} <= moved
    assert not any(name.startswith(("backbone.network", "backbone.data")) for name in moved)
    seen = learner.directions.clone()
    training.state.budget = Budget(steps=6, rungs=2)
    training.state.last_step = 6
    list(training.rungs())
    assert learner.state_dict()["log_scale"] != before["log_scale"]
    torch.testing.assert_close(learner.directions, seen)


def test_outer_steps_fit_what_nothing_before_them_could() -> None:
    torch.manual_seed(2)
    learner = Tuned(Lite((3, 8, 8), weights="none", image_size=64, tuned=True), SETTING, whiten=0.0)
    episodes = make_episodes(batch=2, seed=3, shape=(3, 8, 8))
    noise = replace(
        episodes, support_x=torch.randn_like(episodes.support_x), query_x=torch.randn_like(episodes.query_x)
    )
    losses: list[float] = []
    training = training_of(learner, noise, steps=40)
    list(training.rungs(lambda step, progress, metrics: losses.append(float(metrics["loss"]))))
    assert losses[-1] < 0.5 * losses[0]


def test_a_scale_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"tuned.scale = 0.0: it must be positive"):
        Tuned(Identity(), SETTING, scale=0.0)
