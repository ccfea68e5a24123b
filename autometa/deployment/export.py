"""Files that other programs run: a trained model as ONNX or as a `torch.export` program, checked on real images.

Each file has its facts inside, and as JSON beside it: what it takes and gives, and the names of its classes.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

import autometa
from autometa.data.episodes import EpisodeBatch
from autometa.data.image_pool import ImagePool
from autometa.deployment import programs
from autometa.deployment.calibration import TaskShape, episodes_of
from autometa.deployment.graphs import Classifier, Episode, Features, features_of, with_head
from autometa.deployment.pictures import Reader, support_in
from autometa.deployment.predictor import Predictor
from autometa.deployment.programs import Check, Kind, Part
from autometa.deployment.trained import TrainedModel, open_model
from autometa.errors import AutometaError, ConfigError
from autometa.learning import checkpoint_files
from autometa.records import Record
from autometa.trial.model_files import ModelInput, name_of

AGREEMENT = 1e-4
FORMAT = "autometa-export/1"
_MOST_IMAGES = 64  # of the support that a classifier is checked on
# Labelled images of each class and images to name, of the episodes that other files are checked on.
_SHAPES, _SEED = (([2, 2, 2], 2), ([1, 2], 1)), 4_000_000
_log = logging.getLogger(__name__)


class FileFacts(Record):
    """What a file is, as it says inside.

    `inputs` and `output` name tensors of float32 with their axes; those that are named may have any length. Classes
    stand in the order of the output. `temperature` and `shot_bias`, as of `Calibration`, are inside the file.
    """

    format: str = FORMAT
    autometa: str
    model: str
    part: Literal["features", "episode", "classifier"]
    inputs: dict[str, list[str | int]]
    output: dict[str, list[str | int]]
    pixels: str
    classes: list[str] = []
    shots: list[int] = []
    temperature: float | None = None
    shot_bias: float | None = None


class Exported(FileFacts):
    """The same, with the largest difference between the file and the model on so many real images."""

    images: int
    difference: float


class ExportError(AutometaError):
    """A model that could not be written, or a file that does not answer as the model does."""


def export_model(
    model: str | Path,
    file: Path,
    kind: Kind,
    *,
    support: Path | None = None,
    dataset: str | Path | None = None,
    data_root: str | Path | None = None,
) -> dict[Path, Exported]:
    """Write a model as files for other programs, and check each against the model; returns what was written.

    With a support folder it is one file, the classifier of its classes. Without, `file` gives features, and a second
    one, whose name ends in `-episode`, names images by a support set. Where the model allows but one of them, the
    other is left out.

    Args:
        model: folder of a trained model.
        support: labelled images, one folder per class.
        dataset, data_root: where the data is now that the model was validated on.

    Raises:
        ConfigError: this model cannot be exported so, or packages are missing.
        DataError: there are no images to check the files with.
        ExportError: a file does not agree with the model.
    """
    programs.require(kind)
    if support is not None:
        predictor = Predictor(model, dataset=dataset, data_root=data_root, use_gpu=False).fit(support)
        parts = {file: _classifier(predictor, support)}
        opened = predictor.trained_
    else:
        opened = open_model(Path(model), dataset=dataset, data_root=data_root, use_gpu=False)
        parts = _without_classes(opened, file)
    return {place: _written(part, place, kind, opened) for place, part in parts.items()}


def _classifier(predictor: Predictor, support: Path) -> Part:
    """Checked on the support images themselves: others may not be at hand."""
    taken, found = predictor.trained_.taken, predictor.calibration_
    files = [file for _, file in support_in(support).files]
    files = files[:: max(1, len(files) // _MOST_IMAGES)]
    pixels, _ = Reader(taken).files(files)
    images = torch.from_numpy(255 - pixels if taken.is_inverted else pixels).float()
    shots = predictor.shots_.tolist()

    def soften(logits: torch.Tensor) -> torch.Tensor:
        return found.softened(logits, shots) if found else logits

    task = predictor.task_.episode(torch.from_numpy(pixels[:1]))
    expected = torch.from_numpy(predictor.predict_proba(files))
    classes = [str(name) for name in predictor.classes_]
    return Part(
        "classifier",
        Classifier(predictor.trained_.learner, taken, task, soften),
        {"images": ["batch", *_axes(taken)]},
        {"probabilities": ["batch", len(classes)]},
        [Check({"images": images}, expected), Check({"images": images[:1]}, expected[:1])],
        {
            "classes": classes,
            "shots": shots,
            "temperature": found.temperature if found else 1.0,
            "shot_bias": found.shot_bias if found else 0.0,
        },
    )


def _without_classes(opened: TrainedModel, file: Path) -> dict[Path, Part]:
    if opened.data is None:
        raise ConfigError(
            f"a file is checked on validation images, and {opened.missing}: "
            "give --dataset, --data-root or --support DIR"
        )
    found: dict[Path, Part] = {}
    reasons = []
    for place, part in ((file, _features), (file.with_stem(f"{file.stem}-episode"), _episode)):
        try:
            found[place] = part(opened)
        except ConfigError as error:
            reasons.append(error)
    if not found:
        raise reasons[0]
    for reason in reasons:
        _log.warning("one file is left out: %s", reason)
    return found


def _features(opened: TrainedModel) -> Part:
    taken, learner = opened.taken, with_head(opened.learner)
    with torch.no_grad():
        checks = [
            Check({"images": _pixels(one.query_x, taken)}, features_of(learner, one.query_x[0]))
            for one in _validation_episodes(opened)
        ]
    images, width = ["batch", *_axes(taken)], checks[0].expected.shape[1]
    module = Features(opened.learner, taken)
    return Part("features", module, {"images": images}, {"features": ["batch", width]}, checks, {})


def _episode(opened: TrainedModel) -> Part:
    taken, learner = opened.taken, opened.learner
    module = Episode(learner, taken)
    with torch.no_grad():
        checks = [
            Check(
                {
                    "support": _pixels(one.support_x, taken),
                    "labels": F.one_hot(one.support_y[0], one.way).float(),
                    "images": _pixels(one.query_x, taken),
                },
                learner.query_logits(one)[0],
            )
            for one in _validation_episodes(opened)
        ]
    inputs: dict[str, list[str | int]] = {
        "support": ["labelled", *_axes(taken)],
        "labels": ["labelled", "classes"],
        "images": ["batch", *_axes(taken)],
    }
    return Part("episode", module, inputs, {"logits": ["batch", "classes"]}, checks, {})


def _validation_episodes(opened: TrainedModel) -> list[EpisodeBatch]:
    """Two of different shape, one of them with one image more of one class than of the other."""
    assert opened.data is not None
    pool = ImagePool(opened.data, "val")
    shapes = (TaskShape(shots=shots, query=query, episodes=1) for shots, query in _SHAPES)
    return [episode for shape in shapes for episode in episodes_of(pool, shape, _SEED)]


def _pixels(images: Tensor, taken: ModelInput) -> Tensor:
    """From 0 to 255, [P, C, H, W], of images as a learner takes them, [1, P, C, H, W]."""
    mean, std = (torch.tensor(part).reshape(-1, 1, 1) for part in (taken.mean, taken.std))
    pixels = (255 * (images[0] * std + mean)).round()
    return 255 - pixels if taken.is_inverted else pixels


def _axes(taken: ModelInput) -> list[str | int]:
    return [taken.channels, taken.size, taken.size]


def _written(part: Part, file: Path, kind: Kind, opened: TrainedModel) -> Exported:
    part.module.eval().requires_grad_(False)
    facts = FileFacts(
        autometa=autometa.__version__,
        model=name_of(opened.folder),
        part=part.name,
        inputs=dict(part.inputs),
        output=dict(part.output),
        pixels=f"{'grey' if opened.taken.channels == 1 else 'RGB'} from 0 to 255, of the square in the middle",
        **part.facts,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it has agreed: nobody shall find a file that is wrong.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}-") as folder:
        new = Path(folder) / file.name
        programs.write(part, new, kind, facts.model_dump_json())
        difference = programs.difference(part, new, kind)
        if not difference <= AGREEMENT:
            raise ExportError(f"{file} is not written: it differs from the model by {difference:.2g}")
        os.replace(new, file)
    images = sum(len(one.expected) for one in part.checks)
    said = Exported(**facts.model_dump(), images=images, difference=difference)
    checkpoint_files.write(file.with_suffix(".json"), (said.model_dump_json(indent=1) + "\n").encode())
    return said
