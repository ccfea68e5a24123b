"""Baselines are what scikit-learn would give on the same episodes, cheap, and models like others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch import nn

from autometa.data.episodes import EpisodeBatch, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.errors import ConfigError
from autometa.learning.backbones.pixels import Pixels
from autometa.learning.optimization import make_optimizer
from autometa.records import EpisodeSpec, TrialConfig
from autometa.trial import baselines, build
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.job import DatasetRef, Job
from autometa.trial.recipe import Recipe
from autometa.trial.train import train

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def job(name: str, folder: Path, **changes: object) -> Job:
    values = baselines.BASELINES[name]
    asked = Job(
        config=TrialConfig(values=values),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=5, shot=1),
        budget=baselines.BUDGET,
        seed=3,
        folder=str(folder),
        validation_episodes=50,
        validation_seed=4,
    )
    return asked.model_copy(update=changes)


def digits(shot: int) -> Iterator[EpisodeBatch]:
    pool = ImagePool(load_dataset("digits"), "val")
    return fixed_episodes(pool, EpisodeSpec(way=5, shot=shot), count=20, seed=1, batch=1)


def arrays(episode: EpisodeBatch) -> Arrays:
    """Support images [N·K, D] and their labels, and query images [N·Q, D]."""
    support, query = (images[0].flatten(1).double().numpy() for images in (episode.support_x, episode.query_x))
    return support, episode.support_y[0].numpy(), query


def predicted(values: dict[str, object], episode: EpisodeBatch) -> np.ndarray:
    candidate = build.candidate(TrialConfig(values=values))
    learner = candidate.build(image_shape=episode.support_x.shape[2:], way=episode.way, train_classes=8)
    with torch.no_grad():
        return learner.double().eval().query_logits(episode.to("cpu", torch.float64))[0].argmax(-1).numpy()


@pytest.mark.parametrize("shot", [1, 5])
def test_nearest_class_mean_of_pixels_predicts_what_scikit_learn_does(shot: int) -> None:
    values = baselines.BASELINES["nearest-mean-pixels"]
    for episode in digits(shot):
        support, labels, query = arrays(episode)
        nearest = NearestCentroid().fit(support, labels)
        by_angle = cosine_similarity(query, nearest.centroids_).argmax(1)
        np.testing.assert_array_equal(predicted(dict(values), episode), by_angle)
        euclidean = predicted({**values, "prototypical.metric": "euclidean"}, episode)
        np.testing.assert_array_equal(euclidean, nearest.predict(query))


@pytest.mark.parametrize("shot", [1, 5])
def test_ridge_on_pixels_predicts_what_scikit_learn_does(shot: int) -> None:
    values, agree = dict(baselines.BASELINES["ridge-pixels"]), []
    for episode in digits(shot):
        support, labels, query = arrays(episode)
        support, query = (np.pad(normalize(part), ((0, 0), (0, 1)), constant_values=1.0) for part in (support, query))
        ours = predicted(values, episode)
        ridge = Ridge(alpha=1.0, fit_intercept=False).fit(support, np.eye(episode.way)[labels])
        np.testing.assert_array_equal(ours, ridge.predict(query).argmax(1))
        usual = RidgeClassifier(alpha=1.0).fit(support, labels)
        agree.append(usual.predict(query) == ours)
    assert np.mean(agree) > 0.98, "its intercept is not penalised"


def test_a_baseline_is_measured_untrained_and_its_checkpoint_is_a_model(tmp_path: Path) -> None:
    for name in baselines.BASELINES:
        asked = job(name, tmp_path / name)
        found = baselines.measure(name, asked)
        again = baselines.measure(name, asked)
        assert (found.name, found.config, found.accuracy) == (name, asked.config, again.accuracy)
        assert found.accuracy.mean > 0.6, "chance is 0.2"
        assert found.accuracy.episodes == 50
        assert found.accuracy.over_classes is not None
        assert evaluate_checkpoint(tmp_path / name, split="val", episodes=50, seed=4).mean == found.accuracy.mean


def test_an_untrained_backbone_depends_on_the_seed_alone(tmp_path: Path) -> None:
    name = "nearest-mean-untrained-conv"
    one, same, other = (
        baselines.measure(name, job(name, tmp_path / str(n), seed=seed)) for n, seed in enumerate((3, 3, 5))
    )
    assert one.accuracy == same.accuracy
    assert one.accuracy != other.accuracy


def test_a_recipe_of_no_steps_gives_the_same_model(tmp_path: Path) -> None:
    name = "ridge-untrained-conv"
    asked = job(name, tmp_path / "first")
    found = baselines.measure(name, asked)
    about = {"dataset": "digits", "episodes": asked.episodes, "budget": asked.budget, "seed": asked.seed}
    recipe = Recipe(**about, config=asked.config.values, validation_episodes=50, validation_seed=4)
    record = train(recipe, tmp_path / "again")
    assert record.last is not None
    assert (record.last.steps, record.last.accuracy) == (0, found.accuracy)


def test_more_images_a_task_mean_fewer_episodes() -> None:
    digits, cifar, photos = (
        baselines.episodes(EpisodeSpec(shot=s), (3, w, w), 100) for s, w in ((1, 8), (5, 32), (5, 84))
    )
    assert digits == 100
    assert 100 > cifar > photos >= 10
    assert baselines.episodes(EpisodeSpec(), (1, 8, 8), 4) == 4


def test_four_baselines_on_digits_take_less_than_a_second_of_a_core(tmp_path: Path) -> None:
    baselines.measure("ridge-pixels", job("ridge-pixels", tmp_path / "warm"))
    started = time.process_time()
    for name in baselines.BASELINES:
        baselines.measure(name, job(name, tmp_path / name, validation_episodes=100))
    assert time.process_time() - started < 2.0, "measured 0.5 s on one core"


def test_what_has_no_weights_cannot_be_trained() -> None:
    assert not list(Pixels((1, 8, 8)).parameters())
    fixed = nn.Linear(2, 2).requires_grad_(False)
    for parameters in ([], fixed.parameters()):
        with pytest.raises(ConfigError, match="nothing to train"):
            make_optimizer(parameters, optimizer="adam", outer_lr=1e-3, weight_decay=0.0)
