"""Distances between tasks: what they must be whatever the scales, and that real data sets lie as they should."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from autometa.data.load import load_dataset
from autometa.past import PastStudy
from autometa.records import EpisodeSpec
from autometa.tasks import similarity
from autometa.tasks.features import compute
from autometa.tasks.similarity import SCALES, coordinates, distance, distances, log_weights, scales

OMNIGLOT = {"log_images": 11.3, "channels": 1.0, "colour": 0.0, "pixel_5_shot": 0.81, "pca_ten": 0.38}
PHOTOS = {"log_images": 10.6, "channels": 3.0, "colour": 0.25, "pixel_5_shot": 0.41, "pca_ten": 0.74}


def past(name: str, features: dict[str, float], episodes: EpisodeSpec | None = None) -> PastStudy:
    return PastStudy(name=name, trials=(), features=features, episodes=episodes)


def drawn(seed: int, without: tuple[str, ...] = ()) -> dict[str, float]:
    """Some task, about two scales from others in each feature."""
    steps = np.random.default_rng(seed).normal(0, 2, len(SCALES))
    return {n: s.notable * float(z) for (n, s), z in zip(SCALES.items(), steps, strict=True) if n not in without}


def test_every_feature_has_a_scale_and_every_scale_a_feature(digits: object) -> None:
    assert set(compute(digits)) | {"log_way", "log_shot"} == set(SCALES)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [3, 8, 21])
def test_distance_is_a_metric(seed: int) -> None:
    a, b, c = (drawn(seed + step) for step in range(3))
    fitted = scales([a, b, c])
    assert distance(a, a, fitted) == 0
    assert distance(a, b, fitted) == distance(b, a, fitted)
    assert 0 < distance(a, b, fitted) < distance(a, c, fitted) + distance(c, b, fitted)
    far = dict.fromkeys(SCALES, 1e9)
    assert distance(a, far, fitted) == 3


def test_a_distance_does_not_depend_on_who_asks() -> None:
    a, b, c = drawn(1), drawn(2), drawn(3)
    there = distances(a, [past("b", b), past("c", c)])["b"]
    back = distances(b, [past("a", a), past("c", c)])["a"]
    assert there == pytest.approx(back, rel=1e-12)


def test_one_notable_difference_in_everything_is_one() -> None:
    fixed = {name: scale.notable for name, scale in SCALES.items()}
    moved = {name: -4 + scale.notable for name, scale in SCALES.items()}
    assert distance(dict.fromkeys(SCALES, -4.0), moved, fixed) == pytest.approx(1)


def test_groups_count_the_same_however_many_features_they_have() -> None:
    fixed = {name: scale.notable for name, scale in SCALES.items()}
    start = dict.fromkeys(SCALES, 0.25)
    moved = [
        {n: 0.25 + (s.notable if s.group == group else 0) for n, s in SCALES.items()} for group in ("look", "structure")
    ]
    many, few = (distance(start, place, fixed) for place in moved)
    assert many == pytest.approx(few)
    assert many == pytest.approx(math.sqrt(1 / len({scale.group for scale in SCALES.values()})))


def test_what_one_does_not_know_is_left_out_of_the_means() -> None:
    target = {**OMNIGLOT, "edge_mean": math.nan}
    same = distances(target, [past("a", PHOTOS)])["a"]
    more = distances(target, [past("a", {**PHOTOS, "edge_mean": 0.9, "made_up": 5.0, "pca_first": math.inf})])["a"]
    assert same == more
    less = {name: value for name, value in PHOTOS.items() if name != "colour"}
    assert distances(target, [past("a", less)])["a"] != same


def test_a_study_without_features_has_no_distance_and_no_penalty() -> None:
    target = coordinates(OMNIGLOT, EpisodeSpec(way=20, shot=1))
    found = distances(target, [past("bare", {}, EpisodeSpec(way=20, shot=1)), past("like", OMNIGLOT)])
    assert math.isnan(found["bare"]), "the same episodes do not say that the images are alike"
    assert log_weights(found) == {"bare": 0.0, "like": 0.0}


def test_way_and_shot_count_by_their_ratio_where_both_are_known() -> None:
    target = coordinates(PHOTOS, EpisodeSpec(way=5, shot=1))
    studies = [
        past("same", PHOTOS, EpisodeSpec(way=5, shot=1)),
        past("unknown", PHOTOS),
        past("five", PHOTOS, EpisodeSpec(way=5, shot=5)),
        past("twenty", PHOTOS, EpisodeSpec(way=5, shot=20)),
        past("ways", PHOTOS, EpisodeSpec(way=20, shot=1)),
    ]
    found = distances(target, studies)
    assert found["same"] == found["unknown"] == 0
    assert 0 < found["five"] < found["twenty"]
    assert found["ways"] > found["five"]
    from_five = distances(coordinates(PHOTOS, EpisodeSpec(way=5, shot=5)), studies)
    assert from_five["same"] == pytest.approx(found["five"]), "one shot from five as five from one"


def test_few_data_sets_leave_the_scales_and_many_draw_them_to_their_own() -> None:
    fixed = SCALES["colour"].notable
    assert scales([PHOTOS])["colour"] == fixed
    twins = [{**PHOTOS, "log_shot": float(shot)} for shot in range(50)]
    assert scales(twins)["colour"] == fixed, "one data set, however many studies"
    wide = [{"colour": float(value)} for value in np.linspace(0, 1, 400)]
    assert scales(wide[::130])["colour"] < 1.6 * fixed
    assert scales(wide)["colour"] == pytest.approx(np.std(np.linspace(0, 1, 400)), rel=0.04)
    assert 0 < scales([{"colour": 0.2, "log_images": float(n)} for n in range(500)])["colour"] < fixed / 4
    assert scales([{"colour": 1e308}, {"colour": -1e308}, PHOTOS])["colour"] < 3 * fixed, "a wrong number hides nothing"


def test_weights_fall_with_distance_and_never_silence() -> None:
    found = log_weights({"same": 0.0, "near": 0.3, "far": 1.3, "farthest": 3.0, "unknown": math.nan})
    assert found["same"] == found["unknown"] == 0
    assert 0 > found["near"] > found["far"] > found["farthest"] == -2
    assert found["far"] == pytest.approx(-0.845)


def test_differences_say_what_is_there() -> None:
    target = coordinates({"log_classes": math.log(24), "channels": 3.0, "colour": 0.25})
    other = {"log_classes": math.log(4112), "channels": 1.0, "colour": 0.24}
    found = similarity.differences(target, other, scales([target, other]))
    assert [str(d) for d in found[:2]] == ["more classes (4,112, not 24)", "no colour (1, not 3)"]
    assert found[2].notable < 0.2


def test_real_data_sets_lie_as_one_would_say(shared_data: Path) -> None:
    names = ("cifar-fs", "fc100", "omniglot-unrotated", "digits")
    known = {name: compute(load_dataset(name, data_root=shared_data)) for name in names}
    found = distances(known["fc100"], [past(name, features) for name, features in known.items()])
    assert found["cifar-fs"] < 0.15, "the same photographs, split in another way"
    assert 0.8 < found["digits"] < 2
    assert 0.8 < found["omniglot-unrotated"] < 2
