"""No batch of a search holds an image of a test class, but for the one measurement at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autometa import trial_attributes as attributes
from autometa.data.load import load_dataset
from autometa.hpo.ledger import ended
from autometa.hpo.storage import load_study, open_storage
from autometa.study import confirm
from tests.study.conftest import environment

# A package that adds a backbone, and with it notes which images of the data set a worker gathers into batches.
WATCHED = """
import json, os, time
from pathlib import Path
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.conv import Conv

NOTES = Path(__file__).parent / "notes"
NOTES.mkdir(exist_ok=True)
gather = ImagePool.gather

def gather_and_note(pool, index):
    # On a CPU an index is one of the whole data set, whatever the pool calls itself.
    assert pool.device.type == "cpu"
    with (NOTES / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps([time.time(), index.tolist()]) + "\\n")
    return gather(pool, index)

ImagePool.gather = gather_and_note

class Watched(Conv):
    pass
"""

SPACE = """
name = "watched"
[parameters.learner]
choices = ["prototypical", "pretrain", "maml"]
[parameters.backbone]
choices = ["watched"]
[parameters."watched.depth"]
choices = [2]
[parameters."watched.width"]
choices = [4]
[parameters.norm]
choices = ["support"]
[parameters.outer_lr]
low = 1e-3
high = 1e-2
log = true
"""
STARTS = ("prototypical", "maml", "pretrain")
TRIALS, STEPS, WORKERS, TOGETHER = 5, 18, 1, 3
AN_EPISODE = 5 * (1 + 5)
EPISODES_A_STEP = 4


def install(site: Path) -> None:
    about = site / "watched-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "watched.py").write_text(WATCHED)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: watched\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[autometa.backbones]\nwatched = watched:Watched\n")


def start(learner: str) -> str:
    values = {"learner": learner, "backbone": "watched", "watched.depth": 2, "watched.width": 4, "norm": "support"}
    lines = [f"{name!r} = {json.dumps(value)}" for name, value in {**values, "outer_lr": 3e-3}.items()]
    return "\n[[start]]\n" + "\n".join(lines) + "\n"


def batches(site: Path) -> list[tuple[float, np.ndarray]]:
    lines = [line for file in (site / "notes").iterdir() for line in file.read_text().splitlines()]
    return sorted(((at, np.array(index)) for at, index in map(json.loads, lines)), key=lambda batch: batch[0])


@pytest.mark.timeout(900)  # a search takes long where much else runs
def test_test_classes_are_in_no_batch_of_a_search_but_those_of_the_one_measurement(tmp_path: Path) -> None:
    install(tmp_path / "site")
    (tmp_path / "watched.toml").write_text(SPACE + "".join(map(start, STARTS)))
    paths = f"{environment()['PYTHONPATH']}{os.pathsep}{tmp_path / 'site'}"
    arguments = [
        "--dataset",
        "digits",
        "--space",
        "watched.toml",
        "--study",
        "t",
        "--trials",
        TRIALS,
        "--budget",
        STEPS,
        "--cold",
    ]
    arguments += ["--vectorise", TOGETHER, "--workers", WORKERS, "--query", 5]
    done = subprocess.run(
        [sys.executable, "-m", "autometa", "search", *map(str, arguments)],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr
    study = load_study("t", open_storage(f"sqlite:///{tmp_path / 'runs' / 'autometa.db'}", create=False))
    trials = ended(study)
    assert {t.params["learner"] for t in trials} == set(STARTS)

    data = load_dataset("digits")
    noted = [(at, set(data.labels[index].tolist())) for at, index in batches(tmp_path / "site")]
    classes = {split: set(ids.tolist()) for split, ids in data.splits.items()}
    measured = [at for at, seen in noted if seen & classes["test"]]
    assert measured
    before = [seen for at, seen in noted if at < measured[0]]
    assert all(seen <= classes["train"] or seen <= classes["val"] for seen in before), "training and validation"
    after = [seen for at, seen in noted if at >= measured[0]]
    assert all(seen <= classes["test"] for seen in after), "the last thing of all"

    sizes: dict[str, list[int]] = {split: [] for split in classes}
    for _, index in batches(tmp_path / "site"):
        split = next(s for s in classes if data.labels[index[0]] in classes[s])
        sizes[split].append(len(index))
    assert sum(sizes["test"]) == confirm.EPISODES * AN_EPISODE, "measured once"
    # Nothing went another way than the one that is watched.
    assert sum(sizes["val"]) >= confirm.CANDIDATES * confirm.EPISODES * AN_EPISODE
    assert sum(sizes["train"]) >= sum(attributes.CURVE.required_of(t)[-1]["steps"] for t in trials) * AN_EPISODE
    assert TOGETHER * EPISODES_A_STEP * AN_EPISODE in sizes["train"], "some were trained as one model"
