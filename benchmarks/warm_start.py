"""What shipped past studies are worth to a search: each source of images is left out in turn, with all its studies.

    python benchmarks/warm_start.py                                       # simulated, on the archives in `studies/`
    python benchmarks/warm_start.py --data-root ../shared/data --real animals-5w5s cifar-fs-5w5s --minutes 4

Simulated: a forest is fitted to the candidates of one study alone (Geurts et al. 2006), another kind of model than the
prior's, and answers for any configuration of the space. A candidate's accuracy is what it would have had at the
highest rung of its study: its last, and the median gain of others from there. Searches see it with the noise of a
look at the end. The incumbent is what has looked best. Its regret is in points, of its accuracy without noise, to the
best that any search found. Trials count as core-seconds, since a rung costs each candidate the same seconds.

Real: two searches of the same seconds and seed, one `--cold`, the other with the archives of all other sources.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from archived import SOURCES, at_the_end, names, with_result
from build_archive import STUDIES
from end_to_end import RESULTS, machine
from equal_cost import TASKS, dataset_of, measured, search, shown
from sklearn.ensemble import ExtraTreesRegressor
from superclasses import as_on_a_new_machine
from transfer_runs import be_quiet

from autometa.archives import archive
from autometa.archives.read import past_study
from autometa.data import cache
from autometa.data.load import load_dataset
from autometa.learning.intervals import difference
from autometa.past import PastStudy
from autometa.records import Scalar
from autometa.space.files import load_space
from autometa.space.space import SearchSpace
from autometa.study import warm
from autometa.trial.measured import together

TRIALS, AFTER = 40, (1, 5, 10, 20, 40)
MODES = ("cold", "warm")


@dataclass(frozen=True)
class Landscape:
    """What a search finds in the place of one study's data: accuracies in per cent, by a forest."""

    study: archive.ArchivedStudy
    space: SearchSpace
    forest: ExtraTreesRegressor
    noise: float

    @classmethod
    def of(cls, study: archive.ArchivedStudy) -> Landscape:
        space = load_space(study.study.space)
        trials = with_result(study.trials)
        rows = [encoded(space, trial.config.values) for trial in trials]
        forest = ExtraTreesRegressor(300, random_state=0).fit(rows, at_the_end(trials))
        last = max(trial.curve[-1].rung for trial in trials)
        looks = [trial.curve[-1].accuracy.half_width for trial in trials if trial.curve[-1].rung == last]
        return cls(study, space, forest, 100 * statistics.median(looks) / 1.96)

    def accuracy(self, values: Mapping[str, Scalar]) -> float:
        return float(self.forest.predict([encoded(self.space, values)])[0])


def encoded(space: SearchSpace, values: Mapping[str, Scalar]) -> list[float]:
    """Numbers for a forest; what plays no part is -1. A study of an earlier space is made complete."""
    numbers = space.encode(space.fitted(values) or values)
    return [-1.0 if math.isnan(number) else number for number in numbers]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--studies", nargs="+", help="targets, by name; all by default")
    parser.add_argument("--real", nargs="+", choices=TASKS, help="tasks to search in earnest")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--options", nargs="*", default=[], help="further options of real searches, such as external")
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    be_quiet()
    if arguments.real:
        return real(arguments)
    return simulated(arguments)


def simulated(arguments: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    for name in arguments.studies or names():
        target = Landscape.of(archive.read(STUDIES / name))
        past = of_other_sources(SOURCES[name])
        for row in compared(target, past, arguments.seeds):
            rows.append({"study": name, "source": SOURCES[name], "past studies": len(past), **row})
            print(json.dumps(rows[-1]), flush=True)
    if not arguments.studies:
        facts = {**machine(), "seeds": arguments.seeds, "trials": TRIALS, "over sources": summary(rows), "rows": rows}
        (RESULTS / "warm_start.json").write_text(json.dumps(facts, indent=2) + "\n")
        (RESULTS / "warm_start.md").write_text(table(rows))


def of_other_sources(source: str) -> list[PastStudy]:
    return [past_study(STUDIES / name) for name in names() if SOURCES[name] != source]


def compared(target: Landscape, past: Sequence[PastStudy], seeds: int) -> list[dict[str, Any]]:
    """A row for each mode, of medians over seeds."""
    runs = {mode: [incumbents(target, past, mode, seed) for seed in range(seeds)] for mode in MODES}
    best = max(max(run) for found in runs.values() for run in found)
    cold_end = statistics.median(run[-1] for run in runs["cold"])
    return [
        {
            "mode": mode,
            "best of all": round(best, 1),
            "regret": {after: round(statistics.median(best - run[after - 1] for run in of_mode), 2) for after in AFTER},
            "first behind": round(statistics.median(cold_end - run[0] for run in of_mode), 2),
            "ahead": round(statistics.median(run[-1] for run in of_mode) - cold_end, 2),
            "trials": statistics.median(trials_to(run, cold_end) for run in of_mode),
        }
        for mode, of_mode in runs.items()
    ]


def trials_to(run: Sequence[float], accuracy: float) -> int:
    """The first trial after which the incumbent is as good; one more than there were where it never is."""
    return next((number for number, value in enumerate(run, 1) if value >= accuracy - 1e-9), len(run) + 1)


def incumbents(target: Landscape, past: Sequence[PastStudy], mode: str, seed: int) -> list[float]:
    """The accuracy without noise of what has looked best, after each trial of one search."""
    generator = np.random.default_rng([seed, len(target.study.trials)])
    record = target.study.study.model_copy(update={"seed": seed})
    known = warm.permitted(
        warm.Past(() if mode == "cold" else past), transductive=False, external=target.space.name == "pretrained"
    )
    start = warm.start(record, target.space, known, trials=TRIALS, trials_so_far=0)
    study = optuna.create_study(direction="maximize", sampler=start.sampler)
    for values, _ in start.first(target.space):
        study.enqueue_trial(dict(values))
    seen: list[tuple[float, float]] = []
    for _ in range(TRIALS):
        trial = study.ask()
        accuracy = target.accuracy(target.space.suggest(trial))
        look = accuracy + target.noise * float(generator.standard_normal())
        trial.report(look, 1)
        study.tell(trial, look)
        seen.append((look, accuracy))
    return [max(seen[:count])[1] for count in range(1, TRIALS + 1)]


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By mode, the median source and the worst one; a source counts as the mean of its studies."""
    cold = {row["study"]: row["trials"] for row in rows if row["mode"] == "cold"}
    found: dict[str, Any] = {}
    for mode in MODES:
        of_mode = [row | {"times fewer": cold[row["study"]] / row["trials"]} for row in rows if row["mode"] == mode]
        behind, fewer, ahead = (over_sources(of_mode, what) for what in ("first behind", "times fewer", "ahead"))
        found[mode] = {
            "first behind cold's end": {"median": statistics.median(behind), "worst": max(behind)},
            "times fewer trials to cold's end": {"median": statistics.median(fewer), "worst": min(fewer)},
            "ahead of cold at the end": {"median": statistics.median(ahead), "worst": min(ahead)},
        }
    return found


def over_sources(rows: Sequence[Mapping[str, Any]], what: str) -> list[float]:
    sources = dict.fromkeys(row["source"] for row in rows)
    return [round(statistics.mean(row[what] for row in rows if row["source"] == source), 2) for source in sources]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    after = ", ".join(map(str, AFTER))
    lines = [
        f"| study | mode | regret after {after} | first behind cold's end | trials to cold's end |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        regrets = " / ".join(f"{value:.1f}" for value in row["regret"].values())
        cells = [row["study"], row["mode"], regrets, f"{row['first behind']:.1f}", f"{row['trials']:g}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\nPoints of accuracy, medians over seeds. `python benchmarks/warm_start.py`\n"


def real(arguments: argparse.Namespace) -> None:
    file = RESULTS / "warm_start-real.json"
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    for task in arguments.real:
        row = searched(task, root, arguments)
        print(json.dumps(row), flush=True)
        rows = json.loads(file.read_text()) if file.is_file() else []
        key = ("task", "minutes", "options")
        rows = [old for old in rows if any(old[name] != row[name] for name in key)]
        file.write_text(json.dumps([*rows, row], indent=2) + "\n")


def searched(task: str, root: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: a warm and a cold search of a task, each measured on the same meta-test episodes."""
    source = TASKS[task][0].removeprefix("folder ")
    source = "cifar-fs" if source == "grey" else source
    shared = cache.root()
    found, row = {}, {"task": task, "minutes": arguments.minutes, "options": arguments.options, **machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        as_on_a_new_machine(folder)
        load_dataset(dataset_of(task, root, folder), data_root=root)
        past = folder / "past"
        for other in names():
            if SOURCES[other] != source:
                shutil.copytree(STUDIES / other, past / other)
        for mode, option in (("cold", "cold"), ("warm", f"prior={past}")):
            without_features(shared, folder / f"cache-{mode}")
            model, took = search(task, 60 * arguments.minutes, 0, root, folder, [*arguments.options, option])
            found[mode] = measured(model, root)
            accuracy = together([found[mode]])
            row[mode] = {
                "test": shown(accuracy.mean, accuracy.half_width),
                "seconds": round(took, 1),
            }
            shutil.rmtree(folder / "runs")
    os.environ["AUTOMETA_CACHE"] = str(shared)
    ahead, half = difference(found["warm"].scores, found["cold"].scores)
    return row | {"warm ahead": shown(ahead, half)}


def without_features(shared: Path, folder: Path) -> None:
    """Give searches a cache of their own: none shall find features of another one, but all what was compiled."""
    folder.mkdir()
    for name in ("kernels", "datasets"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((shared / name).resolve())
    os.environ["AUTOMETA_CACHE"] = str(folder)


if __name__ == "__main__":
    main()
