"""A model as a file: it answers as the model does, in processes that know neither autometa nor, as ONNX, torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import autometa
from autometa.data.image_pool import Normaliser
from autometa.deployment import export
from autometa.deployment.export import ExportError, export_model
from autometa.deployment.graphs import Classifier, Episode
from autometa.deployment.pictures import Reader
from autometa.deployment.programs import Kind
from autometa.deployment.task import Task
from autometa.deployment.trained import open_model
from autometa.errors import ConfigError
from autometa.learning.checkpoint_facts import ENSEMBLE_FACTS
from autometa.trial.model_files import EnsembleFacts, copy_member
from tests.cli.test_cli import run
from tests.deployment.photos import SIZE, train_model

FROZEN = {"learner": "frozen", "backbone": "lite", "lite.weights": "none", "lite.image_size": 32}
EXAMPLE = Path(__file__).parents[2] / "examples" / "run_onnx.py"


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def alone(code: str, *arguments: Any, cwd: Path) -> str:
    """What a program of its own prints, that must not find this package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd, env=clean).stdout


def test_a_classifier_as_onnx_runs_by_the_example_without_torch(
    model: Path,
    support: Path,
    inbox: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "classes.onnx"
    arguments = ("export", str(model), "--to", "onnx", "-o", str(file), "--support", str(support), "--json")
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert code == 0, err
    (said,) = json.loads(out)["files"]
    assert said["classes"] == ["apple", "brick", "cloud", "dune"]
    assert said["inputs"] == {"images": ["batch", 3, SIZE, SIZE]}
    assert 0 <= said["difference"] <= 1e-4
    beside = json.loads((tmp_path / "classes.json").read_text())
    assert beside == {name: value for name, value in said.items() if name != "file"}
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "assert not {'torch', 'autometa'} & set(sys.modules), 'more than onnxruntime and Pillow'"
    )
    files = files_of(inbox)
    lines = [line.split("\t") for line in alone(code, EXAMPLE, file, *files, cwd=tmp_path).splitlines()]
    predictor = autometa.Predictor(model).fit(support)
    assert [line[:2] for line in lines] == [
        [str(f), name] for f, name in zip(files, predictor.predict(files), strict=True)
    ]
    likeliest = predictor.predict_proba(files).max(1)
    np.testing.assert_allclose([float(line[2]) for line in lines], likeliest, atol=2e-4)


def test_a_frozen_network_runs_under_onnx(photos: Path, support: Path, inbox: Path, tmp_path: Path) -> None:
    """Its strided convolutions pad one pixel more on one side, which onnxruntime once could not load."""
    model = train_model(photos, tmp_path / "model", steps=1, **FROZEN)
    written = export_model(model, tmp_path / "frozen.onnx", Kind.onnx, support=support)
    predictor = autometa.Predictor(model, use_gpu=False).fit(support)
    assert written[tmp_path / "frozen.onnx"].difference < 1e-4
    pictures, _ = Reader(predictor.trained_.taken).files(files_of(inbox))
    session = onnxruntime.InferenceSession(tmp_path / "frozen.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": pictures.astype(np.float32)})
    np.testing.assert_allclose(found, predictor.predict_proba(inbox), atol=1e-4)


def test_without_classes_there_are_features_and_an_episode_for_any_support_set(
    model: Path, support: Path, inbox: Path, tmp_path: Path
) -> None:
    written = export_model(model, tmp_path / "net.pt2", Kind.torch)
    features, episode = written
    assert [said.part for said in written.values()] == ["features", "episode"]
    code = (
        "import json, sys, torch; kept = {'autometa.json': ''};"
        "network = torch.export.load(sys.argv[1], extra_files=kept).module();"
        f"print(list(network(torch.zeros(1, 3, {SIZE}, {SIZE})).shape), json.loads(kept['autometa.json'])['part'],"
        "'autometa' in sys.modules)"
    )
    assert alone(code, features, cwd=tmp_path) == f"[1, {8 * (SIZE // 2) ** 2}] features False\n"
    known, asked = ([np.asarray(Image.open(f)) for f in files_of(folder)] for folder in (support, inbox))
    pixels, images = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() for part in (known, asked))
    labels = torch.eye(4).repeat_interleave(torch.tensor([2, 7, 4, 3]), 0)
    logits = torch.export.load(episode).module()(pixels, labels, images)
    predictor = autometa.Predictor(model).fit(support)
    expected = predictor.predict_proba(inbox)
    found = predictor.calibration_.softened(logits, predictor.shots_.tolist()).softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


OF_LEARNERS: dict[str, dict[str, Any]] = {
    "gradient steps": {"learner": "maml", "maml.inner_steps": 2},
    "gradient steps, statistics of the support": {"learner": "maml", "conv.norm": "support"},
    "statistics of the support": {"conv.norm": "support"},
    "not a head on features": {"learner": "relation"},
    "a solved system": {"learner": "ridge"},
    "changed support images": {
        "learner": "pretrain",
        "pretrain.head": "ridge",
        "pretrain.flip_support": True,
        "pretrain.support_copies": 2,
    },
    "a dual": {"learner": "svm", "svm.solver_steps": 5},
    "a dual, by the centre of the support": FROZEN
    | {"frozen.head": "svm", "frozen.centre": "support", "frozen.power": 0.5, "frozen.whiten": 0.5},
    "last layers of a frozen network": FROZEN | {"learner": "tuned", "lite.tuned": True, "tuned.train_query": 2},
}


@pytest.fixture(scope="module")
def models(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: train_model(photos, tmp_path_factory.mktemp("model"), steps=4, **values)
        for name, values in OF_LEARNERS.items()
    }


@pytest.fixture(scope="module")
def ensemble(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, of which one sees each episode in all eight symmetries."""
    root = tmp_path_factory.mktemp("ensemble")
    for number, name in enumerate(("a solved system", "gradient steps")):
        copy_member(models[name], root / f"member-{number}")
    facts = {"members": ["member-0", "member-1"], "temperatures": [1.5, 0.5], "weights": [0.75, 0.25]}
    facts["views"] = ["turned", "plain"]
    (root / ENSEMBLE_FACTS).write_text(EnsembleFacts.model_validate(facts).model_dump_json())
    return root


@pytest.mark.parametrize("name", [*OF_LEARNERS, "ensemble"])
def test_every_learner_becomes_a_classifier_that_answers_as_it_does(
    name: str, models: dict[str, Path], ensemble: Path, support: Path, inbox: Path
) -> None:
    opened = open_model(ensemble if name == "ensemble" else models[name], use_gpu=False)
    taken, learner = opened.taken, opened.learner
    known, images = (torch.from_numpy(Reader(taken).files(files_of(folder))[0]) for folder in (support, inbox))
    task = Task(learner, known, [2, 7, 4, 3], Normaliser(taken.mean, taken.std, opened.device), opened.device)
    expected = (task.logits(task.episode(images)) / 2).softmax(-1)
    classifier = Classifier(learner, taken, task.episode(images[:1]), lambda logits: logits / 2)
    with torch.no_grad():
        np.testing.assert_allclose(classifier(images.float()).numpy(), expected.numpy(), atol=1e-5)


HEADS_IN_A_GRAPH: list[dict[str, Any]] = [
    {"frozen.whiten": 0.5, "frozen.spread": 0.04},
    {"frozen.head": "mahalanobis", "frozen.dims": 16},
    {"frozen.head": "logistic", "frozen.centre": "support", "frozen.whiten": 0.25},
    {"frozen.head": "svm", "frozen.power": 0.5},
    {"frozen.head": "ridge", "frozen.centre": "support"},
]


@pytest.fixture(scope="module")
def two_frozen(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a search with pretrained networks hands over: two heads on frozen features, each on mirrored images too."""
    root = tmp_path_factory.mktemp("frozen")
    for number, values in enumerate(HEADS_IN_A_GRAPH[:2]):
        train_model(photos, root / f"member-{number}", steps=1, **FROZEN, **values)
    facts = {"members": ["member-0", "member-1"], "temperatures": [1.5, 0.5], "weights": [0.75, 0.25]}
    facts["views"] = ["mirrored", "plain"]
    (root / ENSEMBLE_FACTS).write_text(EnsembleFacts.model_validate(facts).model_dump_json())
    return root


@pytest.mark.parametrize("values", HEADS_IN_A_GRAPH, ids=lambda values: values.get("frozen.head", "cosine"))
def test_heads_on_frozen_features_are_fitted_in_the_graph_to_uneven_classes(
    values: dict[str, Any], photos: Path, support: Path, inbox: Path, tmp_path: Path
) -> None:
    opened = open_model(train_model(photos, tmp_path / "model", steps=1, **FROZEN, **values), use_gpu=False)
    known, images = (torch.from_numpy(Reader(opened.taken).files(files_of(folder))[0]) for folder in (support, inbox))
    normaliser = Normaliser(opened.taken.mean, opened.taken.std, opened.device)
    task = Task(opened.learner, known, [2, 7, 4, 3], normaliser, opened.device)
    labels = torch.eye(4).repeat_interleave(torch.tensor([2, 7, 4, 3]), 0)
    with torch.no_grad():
        found = Episode(opened.learner, opened.taken)(known.float(), labels, images.float())
    expected = task.logits(task.episode(images))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4 * float(expected.abs().max()))


def test_an_ensemble_on_frozen_features_is_exported_without_classes(two_frozen: Path, tmp_path: Path) -> None:
    written = export_model(two_frozen, tmp_path / "net.onnx", Kind.onnx)
    assert [(place.name, said.part) for place, said in written.items()] == [("net-episode.onnx", "episode")]
    written = export_model(two_frozen / "member-0", tmp_path / "one.onnx", Kind.onnx)
    assert [said.part for said in written.values()] == ["features", "episode"]


def test_a_solved_system_is_written_as_products(models: dict[str, Path], tmp_path: Path) -> None:
    written = export_model(models["a solved system"], tmp_path / "net.onnx", Kind.onnx)
    assert [said.part for said in written.values()] == ["features", "episode"]


@pytest.mark.parametrize("name", ["gradient steps", "ensemble"])
def test_they_are_written_as_programs(
    name: str, models: dict[str, Path], ensemble: Path, support: Path, tmp_path: Path
) -> None:
    folder = ensemble if name == "ensemble" else models[name]
    written = export_model(folder, tmp_path / "net.pt2", Kind.torch, support=support)
    assert [said.difference <= 1e-4 for said in written.values()] == [True]


@pytest.mark.parametrize("name", ["gradient steps", "statistics of the support", "not a head on features", "ensemble"])
def test_what_has_no_features_for_every_task_is_refused_in_one_line(
    name: str, models: dict[str, Path], ensemble: Path, tmp_path: Path
) -> None:
    folder = ensemble if name == "ensemble" else models[name]
    with pytest.raises(ConfigError, match=r"^.*--support DIR$"):
        export_model(folder, tmp_path / "net.pt2", Kind.torch)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_from_the_model_is_not_left(
    model: Path, support: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "AGREEMENT", -1.0)
    with pytest.raises(ExportError, match="differs from the model"):
        export_model(model, tmp_path / "net.pt2", Kind.torch, support=support)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--support", "classes"], "--support: only with --to"),
        (["--to", "onnx", "--top", "2"], "--top: only without --to"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    arguments: list[str],
    said: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, _, err = run(capsys, monkeypatch, "export", str(model), *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
