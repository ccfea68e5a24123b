"""Warm start measured: how few trials find what a cold search finds in 50, one task left out at a time.

    python benchmarks/transfer.py lcbench --data-root ../shared/data --jobs 4
    python benchmarks/transfer.py deepar --methods random tpe portfolio --seeds 2 --results /tmp

Sequential search at full fidelity; past studies are of all other tasks. Regret is 1 for a median random configuration
and 0 for the best known one: on LCBench the best of 20,000 random configurations refined by local search, on DeepAR
the table's best row. Needs `pip install 'autometa-search[bench]'`. An interrupted benchmark goes on where it was: each
method has a file in the folder of `--partial`; remove it to run that method again.

`--sources shuffled`, `unrelated` and `upside-down` give misleading past studies (`transfer_sources.py`), to show what
harm they do; `tpe-again` and `prior-cold-again`, which differ in seeds alone, show the noise of that comparison.
`transfer_async.py` has parallel workers and pruning.
"""

from __future__ import annotations

import argparse
import functools
import time
from dataclasses import dataclass

import optuna
from transfer_peers import METHODS
from transfer_report import facts, keep, table
from transfer_runs import FILES, Cell, Setting, add_common, cells, noted, open_suite, run_all, seed_of, setting
from transfer_sources import TRANSFORMS

COLD = ("tpe", "tpe-again", "prior-cold", "prior-cold-again")
# No peer takes past studies of another space.
DEFAULTS = {
    "real": tuple(method for method in METHODS if "again" not in method),
    "shuffled": ("random", *COLD, "past-bests", "portfolio", "prior"),
    "unrelated": ("random", *COLD, "prior"),
    "upside-down": ("random", *COLD, "prior"),
}


@dataclass(frozen=True)
class Run:
    """One search: the value of each trial, and the seconds it took to be proposed."""

    method: str
    task: str
    seed: int
    values: list[float]
    seconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("suite", choices=FILES)
    add_common(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--sources", choices=TRANSFORMS, default="real")
    arguments = parser.parse_args()
    chosen = setting(parser, arguments, arguments.suite)
    suite = open_suite(chosen)
    folder = arguments.partial / f"{chosen.label}-{arguments.sources}"
    known = [one for one in noted(folder, Run) if len(one.values) >= arguments.trials]
    search = functools.partial(run, chosen, arguments.sources, arguments.trials)
    methods = arguments.methods or DEFAULTS[arguments.sources]
    wanted = cells(suite, arguments.tasks, methods, arguments.seeds)
    runs = run_all(search, wanted, known, folder=folder, jobs=arguments.jobs)
    label = chosen.label if arguments.sources == "real" else f"{chosen.label}-{arguments.sources}"
    about = {"suite": chosen.label, "sources": arguments.sources}
    found = about | facts(suite, runs, arguments.trials)
    print(keep(arguments.results, f"transfer-{label}", found, table(found, label)))


def run(setting: Setting, sources: str, trials: int, cell: Cell) -> Run:
    """One search, trial after trial."""
    suite = open_suite(setting)
    task = suite.task(cell.task)
    seed = seed_of(suite, cell)
    past = TRANSFORMS[sources](suite.sources(cell.task), seed)
    began = time.perf_counter()
    start = METHODS[cell.method](task, past, seed)
    study = optuna.create_study(direction=task.direction, sampler=start.sampler)
    for values in start.enqueued:
        study.enqueue_trial(values)
    results, seconds = [], []
    for _ in range(trials):
        trial = study.ask(task.distributions)
        seconds.append(round(time.perf_counter() - began, 5))  # the first one's include all preparation
        results.append(task.evaluate(trial.params))
        began = time.perf_counter()
        study.tell(trial, results[-1])
    return Run(*cell, values=results, seconds=seconds)


if __name__ == "__main__":
    main()
