"""What `autometa predict` is worth on classes that nobody trained on: accuracy, probabilities, and "none of these".

    python benchmarks/predict.py --data-root ../shared/data --minutes 4

A small model of CIFAR-FS (`RECIPES["pretrain + logistic"]` of equal_cost.py, for so many minutes on one core) names
images of the 20 test classes. First from folders of files, as a user has them, against what `autometa evaluate` said of
the same model. Then tasks of several shapes, with as many images of five classes that are not among the labelled ones:
temperature and threshold come from validation classes alone. Nothing is chosen here by what test classes show.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from end_to_end import RESULTS, machine
from equal_cost import trained
from PIL import Image

import autometa
from autometa.data.dataset import FewShotDataset
from autometa.data.image_pool import ImagePool
from autometa.deployment.calibration import TaskShape, calibration_error, episodes_of
from autometa.deployment.likeness import SCORES
from autometa.deployment.trained import TrainedModel, open_model
from autometa.learning.evaluation import interval
from autometa.trial.evaluate import measure_checkpoint
from autometa.trial.measured import together

FILE = RESULTS / "predict.json"
RATE = 0.05
# Labelled images of each class.
TASKS: dict[str, Sequence[int]] = {
    "5-way 1-shot": [1] * 5,
    "5-way 5-shot": [5] * 5,
    "5-way, 1 to 20": [1, 2, 5, 10, 20],
    "10-way 5-shot": [5] * 10,
}
UNKNOWN, QUERY, SEED = 5, 15, 91


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--model", type=Path, help="one that is trained already")
    parser.add_argument("--tasks", type=int, default=200, help="of each shape")
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    with tempfile.TemporaryDirectory() as folder:
        name = "pretrain + logistic"
        model = arguments.model or trained("cifar-fs-5w5s", 60 * arguments.minutes, 0, root, Path(folder), [name])[name]
        opened = open_model(model, data_root=root, use_gpu=False)
        results: dict[str, Any] = {**machine(), "minutes": arguments.minutes, "tasks": arguments.tasks}
        results["from files, 5-way 5-shot"] = from_files(opened, root, arguments.tasks, Path(folder) / "photos")
        for task, shots in TASKS.items():
            results[task] = on_test_classes(opened, shots, arguments.tasks)
            print(task, json.dumps(results[task]), flush=True)
    FILE.write_text(json.dumps(results, indent=2) + "\n")
    FILE.with_suffix(".md").write_text(table(results))


def from_files(opened: TrainedModel, root: str | None, tasks: int, folder: Path) -> dict[str, Any]:
    """`Predictor` on folders of image files, and what `evaluate` promises on six times as many episodes."""
    assert opened.data is not None
    random, found = np.random.default_rng(SEED), []
    for task in range(tasks):
        place = folder / str(task)
        write_task(opened.data, place, random)
        predictor = autometa.Predictor(opened.folder, data_root=root, use_gpu=False).fit(place / "support")
        files = sorted((place / "query").rglob("*.png"))
        found.append(float((predictor.predict(files) == [file.parent.name for file in files]).mean()))
    got = interval(found, SEED)
    place = opened.job.dataset.model_copy(update={"root": root})
    how: dict[str, Any] = {"episodes": 6 * tasks, "seed": SEED, "use_gpu": False, "dataset": place}
    promised = together([measure_checkpoint(opened.folder, **how)])
    assert promised.over_classes is not None
    row: dict[str, Any] = {"predict": shown(got.mean, got.half_width)}
    row["evaluate"] = shown(promised.mean, promised.half_width)
    row["interval for new classes"] = shown(promised.over_classes.low, promised.over_classes.high)
    print("from files", json.dumps(row), flush=True)
    return row


def write_task(data: FewShotDataset, place: Path, random: np.random.Generator) -> None:
    """Five test classes as files: five labelled images of each, fifteen to name."""
    for label in random.choice(data.splits["test"], 5, replace=False):
        chosen = random.choice(np.flatnonzero(data.labels == label), 5 + QUERY, replace=False)
        for number, index in enumerate(chosen):
            file = place / ("support" if number < 5 else "query") / data.class_names[label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data.images[index].transpose(1, 2, 0)).save(file)


@torch.no_grad()
def on_test_classes(opened: TrainedModel, shots: Sequence[int], tasks: int) -> dict[str, Any]:
    """Accuracy, calibration and recognition on episodes of test classes, by what validation classes showed."""
    assert opened.data is not None
    found, with_unknown = opened.calibration(list(shots)), opened.calibration(list(shots), reject_rate=RATE)
    assert found is not None
    assert with_unknown is not None
    assert with_unknown.rejection is not None
    shape = TaskShape(shots=list(shots), query=QUERY, episodes=tasks, unknown=UNKNOWN)
    logits, softer, right = [], [], []
    known, unknown = {name: [] for name in SCORES}, {name: [] for name in SCORES}
    for episode in episodes_of(ImagePool(opened.data, "test"), shape, SEED):
        queries = episode.query_y.shape[1]
        said = opened.learner.query_logits(episode)
        logits.append(said[0, :queries])
        softer.append(found.softened(said[0, :queries], episode.shots or shots))
        right.append(episode.query_y[0])
        for name, score in SCORES.items():
            scores = score(opened.learner, episode, said)[0]
            known[name].append(scores[:queries])
            unknown[name].append(scores[queries:])
    raw, every, targets = torch.stack(logits), torch.stack(softer), torch.stack(right)
    accuracy = interval((every.argmax(-1) == targets).double().mean(1).tolist(), SEED)
    as_they_are, fitted = (
        calibration_error(said.softmax(-1).flatten(0, 1).numpy(), targets.flatten().numpy()) for said in (raw, every)
    )
    plain = interval((raw.argmax(-1) == targets).double().mean(1).tolist(), SEED)
    chosen, threshold = with_unknown.rejection.score, with_unknown.rejection.threshold
    return {
        "accuracy": shown(accuracy.mean, accuracy.half_width),
        "accuracy without shot bias": shown(plain.mean, plain.half_width),
        "in validation": shown(found.accuracy.mean, found.accuracy.half_width),
        "temperature": round(found.temperature, 3),
        "shot bias": round(found.shot_bias, 3),
        "calibration error": round(fitted, 4),
        "calibration error without temperature": round(as_they_are, 4),
        "score": chosen,
        "known rejected by its threshold": part(known[chosen], threshold),
        "unknown recognised by its threshold": part(unknown[chosen], threshold),
        "unknown recognised at 5 % of known rejected": {
            name: part(unknown[name], float(np.quantile(torch.cat(known[name]).numpy(), RATE))) for name in SCORES
        },
    }


def part(scores: Sequence[torch.Tensor], threshold: float) -> float:
    """Per cent below the threshold."""
    return round(100 * float((torch.cat(list(scores)) < threshold).double().mean()), 1)


def shown(*values: float) -> list[float]:
    """Per cent."""
    return [round(100 * value, 2) for value in values]


def table(results: dict[str, Any]) -> str:
    lines = [
        "| task of test classes | accuracy | calibration error, without temperature | known rejected, unknown found "
        "| similarity | maximum softmax | energy |",
        "|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        row = results[task]
        at_rate = row["unknown recognised at 5 % of known rejected"]
        lines.append(
            f"| {task} | {row['accuracy'][0]:.1f} ± {row['accuracy'][1]:.1f} | {row['calibration error']:.3f}, "
            f"{row['calibration error without temperature']:.3f} | {row['known rejected by its threshold']:.1f}, "
            f"{row['unknown recognised by its threshold']:.1f} | {at_rate['similarity']:.1f} | "
            f"{at_rate['confidence']:.1f} | {at_rate['energy']:.1f} |"
        )
    files = results["from files, 5-way 5-shot"]
    low, high = files["interval for new classes"]
    return (
        "\n".join(lines)
        + f"\n\nPer cent. The last three columns: unknown images recognised where {100 * RATE:.0f} % of the known are "
        f"rejected. From files, 5-way 5-shot: {files['predict'][0]:.1f} ± {files['predict'][1]:.1f} over "
        f"{results['tasks']} tasks, where `evaluate` said {files['evaluate'][0]:.1f} ± {files['evaluate'][1]:.1f} "
        f"[{low:.1f}, {high:.1f}]. {results['processor']}, {results['date']}. `python benchmarks/predict.py`\n"
    )


if __name__ == "__main__":
    main()
