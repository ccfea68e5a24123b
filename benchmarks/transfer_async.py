"""Warm start with 8 parallel workers and pruning on LCBench, by its own clock: seconds to the same regret.

    python benchmarks/transfer_async.py --data-root ../shared/data --jobs 4
    python benchmarks/transfer_async.py --pairs tpe+asha prior+curves --tasks 3945 --seeds 2 --results /tmp

A pair is a method of `transfer.py` and a pruner. Each searches for as long as 8 workers need for 50 full trainings of
random configurations. Only full trainings count as found. A trial reports nine times, so asynchronous successive
halving (`asha`) decides after 6 and 17 of 52 epochs and keeps a third; `halving`, which a search of autometa uses by
default, decides after 12, 23 and 46 and keeps a half; `curves` is the prior on learning curves.
"""

from __future__ import annotations

import argparse
import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

import numpy as np
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from transfer_clock import simulate
from transfer_peers import METHODS
from transfer_report import Facts, environment, interval, keep, markdown, short, with_interval
from transfer_runs import Cell, Setting, add_common, cells, noted, open_suite, run_all, seed_of, setting
from transfer_tasks import Array, Cube, Scale, Suite, Task

from autometa.hpo.pruning import make_pruner
from autometa.past import PastStudy

TYPICAL = 1000


def curves(past: Sequence[PastStudy]) -> BasePruner:
    """What this repository adds."""
    from autometa.pruning.pruner import PriorPruner

    return PriorPruner(past=list(past))


PRUNERS: dict[str, Callable[[Sequence[PastStudy]], BasePruner]] = {
    "none": lambda past: NopPruner(),
    "asha": lambda past: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "halving": lambda past: make_pruner("halving", rungs=9),
    "curves": curves,
}
PAIRS = (
    "tpe+none",
    "random+asha",
    "tpe+asha",
    "tpe+halving",
    "tpe+curves",
    "portfolio+asha",
    "prior-cold+asha",
    "prior+asha",
    "prior+halving",
    "prior+curves",
)
REFERENCES = ("tpe+asha", "tpe+halving", "portfolio+asha", "prior+asha", "prior+halving")


@dataclass(frozen=True)
class Run:
    """One search on the clock, as `transfer_clock.Outcome`."""

    method: str  # a pair
    task: str
    seed: int
    limit_seconds: float
    results: list[tuple[float, float]]
    pruned: int
    suggestion_seconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_common(parser)
    pairs = [f"{method}+{pruner}" for method in METHODS for pruner in PRUNERS]
    parser.add_argument("--pairs", nargs="+", choices=pairs, default=list(PAIRS), metavar="METHOD+PRUNER")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trainings", type=int, default=50, help="full ones that the workers have time for")
    arguments = parser.parse_args()
    chosen = setting(parser, arguments, "lcbench")
    suite = open_suite(chosen)
    folder = arguments.partial / f"async-{chosen.label}-{arguments.workers}x{arguments.trainings}"
    search = functools.partial(run, chosen, arguments.workers, arguments.trainings)
    wanted = cells(suite, arguments.tasks, arguments.pairs, arguments.seeds)
    runs = run_all(search, wanted, noted(folder, Run), folder=folder, jobs=arguments.jobs)
    about = {"suite": chosen.label, "workers": arguments.workers, "trainings": arguments.trainings}
    found = about | facts(suite, runs)
    print(keep(arguments.results, "transfer-async", found, table(found)))


def run(setting: Setting, workers: int, trainings: int, cell: Cell) -> Run:
    suite = open_suite(setting)
    task, past = suite.task(cell.task), suite.sources(cell.task)
    method, pruner = cell.method.split("+")
    limit = trainings * training_seconds(task) / workers
    start = METHODS[method](task, past, seed_of(suite, cell))
    outcome = simulate(task, start, PRUNERS[pruner](past), workers=workers, limit_seconds=limit)
    return Run(*cell, limit_seconds=limit, **asdict(outcome))


def training_seconds(task: Task) -> float:
    """What a random configuration takes in full, on average."""
    cube = Cube(task.distributions)
    points = cube.draw(TYPICAL, np.random.default_rng(0))
    return float(np.mean([task.curve(cube.values(point))[-1].seconds for point in points]))


@dataclass(frozen=True)
class Descent:
    """The incumbent's regret on one task over simulated time, mean over seeds: `regret[i]` holds from `seconds[i]`."""

    seconds: Array
    regret: Array

    def reaches(self, target: float) -> float | None:
        """When it is no worse than that, if ever."""
        hit = self.regret <= target
        return float(self.seconds[hit.argmax()]) if hit.any() else None


def descent(scale: Scale, runs: Sequence[Run]) -> Descent:
    """Infinite until each seed has a result."""
    moments = np.array(sorted({when for run in runs for when, _ in run.results} | {0.0}))
    levels = []
    for run in runs:
        best = [np.inf, *accumulate((scale.regret(value) for _, value in run.results), min)]
        ends = [when for when, _ in run.results]
        levels.append(np.array(best)[np.searchsorted(ends, moments, side="right")])
    return Descent(moments, np.mean(levels, axis=0))


def facts(suite: Suite, runs: Sequence[Run]) -> Facts:
    grouped: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for one in runs:
        grouped[one.method][one.task].append(one)
    descents = {
        pair: {task: descent(suite.scale(task), same) for task, same in by_task.items()}
        for pair, by_task in grouped.items()
    }
    rows = {
        pair: {
            "final_regret": interval(np.array([one.regret[-1] for one in by_task.values()]), np.mean),
            "faster_than": {name: gain(by_task, descents[name]) for name in REFERENCES if name in descents},
            **workload([one for same in grouped[pair].values() for one in same]),
        }
        for pair, by_task in descents.items()
    }
    seeds = min(len(same) for by_task in grouped.values() for same in by_task.values())
    return {**environment(), "tasks": len({one.task for one in runs}), "seeds": seeds, "pairs": rows}


def gain(ours: Mapping[str, Descent], theirs: Mapping[str, Descent]) -> Facts:
    """How many times sooner ours is at the regret where theirs ends; 0 where it never is."""
    ratios = []
    for task, other in theirs.items():
        target = float(other.regret[-1])
        when, reference = ours[task].reaches(target), other.reaches(target)
        ratios.append(reference / when if when and reference else 0.0)
    return {"median": interval(np.array(ratios), np.median), "reached": sum(ratio > 0 for ratio in ratios)}


def workload(runs: Sequence[Run]) -> Facts:
    delays = [seconds for one in runs for seconds in one.suggestion_seconds[1:]]
    return {
        "trials_in_full": short(np.median([len(one.results) for one in runs])),
        "trials_pruned": short(np.median([one.pruned for one in runs])),
        "suggestion_seconds": {"median": short(np.median(delays)), "max": short(max(delays))},
    }


def table(found: Facts) -> str:
    references = [name for name in REFERENCES if name in found["pairs"]]
    heads = ["method + pruner", "final regret", *(f"× sooner where {name} ends" for name in references)]
    heads += ["trials in full", "pruned", "s per suggestion: median", "max"]
    lines = [
        f"# Transfer, asynchronous LCBench: {found['tasks']} tasks, {found['seeds']} seeds, {found['workers']} workers",
        "",
        f"Simulated time for {found['trainings']} full trainings of random configurations. [95 % bootstrap intervals",
        "over tasks]. Sooner: median over tasks of simulated seconds, by the mean regret over seeds (and in how many",
        "tasks it is reached).",
        f"Details in the `.json` beside this file. {found['processor']}, {found['date']}.",
        "",
        *markdown(heads, [_row(name, row, references) for name, row in found["pairs"].items()]),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, row: Facts, references: Sequence[str]) -> list[str]:
    faster = [row["faster_than"][reference] for reference in references]
    delay = row["suggestion_seconds"]
    return [
        name.replace("+", " + "),
        with_interval(row["final_regret"]),
        *(f"{with_interval(one['median'], 1)} ({one['reached']})" for one in faster),
        f"{row['trials_in_full']:.0f}",
        f"{row['trials_pruned']:.0f}",
        f"{delay['median']:.3f}",
        f"{delay['max']:.3f}",
    ]


if __name__ == "__main__":
    main()
