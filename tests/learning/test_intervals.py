"""Intervals over episodes, classes and seeds, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.errors import StudyError
from autometa.learning import intervals, scores
from autometa.learning.backbones.conv import Conv
from autometa.learning.evaluation import answers, evaluate
from autometa.learning.learner import Setting
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.scores import Scores
from autometa.records import Accuracy, EpisodeSpec


def made(classes: list[list[int]], right: list[float], images: int = 100) -> Scores:
    """Two-way episodes in which both classes are named rightly this often."""
    counts = np.array([[[r, 1 - r], [1 - r, r]] for r in right]) * images
    every = np.array(classes)
    return Scores(every, counts.round().astype(int), np.arange(every.max() + 1))


def test_the_variance_over_classes_is_that_of_leaving_each_out() -> None:
    """Three classes, each pair once: without class 0 the mean is that of pair (1, 2), and so on."""
    found = intervals.over_classes(made([[0, 1], [0, 2], [1, 2]], [0.9, 0.7, 0.5]))
    shifts = np.array([0.5, 0.7, 0.9]) - 0.7
    assert found.variance == pytest.approx(2 / 3 * (shifts**2).sum())
    assert found.degrees == 2


def test_where_every_episode_has_every_class_pairs_are_left_out() -> None:
    """Class 2 is never confused: without it, and scaled to three classes, twice the pair (0, 1)'s errors remain."""
    counts = np.array([[[70, 30, 0], [10, 90, 0], [0, 0, 100]]] * 4)
    found = intervals.over_classes(Scores(np.tile(np.arange(3), (4, 1)), counts, np.arange(3)))
    mean, without = 1 - 40 / 300, np.array([1, 1, 1 - 2 * 40 / 200])
    assert found.variance == pytest.approx(2 / 3 * ((without - mean) ** 2).sum())


def test_two_classes_say_nothing_of_others() -> None:
    found = intervals.accuracy(made([[0, 1]] * 50, [0.8] * 50), seed=4)
    assert found.over_classes is not None
    assert (found.over_classes.low, found.over_classes.high, found.over_classes.classes) == (0, 1, 2)


def test_quarter_turns_are_left_out_together_where_there_are_enough() -> None:
    rng = np.random.default_rng(2)
    classes = rng.random((300, 24)).argsort(1)[:, :3]
    ability = np.repeat(rng.normal(0.7, 0.1, 6), 4)  # six families of four
    right = np.clip(ability[classes].mean(1), 0, 1)
    counts = np.eye(3) * right[:, None, None] * 100 + (1 - np.eye(3)) * (1 - right[:, None, None]) * 50
    apart = intervals.over_classes(Scores(classes, counts, np.arange(24)))
    grouped = intervals.over_classes(Scores(classes, counts, np.repeat(np.arange(6), 4)))
    assert (apart.degrees, grouped.degrees) == (23, 5)
    assert grouped.variance > 2 * apart.variance
    few = intervals.over_classes(Scores(classes, counts, np.repeat(np.arange(3), 8)))
    assert few.variance == apart.variance, "three families in three-way episodes: classes stand for themselves"


def test_seeds_add_their_own_variance() -> None:
    classes = [[0, 1], [0, 2], [1, 2]] * 3
    three = [made(classes, [p + shift for p in (0.9, 0.7, 0.5)] * 3) for shift in (-0.05, 0.0, 0.05)]
    one, all_three = intervals.accuracy(three[1], 0), intervals.accuracy_of_seeds(three, 0)
    assert one.over_classes is not None
    assert all_three.over_classes is not None
    assert all_three.mean == pytest.approx(one.mean)
    assert all_three.over_classes.seeds == 3
    spread = intervals.added(intervals.over_classes(three[1]), intervals.Spread(0.05**2 / 3, 2))
    assert spread.variance == pytest.approx(intervals.over_classes(three[1]).variance + 0.05**2 / 3)
    assert 2 < spread.degrees < 4


def test_a_difference_on_common_episodes_leaves_out_what_both_find_hard() -> None:
    classes, hard = [[0, 1], [0, 2], [1, 2]] * 4, np.array([0.9, 0.6, 0.5] * 4)
    ahead, half_width = intervals.difference(made(classes, list(hard + 0.04)), made(classes, list(hard)))
    assert ahead == pytest.approx(0.04)
    assert half_width < 1e-9
    assert intervals.accuracy(made(classes, list(hard)), 0).half_width > 0.08


def test_the_interval_stays_in_range_and_holds_the_mean() -> None:
    for right in (0.0, 0.01, 0.5, 1.0):
        found = intervals.accuracy(made([[0, 1], [0, 2], [1, 2]] * 2, [right, right, min(1.0, right + 0.1)] * 2), 0)
        assert found.over_classes is not None
        assert 0 <= found.over_classes.low <= found.mean <= found.over_classes.high <= 1


def of_all_classes(rng: np.random.Generator, *, images: int = 20, episodes: int = 25) -> tuple[Scores, float]:
    """Episodes of all twelve classes, whose images a learner always names alike; and how often it is right in truth."""
    often = rng.uniform(0.3, 0.95, 12)
    is_right = rng.random((12, images)) < often[:, None]
    drawn = rng.random((episodes, 12, images)).argsort(2)[..., :2]
    right = np.take_along_axis(np.broadcast_to(is_right, (episodes, 12, images)), drawn, 2).sum(2)
    counts = np.zeros((episodes, 12, 12), int)
    own = np.arange(12)
    counts[:, own, own] = right
    counts[:, own, (own + 1) % 12] = 2 - right
    classes = np.tile(own, (episodes, 1))
    return Scores(classes, counts, own, np.full(12, images)), float(often.mean())


def test_an_interval_over_images_of_the_tasks_own_classes_covers_what_they_show_in_truth() -> None:
    """However many episodes there are of the same images, and where they are too few to have all."""
    rng = np.random.default_rng(8)
    for episodes in (5, 25, 300):
        inside, widths, spreads = [], [], []
        for _ in range(400):
            shown, truth = of_all_classes(rng, episodes=episodes)
            found = intervals.accuracy(shown, seed=0)
            assert found.over_classes is not None
            inside.append(found.over_classes.low <= truth <= found.over_classes.high)
            widths.append((found.over_classes.high - found.over_classes.low) / 2)
            spreads.append(found.mean - truth)
        assert 0.92 <= np.mean(inside) <= 0.995
        assert np.mean(widths) < 1.3 * 1.96 * np.std(spreads)
    assert found.over_classes.are_all
    assert found.half_width < 0.5 * widths[-1]  # episodes alone would promise too much


def test_a_difference_of_models_on_the_same_images_errs_on_the_wide_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    one, other = of_all_classes(rng)[0], of_all_classes(rng)[0]
    ahead, half_width = intervals.difference(one, other)
    alone = [intervals.over_images(model).half_width for model in (one, other)]
    assert half_width == pytest.approx(np.hypot(*alone), rel=0.02)
    assert ahead == pytest.approx(one.accuracies.mean() - other.accuracies.mean())
    scores.write(tmp_path / "kept", one)
    again = scores.read(tmp_path / "kept")
    assert again.images is not None
    assert intervals.accuracy(again, 0) == intervals.accuracy(one, 0)


def test_a_learners_answers_give_the_accuracy_that_evaluation_gives(digits: FewShotDataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = Prototypical(Conv(digits.image_shape, depth=2, width=8), Setting(4, 24))
    pool, spec = ImagePool(digits, "val"), EpisodeSpec(way=4, shot=2, query=3)
    drawn = {"count": 20, "seed": 5}
    found = answers(learner, fixed_episodes(pool, spec, batch=7, **drawn), pool.families)
    alone = evaluate(learner, fixed_episodes(pool, spec, batch=20, **drawn), seed=5)
    assert found.classes.shape == (20, 4)
    assert (found.answers.sum(2) == spec.query).all()
    assert np.unique(found.families, return_counts=True)[1].tolist() == [4, 4], "two digits in four turns"
    both = intervals.accuracy(found, 5)
    assert both.mean == pytest.approx(alone.mean)
    assert both.half_width == pytest.approx(alone.half_width), "what papers report keeps its name"
    scores.write(tmp_path / "a" / "t.safetensors", found)
    read = scores.read(tmp_path / "a" / "t.safetensors")
    assert np.array_equal(read.answers, found.answers)
    assert read.has_same_episodes(found)
    (tmp_path / "a" / "t.safetensors").write_bytes(b"cut")
    with pytest.raises(StudyError, match="damaged"):
        scores.read(tmp_path / "a" / "t.safetensors")


def test_an_accuracy_of_an_old_archive_says_that_classes_are_not_known() -> None:
    old = Accuracy.model_validate({"mean": 0.6, "half_width": 0.01, "episodes": 600, "seed": 0})
    assert old.over_classes is None
    assert old.look is None
