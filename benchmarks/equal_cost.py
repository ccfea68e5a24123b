"""What a search hands over, against published recipes that were trained for the same core-seconds.

    python benchmarks/equal_cost.py --data-root ../shared/data --tasks omniglot-5w1s --minutes 4

Per task and time T: `autometa search --time-budget T` on both cores; then each recipe for 2 T on one core, two at once.
Recipes are fixed before: prototypical networks (Snell et al. 2017), pre-training with logistic regression (Tian et al.
2020), R2-D2's ridge head (Bertinetto et al. 2019) and MAML (Finn et al. 2017), with Conv4-64 and the settings in
`RECIPES`. Their cosine schedule ends with their time. All are measured on the same 2,000 meta-test episodes. Nothing
else should run on the machine. With weights from elsewhere the recipe is EfficientNet-Lite0 and logistic regression:

    python benchmarks/equal_cost.py --data-root ../shared/data --tasks animals-5w5s --minutes 2 --options external \
        --recipes "lite0 + logistic"
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from end_to_end import RESULTS, machine
from superclasses import KINDS, as_on_a_new_machine, name_or_folder

from autometa.data.load import load_dataset
from autometa.hpo.ledger import record_of
from autometa.learning.intervals import difference
from autometa.records import Budget, EpisodeSpec
from autometa.trial.evaluate import measure_checkpoint
from autometa.trial.measured import Measured, together
from autometa.trial.model_files import job_of
from autometa.trial.model_recipes import recipes_of
from autometa.trial.recipe import Recipe, write_recipes

FILE = RESULTS / "equal_cost.json"
TEST_EPISODES, TEST_SEED = 2000, 77
CONV4_64: dict[str, Any] = {"backbone": "conv", "conv.depth": 4, "conv.width": 64, "norm": "running"}
EPISODIC: dict[str, Any] = {"optimizer": "adam", "outer_lr": 1e-3, "episodes_per_step": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "prototypical": CONV4_64 | EPISODIC | {"learner": "prototypical", "train_way": 20},
    "pretrain + logistic": CONV4_64
    | {
        "learner": "pretrain",
        "pretrain.head": "finetune",
        "pretrain.batch_size": 64,
        "optimizer": "sgd",
        "outer_lr": 0.05,
        "weight_decay": 5e-4,
    },
    "ridge (R2-D2)": CONV4_64 | EPISODIC | {"learner": "ridge"},
    "lite0 + logistic": {
        "learner": "frozen",
        "lite.model": "lite0",
        "lite.image_size": 224,
        "frozen.head": "logistic",
        "frozen.centre": "none",
    },
    "MAML": {k: v for k, v in CONV4_64.items() if k != "norm"}
    | EPISODIC
    | {"learner": "maml", "maml.norm": "support", "maml.inner_lr": 0.1, "maml.inner_steps": 3, "episodes_per_step": 2},
}
# Natural images are cropped and mirrored in training, as the papers do; characters are not.
TASKS: dict[str, tuple[str, EpisodeSpec, str]] = {
    "omniglot-5w1s": ("omniglot", EpisodeSpec(way=5, shot=1, query=5), "none"),
    "omniglot-20w1s": ("omniglot", EpisodeSpec(way=20, shot=1, query=5), "none"),
    "cifar-fs-5w1s": ("cifar-fs", EpisodeSpec(way=5, shot=1, query=15), "crop_flip"),
    "cifar-fs-5w5s": ("cifar-fs", EpisodeSpec(way=5, shot=5, query=15), "crop_flip"),
    "fc100-5w5s": ("fc100", EpisodeSpec(way=5, shot=5, query=15), "crop_flip"),
    "digits-5w1s": ("digits", EpisodeSpec(way=5, shot=1, query=15), "none"),
    **{f"{kind}-5w5s": (f"folder {kind}", EpisodeSpec(way=5, shot=5, query=15), "crop_flip") for kind in KINDS},
    "grey-5w5s": ("folder grey", EpisodeSpec(way=5, shot=5, query=15), "crop_flip"),
}
TRAINED = [name for name in RECIPES if name != "lite0 + logistic"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--recipes", nargs="*", default=TRAINED, choices=list(RECIPES))
    parser.add_argument("--options", nargs="*", default=[], help="further options of the search, such as cold")
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    for task in arguments.tasks:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                as_on_a_new_machine(Path(folder))
                load_dataset(dataset_of(task, root, Path(folder)), data_root=root)  # decoded before the clock starts
                row = compared(task, arguments, seed, root, Path(folder))
            print(json.dumps(row), flush=True)
            keep(row)


def compared(task: str, arguments: argparse.Namespace, seed: int, root: str | None, folder: Path) -> dict[str, Any]:
    """One row: the search and the recipes on one task."""
    seconds = 60 * arguments.minutes
    searched, took = search(task, seconds, seed, root, folder, arguments.options)
    models = {"search": searched} | trained(task, 2 * seconds, seed, root, folder, arguments.recipes)
    scores = {name: measured(model, root) for name, model in models.items()}
    row: dict[str, Any] = {"task": task, "minutes": arguments.minutes, "seed": seed, "options": arguments.options}
    members = [recipe.config for recipe in recipes_of(searched)]
    row |= {**machine(), "search_seconds": round(took, 1), "winner": members[0], "others of its ensemble": members[1:]}
    row["best of the first five"] = best_of_first(folder / "runs", 5)
    for name, found in scores.items():
        accuracy = together([found])
        row[name] = {"test": shown(accuracy.mean, accuracy.half_width)}
        if name != "search":
            ahead, half = difference(scores["search"].scores, found.scores)
            row[name]["search ahead"] = shown(ahead, half)
    return row


def best_of_first(runs: Path, count: int) -> dict[str, Any]:
    """Number and configuration of the best of the first candidates of a search, as far as each has come."""
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{runs}/autometa.db")
    began = [trial for trial in study.trials[:count] if trial.state != optuna.trial.TrialState.WAITING]
    records = [record_of(trial) for trial in began]
    known = {record.number: record.last.accuracy.sure for record in records if record.last}
    best = records[max(known, key=lambda number: known[number])]
    return {"trial": best.number, **best.config.values}


def dataset_of(task: str, root: str | None, folder: Path) -> str:
    """The data set of a task; one that is a folder is made at first use."""
    return name_or_folder(TASKS[task][0], folder / task, data_root=root)


def search(
    task: str, seconds: float, seed: int, root: str | None, folder: Path, options: Sequence[str]
) -> tuple[Path, float]:
    """The model that a search hands over, and the seconds from Enter to the prompt."""
    dataset, spec = dataset_of(task, root, folder), TASKS[task][1]
    command = ["search", "--dataset", dataset, "--time-budget", f"{seconds:g}s", "--seed", str(seed), "--study", "s"]
    command += ["--way", str(spec.way), "--shot", str(spec.shot), "--query", str(spec.query)]
    command += (["--data-root", root] if root else []) + [f"--{option}" for option in options]
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "autometa", *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the search failed: {done.stderr}")
    return folder / "runs" / "s" / "model", time.monotonic() - started


def trained(
    task: str, seconds: float, seed: int, root: str | None, folder: Path, names: Sequence[str]
) -> dict[str, Path]:
    """Each recipe's model, two trained at a time, each on one core."""
    dataset, (_, spec, augment) = dataset_of(task, root, folder), TASKS[task]
    waiting, running, found = list(names), [], {}
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            file, found[name] = folder / f"{len(waiting)}.toml", folder / f"recipe-{len(waiting)}"
            config = RECIPES[name] | {"augment": augment}
            budget = Budget(seconds=seconds, rungs=2)
            recipe = Recipe(
                dataset=dataset, episodes=spec, budget=budget, seed=seed, config=config, validation_episodes=50
            )
            write_recipes(file, [recipe], "toml")
            command = ["train", str(file), "-o", str(found[name]), *(["--data-root", root] if root else [])]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "autometa", *command], env=one_thread, stdout=subprocess.DEVNULL
                )
            )
        if running.pop(0).wait():
            raise SystemExit("a recipe could not be trained")
    return found


def measured(model: Path, root: str | None) -> Measured:
    ref = job_of(model).dataset.model_copy(update={"root": root})
    return measure_checkpoint(model, episodes=TEST_EPISODES, seed=TEST_SEED, use_gpu=False, dataset=ref)


def shown(mean: float, half_width: float) -> list[float]:
    """Per cent, and the half width over episodes."""
    return [round(100 * mean, 2), round(100 * half_width, 2)]


def keep(row: dict[str, Any]) -> None:
    """Put the row into the file of results, in the place of an earlier one."""
    rows = json.loads(FILE.read_text()) if FILE.is_file() else []
    key = ("task", "minutes", "seed", "options")
    rows = [old for old in rows if any(old[k] != row[k] for k in key)]
    FILE.write_text(json.dumps([*rows, row], indent=2) + "\n")
    FILE.with_suffix(".md").write_text(table([*rows, row]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| task | minutes | search | " + " | ".join(RECIPES) + " | search took |",
        "|---" * (len(RECIPES) + 4) + "|",
    ]
    for row in sorted(rows, key=lambda one: (one["task"], one["minutes"], one["seed"])):
        cells = [f"{row[name]['test'][0]:.1f}" if name in row else "" for name in ("search", *RECIPES)]
        name = " ".join([row["task"], *row["options"]])
        lines.append(f"| {name} | {row['minutes']:g} | {' | '.join(cells)} | {row['search_seconds']:.0f} s |")
    text = f"Meta-test accuracy in per cent, {TEST_EPISODES} episodes. `python benchmarks/equal_cost.py`"
    return "\n".join(lines) + f"\n\n{text}\n"


if __name__ == "__main__":
    main()
