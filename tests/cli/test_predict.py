"""`autometa predict` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.test_cli import run
from tests.deployment.conftest import inbox, model, photos, support

__all__ = ["inbox", "model", "photos", "support"]
Capsys = pytest.CaptureFixture[str]


def test_every_image_gets_a_class_a_probability_and_the_next_best(
    model: Path, support: Path, inbox: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, monkeypatch, "predict", str(model), "--support", str(support), "--query", str(inbox))
    assert code == 0, err
    lines = out.splitlines()
    assert (len(lines), lines[0].split()) == (49, ["image", "class", "probability", "next", "best"])
    assert "apple-8-0.png" in lines[1]
    assert "probabilities are fitted on" in err
    assert "none of these" not in out


def test_the_result_as_json_and_as_csv(
    model: Path, support: Path, inbox: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(str(file) for file in (inbox / "cloud").iterdir())
    asked = ["predict", str(model), "--support", str(support), "--query", *files, "--reject-rate", "0.1"]
    code, out, _ = run(capsys, monkeypatch, *asked, "--json")
    facts = json.loads(out)
    assert code == 0
    assert [image["image"] for image in facts["images"]] == files
    assert facts["classes"] == {"apple": 2, "brick": 7, "cloud": 4, "dune": 3}
    assert facts["calibration"]["rejection"]["rate"] == 0.1
    first = facts["images"][0]
    assert first["probability"] >= first["next_probability"]
    _, out, _ = run(capsys, monkeypatch, *asked, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["class"] for row in rows] == [image["class"] for image in facts["images"]]
    assert float(rows[0]["probability"]) == pytest.approx(first["probability"], abs=1e-4)


def test_images_are_copied_into_folders_of_their_classes(
    model: Path, support: Path, inbox: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "sorted"
    asked = ["predict", str(model), "--support", str(support), "--query", str(inbox), "--copy-to", str(to)]
    (to / "apple").mkdir(parents=True)
    (to / "apple" / "apple-8-0.png").write_bytes(b"another image of that name")
    for _ in range(2):  # the second time nothing is copied again
        code, _, err = run(capsys, monkeypatch, *asked)
        assert code == 0, err
        assert len([file for file in to.rglob("*.png") if file.is_file()]) == 49
    assert (to / "apple" / "apple-8-0.png").read_bytes() == b"another image of that name"
    assert (to / "apple" / "apple-8-0-2.png").read_bytes() == (inbox / "apple" / "apple-8-0.png").read_bytes()


def test_what_is_wrong_is_one_line_and_writes_nothing(
    model: Path, support: Path, inbox: Path, tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "apple").mkdir(parents=True)
    (tmp_path / "one" / "apple" / "a.png").write_bytes((inbox / "apple" / "apple-8-0.png").read_bytes())
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    cases: list[tuple[list[object], str]] = [
        ([tmp_path, "--support", support, "--query", inbox], "no checkpoint there"),
        ([model, "--support", tmp_path / "one", "--query", inbox], "one class only ('apple')"),
        ([model, "--support", tmp_path / "empty", "--query", inbox], "no images in class folders"),
        ([model, "--support", support, "--query", tmp_path / "empty"], "no images to name there"),
        ([model, "--support", support, "--query", tmp_path / "gone.png"], "no such file or folder"),
        ([model, "--support", support, "--query", tmp_path / "torn.png"], "1 image cannot be read"),
        ([model, "--support", support, "--query", inbox, "--reject-rate", "2"], "it must be in (0, 1)"),
        ([model, "--support", support, "--query", inbox, "--json", "--csv"], "give one of them"),
        ([model, "--support", support, "--query", inbox, "--copy-to", inbox / "x"], "it is inside"),
    ]
    for arguments, said in cases:
        code, out, err = run(capsys, monkeypatch, "predict", *map(str, arguments))
        assert (code, out) == (2, ""), arguments
        assert said in err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
    left_out = [model, "--support", support, "--query", inbox, tmp_path / "torn.png", "--skip-unreadable"]
    code, out, err = run(capsys, monkeypatch, "predict", *map(str, left_out))
    assert code == 0
    assert "left out: " in err
    assert len(out.splitlines()) == 49
