"""What `train` and `evaluate` say of data that is not the data of before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autometa.trial.model_files import job_of
from autometa.trial.recipe import Recipe, write_recipes
from autometa.trial.run import run
from tests.cli.test_cli import run as command
from tests.study.conftest import environment
from tests.trial.test_identity import changed, forget_identity, job, photographs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    asked = job(tmp_path / "m", photographs(tmp_path / "photos"))
    run(asked)
    recipe = Recipe(
        dataset=asked.dataset.name,
        image_size=8,
        dataset_identity=job_of(tmp_path / "m").dataset.identity,
        episodes=asked.episodes,
        budget=asked.budget,
        config=asked.config.values,
    )
    write_recipes(tmp_path / "r.toml", [recipe], "toml")
    return tmp_path


def test_data_that_has_changed_is_one_line_and_exit_code_2_and_what_was_moved_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "photos").rename(folder / "moved")
    for arguments in (["evaluate", "m", "--episodes", "10"], ["train", "r.toml", "-o", "new"]):
        code, out, err = command(capsys, monkeypatch, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.endswith("photos: no such folder; if it was moved, say where it is: --dataset DIR\n")
        code, _, _ = command(capsys, monkeypatch, *arguments, "--dataset", "moved")
        assert code == 0
    changed(folder / "moved", "moved")
    for arguments in (["evaluate", "m", "--episodes", "10"], ["train", "r.toml", "-o", "other"]):
        code, out, err = command(capsys, monkeypatch, *arguments, "--dataset", "moved")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.endswith("moved: not the data that this began with: class 'bee' moved from train to test\n")
    assert not (folder / "other").exists()


def test_a_recipe_with_an_identity_that_is_none_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (folder / "r.toml").read_text()
    (folder / "r.toml").write_text(text.replace("channels = 3", "channels = 0"))
    code, _, err = command(capsys, monkeypatch, "train", "r.toml")
    assert code == 2
    assert "r.toml: recipe 1: dataset_identity.channels" in err


def test_an_older_model_is_evaluated_with_one_line_of_warning(folder: Path) -> None:
    forget_identity(folder / "m")
    arguments = ["evaluate", "m", "--episodes", "10", "--attack", "fgsm"]
    done = subprocess.run(
        [sys.executable, "-m", "autometa", *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stderr == "warning: m: data not verified: the checkpoint does not say what it was trained on\n"
    assert "meta-test" in done.stdout
