"""`autometa priors map`: a table and a page, or one line on why there is none."""

from __future__ import annotations

import math
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from autometa import shipped
from autometa.archives import archive
from autometa.home import OWN_STUDIES
from tests.archives.example_studies import STUDY, TRIALS
from tests.cli.test_cli import run

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def autometa(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in an empty folder; a browser is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail(f"opened {url} though nobody looks"))
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


@pytest.fixture
def only_mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No study came with autometa."""
    monkeypatch.setattr(shipped, "folder", lambda kind: tmp_path / "shipped" / kind)


def test_the_nearest_come_first_with_what_differs_and_a_page(autometa: Command, tmp_path: Path) -> None:
    code, out, err = autometa("priors", "map", "--dataset", "digits", "--shot", "5")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split()[:4] == ["digits-5w1s", "digits", "5w1s", "0.32"]
    assert "fewer shots (1, not 5)" in lines[1]
    cifar_fs = next(line for line in lines if line.startswith("cifar-fs-5w5s"))
    assert "larger images (32, not 8)" in cifar_fs or "classes overlap more" in cifar_fs
    assert "shots" not in cifar_fs
    assert lines[-2:] == ["map in runs/map-digits.html", "next: autometa search --dataset digits --shot 5"]
    page = (tmp_path / "runs" / "map-digits.html").read_text()
    assert "cifar-fs 5w5s" in page
    code, out, _ = autometa("priors", "map", "--dataset", "digits", "--top", "1", "-o", "mine.html", "--no-open")
    assert code == 0
    assert "nothing notable" in out
    assert "cifar-fs" not in out
    assert "map in mine.html\nnext: autometa search --dataset digits\n" in out
    assert (tmp_path / "mine.html").is_file()


def test_too_few_known_studies_are_one_line_and_no_page(autometa: Command, only_mine: None, tmp_path: Path) -> None:
    code, out, _ = autometa("priors", "map", "--dataset", "digits")
    assert code == 0
    assert out.startswith("none of 0 past studies has features of its data set, and a map needs two")
    assert out.count("\n") == 1
    archive.write(OWN_STUDIES, STUDY, TRIALS)
    known = {"name": "[b]known", "features": {"log_classes": math.log(9000), "colour": 0.5}}
    archive.write(OWN_STUDIES, STUDY.model_copy(update=known), TRIALS)
    code, out, _ = autometa("priors", "map", "--dataset", "digits")
    assert code == 0
    assert "[b]known" in out
    assert "more classes (9,000, not 24)" in out
    assert out.splitlines()[-1].startswith("one of 2 past studies has features")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "digit"], "unknown data set 'digit'; did you mean 'digits'"),
        (["--dataset", "./nowhere"], "nowhere: no such folder"),
        (["--dataset", "digits", "--shot", "0"], "--shot"),
        (["--dataset", "digits", "-o", "studies"], "studies: a folder; give the name of a file"),
        (["--dataset", "digits", "-o", "file/map.html"], "file is not a folder"),
        ([], "--dataset"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    autometa: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "file").write_text("")
    code, _, err = autometa("priors", "map", *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "studies"]


def test_a_broken_archive_is_named(autometa: Command, tmp_path: Path) -> None:
    folder = archive.write(OWN_STUDIES, STUDY, TRIALS)
    (folder / "study.toml").write_text('format = "autometa-study/1"\nname = 3')
    code, out, err = autometa("priors", "map", "--dataset", "digits")
    assert (code, out) == (2, "")
    assert err == "error: runs/studies/digits-5w1s/study.toml: name: Input should be a valid string (got 3)\n"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["studies"]


def test_priors_alone_says_what_there_is(autometa: Command) -> None:
    code, out, _ = autometa("priors")
    assert code == 0
    assert "map" in out
