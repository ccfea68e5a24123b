"""The map of tasks: places that have the distances they stand for, and one page that works offline."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from autometa.errors import ConfigError
from autometa.past import PastStudy
from autometa.records import EpisodeSpec
from autometa.report.data_map import classical_scaling, data_map, figure, labels
from autometa.report.page import write_page
from autometa.tasks.similarity import coordinates, distances

FEW = EpisodeSpec(way=5, shot=5)
PHOTOS = {"log_images": 10.6, "channels": 3.0, "colour": 0.25, "pixel_5_shot": 0.41, "pca_ten": 0.74}
LETTERS = {"log_images": 11.3, "channels": 1.0, "colour": 0.0, "pixel_5_shot": 0.81, "pca_ten": 0.38}
STUDIES = [
    PastStudy("first", (), features=PHOTOS, dataset="photos", episodes=FEW),
    PastStudy("bare", (), dataset="nobody-knows", episodes=FEW),
    PastStudy(
        "again", (), features={**PHOTOS, "colour": 0.25 + 1e-9}, dataset="photos", episodes=EpisodeSpec(way=5, shot=5)
    ),
    PastStudy("letters", (), features=LETTERS),
]
TARGET = coordinates({**PHOTOS, "log_images": 6.0}, EpisodeSpec(way=5, shot=1))


def test_scaling_finds_flat_places_again() -> None:
    places = np.random.default_rng(5).normal(size=(7, 2))
    apart = np.linalg.norm(places[:, None] - places, axis=-1)
    xy, kept = classical_scaling(apart)
    assert np.linalg.norm(xy[:, None] - xy, axis=-1) == pytest.approx(apart)
    assert kept == pytest.approx(1)
    again, _ = classical_scaling(apart + 1e-13 * np.ones((7, 7)))
    assert again == pytest.approx(xy, abs=1e-6), "no mirror image by a last digit"


def test_scaling_says_what_a_map_loses() -> None:
    corners = np.linalg.norm(np.eye(6)[:, None] - np.eye(6), axis=-1)  # of a simplex in five dimensions
    _, kept = classical_scaling(corners)
    assert kept == pytest.approx(2 / 5)
    xy, kept = classical_scaling(np.zeros((3, 3)))
    assert not xy.any()
    assert kept == 0


def test_studies_of_one_task_share_a_place_and_the_target_is_in_the_middle() -> None:
    places = data_map("mine 5w1s", TARGET, STUDIES).places
    assert places.task.tolist() == ["mine 5w1s", "photos 5w5s", "letters"]
    assert places.studies.tolist() == ["", "first, again", "letters"]
    assert places.loc[0, ["x", "y", "distance"]].tolist() == [0, 0, 0]
    told = distances(TARGET, [STUDIES[0], STUDIES[3]])
    assert places.distance[1:].tolist() == pytest.approx(list(told.values()))
    assert np.hypot(places.x, places.y).tolist() == pytest.approx(places.distance.tolist()), "three points are flat"
    assert places["log_images"].tolist() == [6.0, 10.6, 11.3]
    assert math.isnan(places["log_shot"][2])
    assert places.differs[1].startswith("more images (40,135, not 403)")


def test_two_that_share_no_feature_have_a_way_by_the_target() -> None:
    ends = [PastStudy("a", (), features={"colour": 0.5}), PastStudy("b", (), features={"pca_ten": 0.2})]
    made = data_map("mine", {"colour": 0.1, "pca_ten": 0.9}, ends)
    assert np.isfinite(made.places[["x", "y"]].to_numpy()).all()
    assert np.hypot(*(made.places[["x", "y"]].diff().iloc[2])) == pytest.approx(made.places.distance.sum())


def test_names_that_would_overlap_stand_together() -> None:
    places = data_map("mine", TARGET, STUDIES).places
    near = places.iloc[[2]].assign(task="b<", y=places.y[2] + 0.01)
    several = type(places)(np.vstack([places, near]), columns=places.columns).infer_objects()
    assert labels(several) == ["<b>mine</b>", "<b>photos 5w5s</b>", "", "<b>b&lt;</b><br>letters"]


def test_the_page_works_offline_and_runs_nothing_that_a_name_says(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    studies = [*STUDIES, PastStudy(evil, (), features=LETTERS, dataset=evil)]
    file = tmp_path / "new" / "map.html"
    shown = figure(data_map(evil, TARGET, studies))
    drawn = [shown.layout.title.text, *(t for trace in shown.data for t in (*trace.text, *trace.hovertext))]
    assert sum("&lt;img" in text for text in drawn) >= 5, "the title, names and hover texts"
    assert not any("<img" in text for text in drawn)
    write_page(file, f"{evil} among others", shown)
    page = file.read_text(encoding="utf-8")
    assert "alert(1)</script>" not in page
    assert "<img src=x" not in page
    assert "photos 5w5s" in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=.https?:", page)
    assert len(page) > 1e6, "plotly is inside"
    assert [p.name for p in file.parent.iterdir()] == ["map.html"]


def test_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    shown = figure(data_map("mine", TARGET, STUDIES))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="file is not a folder"):
        write_page(tmp_path / "file" / "map.html", "t", shown)
    with pytest.raises(ConfigError, match="a folder; give the name of a file"):
        write_page(tmp_path, "t", shown)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))
