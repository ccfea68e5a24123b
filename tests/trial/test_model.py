"""Models on disk: one or several that answer together, the same to whoever measures them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.errors import AutometaError, CheckpointError
from autometa.learning import checkpoint_files
from autometa.learning.backbones.lite import Lite
from autometa.learning.checkpoint_facts import BEFORE, ENSEMBLE_FACTS, FINAL, is_ensemble, read_facts
from autometa.learning.symmetries import VIEWS
from autometa.records import Budget
from autometa.trial import model
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.model import fit_ensemble, said_in_views
from autometa.trial.model_files import copy_model, ensemble_facts, goes_on_from, job_of
from autometa.trial.run import run
from autometa.trial.segment import Segment
from tests.learning.test_lite import needs_weights
from tests.trial.test_segment import job, lite_job, ran


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of different seeds, trained a little."""
    folder = tmp_path_factory.mktemp("members")
    jobs = [job(folder / str(seed), Budget(steps=60, rungs=1)).model_copy(update={"seed": seed}) for seed in (3, 9)]
    for one in jobs:
        run(one)
    return [Path(one.folder) for one in jobs]


def ensemble_of(members: list[Path], to: Path, views: tuple[str, ...] = ("plain",)) -> dict[int, str]:
    return fit_ensemble(members, [said_by(member, views) for member in members], to)


def said_by(member: Path, views: tuple[str, ...], seconds: float = 100.0) -> dict[str, np.ndarray]:
    dataset = job_of(member).dataset
    said = said_in_views(member, dataset=dataset, episodes=40, seed=0, seconds=seconds, use_gpu=False)
    return {name: said[name] for name in (*views, "targets") if name in said}


def test_an_ensemble_is_measured_copied_and_moved_like_a_single_model(members: list[Path], tmp_path: Path) -> None:
    assert ensemble_of(members, tmp_path / "both") == {0: "plain", 1: "plain"}
    how = {"split": "val", "episodes": 60, "seed": 5, "use_gpu": False}
    together = evaluate_checkpoint(tmp_path / "both", **how)
    assert together.mean > max(evaluate_checkpoint(member, **how).mean for member in members) - 0.03
    copy_model(tmp_path / "both", tmp_path / "model")
    assert evaluate_checkpoint(tmp_path / "model", **how) == together
    assert job_of(tmp_path / "model").episodes == job_of(members[0]).episodes


def test_a_single_model_takes_the_place_of_an_ensemble(members: list[Path], tmp_path: Path) -> None:
    ensemble_of(members, tmp_path)
    copy_model(members[0], tmp_path)
    assert not is_ensemble(tmp_path)
    how = {"split": "val", "episodes": 20, "seed": 5, "use_gpu": False}
    assert evaluate_checkpoint(tmp_path, **how) == evaluate_checkpoint(members[0], **how)


def test_a_single_model_in_several_views_is_an_ensemble_of_one(members: list[Path], tmp_path: Path) -> None:
    said = said_by(members[0], ("plain", "mirrored"))
    assert fit_ensemble([members[0]], [said | {"mirrored": said["plain"] * 0 - 1}], tmp_path) == {}
    sure = 5.0 * np.eye(5, dtype=np.float32)[said["targets"]]
    assert fit_ensemble([members[0]], [said | {"mirrored": sure}], tmp_path) == {0: "mirrored"}
    assert ensemble_facts(tmp_path).views == ["mirrored"]
    how = {"split": "val", "episodes": 60, "seed": 5, "use_gpu": False}
    assert evaluate_checkpoint(tmp_path, **how) != evaluate_checkpoint(members[0], **how)
    copy_model(tmp_path, tmp_path / "copy")
    assert evaluate_checkpoint(tmp_path / "copy", **how) == evaluate_checkpoint(tmp_path, **how)


@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_turned_views_are_left_out_where_they_cost_accuracy(
    members: list[Path], monkeypatch: pytest.MonkeyPatch, lost: float
) -> None:
    monkeypatch.setattr(model, "_LOST_BY_TURNING", lost - 0.5)  # what is right more often by half, or not at all
    expected = {*VIEWS, "targets"} if lost else {"plain", "mirrored", "targets"}
    assert said_by(members[0], tuple(VIEWS)).keys() == expected


def test_with_little_time_there_are_few_episodes(members: list[Path]) -> None:
    assert 0 < len(said_by(members[0], ("plain",), seconds=0.0)["targets"]) < 40


@needs_weights
def test_features_of_further_episodes_are_stopped_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    frozen = lite_job(tmp_path / "frozen", **{"frozen.centre": "none"})
    ran(Segment(job=frozen, until=1))
    monkeypatch.setattr(model, "episodes_at_once", lambda spec: 2)
    plain, passes = Lite.described, []

    def slow(self: Lite, prepared: torch.Tensor) -> torch.Tensor:
        passes.append(len(prepared))
        time.sleep(0.05)
        return plain(self, prepared)

    monkeypatch.setattr(Lite, "described", slow)
    how = {"dataset": frozen.dataset, "episodes": 40, "seed": 77, "use_gpu": False}
    first = said_in_views(tmp_path / "frozen", **how, seconds=0.0)
    assert len(first["targets"]) == 2
    of_one_batch = len(passes)
    passes.clear()
    began = time.monotonic()
    said_in_views(tmp_path / "frozen", **how, seconds=0.0)
    to_load = time.monotonic() - began
    assert len(said_in_views(tmp_path / "frozen", **how, seconds=to_load + 0.1)["targets"]) == 2
    assert len(passes) < of_one_batch  # of the second batch only some


def test_a_model_is_copied_with_the_state_before_its_cool_down(members: list[Path], tmp_path: Path) -> None:
    candidate = tmp_path / "trial"
    open_job = job(candidate, Budget(seconds=0.1, open=True))
    ran(Segment(job=open_job, finish_by=time.time() + 1.0))
    copy_model(candidate / FINAL, tmp_path / "model")
    assert goes_on_from(tmp_path / "model") == tmp_path / "model" / BEFORE
    assert read_facts(tmp_path / "model" / BEFORE) == read_facts(candidate)
    assert read_facts(tmp_path / "model") == read_facts(candidate / FINAL)
    copy_model(members[0], tmp_path / "model")
    assert goes_on_from(tmp_path / "model") == tmp_path / "model", "the state of another model is gone"


def test_one_model_twice_is_no_ensemble(members: list[Path], tmp_path: Path) -> None:
    assert not ensemble_of([members[0], members[0]], tmp_path)
    assert not is_ensemble(tmp_path)


def test_an_ensemble_that_is_written_in_part_is_none(
    members: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensemble_of(members, tmp_path)

    def killed(folder: Path, to: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_files, "copy", killed)
    with pytest.raises(KeyboardInterrupt):
        ensemble_of(members[::-1], tmp_path)
    assert not is_ensemble(tmp_path), "its temperatures are of other members"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"members": ["../a", "member-1"]}, "members must be folders inside"),
        ({"weights": [1.0]}, "each member needs a temperature and a weight"),
        ({"views": ["plain"]}, "each member needs its views"),
        ({"views": ["plain", "x-rayed"]}, "views"),
        ({"temperatures": [0.0, 1.0]}, "temperatures must be positive"),
        ({"format": "pickle/1"}, "format"),
        ({"members": ["member-0", "gone"]}, "gone"),
    ],
)
def test_a_wrong_file_is_one_line(members: list[Path], tmp_path: Path, change: dict[str, object], said: str) -> None:
    ensemble_of(members, tmp_path)
    facts = json.loads((tmp_path / ENSEMBLE_FACTS).read_text())
    (tmp_path / ENSEMBLE_FACTS).write_text(json.dumps(facts | change))
    with pytest.raises(AutometaError, match=said) as error:
        evaluate_checkpoint(tmp_path, split="val", episodes=4, use_gpu=False)
    assert "\n" not in str(error.value)
    (tmp_path / ENSEMBLE_FACTS).write_text("{")
    with pytest.raises(CheckpointError, match="damaged"):
        evaluate_checkpoint(tmp_path, split="val", episodes=4, use_gpu=False)
