"""All classes of a folder at once: what a search for that task, a search for new classes and scikit-learn make of it.

    python benchmarks/all_classes.py --data-root ../shared/data --kinds animals things --minutes 3

Each names the same images by the same labelled ones, at most 20 of each class. The search for new classes was validated
on some of these images; the others never saw them. scikit-learn has a logistic regression on features of
EfficientNet-Lite0 at 224 pixels, as they are and of length 1: the better.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from end_to_end import RESULTS, machine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from superclasses import KINDS, as_on_a_new_machine, write_folder

from autometa.data.dataset import FewShotDataset
from autometa.deployment.all_classes import measure_all_classes
from autometa.learning.features import rows_of_members
from autometa.records import TrialConfig
from autometa.trial.build import candidate
from autometa.trial.job import DatasetRef
from autometa.trial.model_files import job_of
from autometa.trial.opened import open_dataset

FILE = RESULTS / "all_classes.json"
LITE0 = {"learner": "frozen", "backbone": "lite", "lite.model": "lite0", "lite.layer": "head", "lite.image_size": 224}
SEARCHES = {"all-classes": [], "episodes": ["--shot", "5"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as folder:
            as_on_a_new_machine(Path(folder))
            row = measured(kind, root, arguments.minutes, Path(folder))
        print(json.dumps(row), flush=True)
        keep(row)


def measured(kind: str, root: str | None, minutes: float, folder: Path) -> dict[str, Any]:
    """One row: a folder of images of this kind, and what each made of it."""
    photos = write_folder(kind, folder / "photos", data_root=root)
    row: dict[str, Any] = {"kind": kind, "minutes": minutes, **machine()}
    data = open_dataset(DatasetRef(name=str(photos), all_classes=True))
    for task, options in SEARCHES.items():
        model, seconds = searched(photos, task, options, minutes, folder)
        # Both name the images by which a search for all classes is tested.
        place = job_of(model).dataset.model_copy(update={"all_classes": True, "keep_back": None})
        found = measure_all_classes(model, dataset=place, with_baselines=False)
        row[f"search --task {task}"] = {
            "right": round(100 * found.of_all.mean, 2),
            "seconds": round(seconds, 1),
            "winner": job_of(model).config.values,
        }
        row["images"], row["classes"] = found.of_all.images, found.classes
    row["scikit-learn"] = by_scikit_learn(data)
    return row


def searched(photos: Path, task: str, options: list[str], minutes: float, folder: Path) -> tuple[Path, float]:
    """The model that a search hands over, and its seconds."""
    command = ["search", "--dataset", str(photos), "--task", task, "--time-budget", f"{60 * minutes:g}s", *options]
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "autometa", *command, "--study", task], cwd=folder, check=True)
    return folder / "runs" / task / "model", time.monotonic() - started


def by_scikit_learn(data: FewShotDataset) -> dict[str, Any]:
    """Part that is right, in per cent, of both, and the seconds of the first with its features."""
    started = time.monotonic()
    learner = candidate(TrialConfig(values=dict(LITE0))).build(image_shape=data.image_shape, way=2, train_classes=1)
    learner.eval().backbone.normalised_by(data.mean, data.std)
    labelled, asked = data.labelled_members("test"), data.members("test")
    assert labelled is not None
    (known,) = rows_of_members(learner, data, np.concatenate(labelled), torch.device("cpu")).values()
    (new,) = rows_of_members(learner, data, np.concatenate(asked), torch.device("cpu")).values()
    targets, right = (np.repeat(np.arange(len(of)), [len(images) for images in of]) for of in (labelled, asked))
    found, seconds = {}, 0.0
    for name, change in (("as they are", np.asarray), ("of length 1", normalize)):
        fitted = LogisticRegression(max_iter=1000).fit(change(known.numpy()), targets)
        found[name] = round(100 * fitted.score(change(new.numpy()), right), 2)
        seconds = seconds or time.monotonic() - started
    return {"right": max(found.values()), "seconds": round(seconds, 1), **found}


def keep(row: dict[str, Any]) -> None:
    """Add a row to the results, in place of an earlier one of the same kind and time, and write the table."""
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    rows = [known for known in rows if (known["kind"], known["minutes"]) != (row["kind"], row["minutes"])] + [row]
    FILE.write_text(json.dumps(rows, indent=2) + "\n")
    columns = [*(f"search --task {task}" for task in SEARCHES), "scikit-learn"]
    lines = [f"| folder | minutes | classes | images | {' | '.join(columns)} |", "|---" * (4 + len(columns)) + "|"]
    for one in rows:
        values = [f"{one[column]['right']:.1f} ({one[column]['seconds']:.0f} s)" for column in columns]
        lines.append(
            f"| {one['kind']} | {one['minutes']:g} | {one['classes']} | {one['images']} | {' | '.join(values)} |"
        )
    note = "Images named rightly, in per cent, and seconds. `python benchmarks/all_classes.py`"
    FILE.with_suffix(".md").write_text("\n".join([*lines, "", note]) + "\n")


if __name__ == "__main__":
    main()
