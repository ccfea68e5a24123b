"""Warm start measured: how few trials find what a cold search finds in 50, one task left out at a time.

    python benchmarks/transfer.py lcbench --data-root ../shared/data --jobs 4
    python benchmarks/transfer.py deepar --methods random tpe portfolio --seeds 2

Sequential search at full fidelity; past studies are of all other tasks. Regret is 1 for a median random configuration
and 0 for the best known one: on LCBench the best of 20,000 random configurations refined by local search, on DeepAR
the table's best row. Needs `pip install 'autometa-search[bench]'`. An interrupted run goes on where it was: each
method has a file in the folder of `--partial`; remove it to run that method again.

`--sources shuffled` and `--sources unrelated` give misleading past studies (`transfer_sources.py`), to show that they
do no harm.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import optuna
import platformdirs
from end_to_end import RESULTS
from transfer_deepar import DeepAR
from transfer_lcbench import LCBench
from transfer_peers import METHODS
from transfer_report import facts, keep, table
from transfer_sources import TRANSFORMS
from transfer_tasks import Suite

CACHE = Path(platformdirs.user_cache_dir("autometa")) / "benchmarks"
SUITES = ("lcbench", "deepar")


class Setting(NamedTuple):
    """What tells one suite from another; the same in every process."""

    suite: str
    data_root: Path
    cache: Path
    source_trials: int
    sources: str

    @property
    def label(self) -> str:
        """Names the files of partial results."""
        trials = f"-{self.source_trials}" if self.suite == "lcbench" else ""
        return f"{self.suite}-{self.sources}{trials}"


class Cell(NamedTuple):
    """One run to do."""

    method: str
    task: str
    seed: int


@dataclass(frozen=True)
class Run:
    """One search: the value of each trial, and the seconds it took to be proposed."""

    method: str
    task: str
    seed: int
    values: list[float]
    seconds: list[float]

    @property
    def cell(self) -> Cell:
        return Cell(self.method, self.task, self.seed)


def main() -> None:
    arguments = parse()
    setting = Setting(arguments.suite, arguments.data_root, arguments.cache, arguments.source_trials, arguments.sources)
    suite = open_suite(setting)
    tasks = arguments.tasks or suite.names
    cells = [
        Cell(method, task, seed) for task in tasks for method in arguments.methods for seed in range(arguments.seeds)
    ]
    runs = list(run_all(setting, cells, arguments.trials, arguments.partial / setting.label, arguments.jobs))
    label = setting.suite if setting.sources == "real" else f"{setting.suite}-{setting.sources}"
    found = facts(suite, runs, arguments.trials) | {"command": sys.argv[1:]}
    print(keep(arguments.results, f"transfer-{label}", found, table(found, label)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    add_common(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--sources", choices=TRANSFORMS, default="real")
    return check(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """The arguments that the asynchronous benchmark has, too."""
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", nargs="+", help="by default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--source-trials", type=int, default=200, help="of each past study on LCBench")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--partial", type=Path, default=Path("runs/transfer"), help="folder of results so far")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of what is found once per task")


def check(parser: argparse.ArgumentParser) -> argparse.Namespace:
    arguments = parser.parse_args()
    if not (arguments.data_root / "hpo").is_dir():
        parser.error(f"no folder hpo/ in {arguments.data_root}; --data-root names the folder that holds it")
    return arguments


@functools.cache
def open_suite(setting: Setting) -> Suite:
    if setting.suite == "lcbench":
        return LCBench(setting.data_root, setting.cache, setting.source_trials)
    return DeepAR(setting.data_root)


def run_all(setting: Setting, cells: list[Cell], trials: int, folder: Path, jobs: int) -> Iterator[Run]:
    """The runs of these cells, those of before first; each new one is kept as soon as it ends."""
    wanted = set(cells)
    known = {run.cell: run for run in noted(folder) if len(run.values) >= trials and run.cell in wanted}
    yield from known.values()
    todo = [cell for cell in cells if cell not in known]
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # the runs are parallel already
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=be_quiet) as pool:
        futures = [pool.submit(run, setting, cell, trials) for cell in todo]
        for done, future in enumerate(as_completed(futures), 1):
            found = future.result()
            note(folder, found)
            print(f"{done}/{len(todo)} {found.task} {found.method} seed {found.seed}", file=sys.stderr, flush=True)
            yield found


def run(setting: Setting, cell: Cell, trials: int) -> Run:
    """One search, trial after trial."""
    suite = open_suite(setting)
    task = suite.task(cell.task)
    past = TRANSFORMS[setting.sources](suite.sources(cell.task), cell.seed)
    began = time.perf_counter()
    start = METHODS[cell.method](task, past, cell.seed)
    study = optuna.create_study(direction=task.direction, sampler=start.sampler)
    for values in start.enqueued:
        study.enqueue_trial(values)
    values, seconds = [], []
    for _ in range(trials):
        trial = study.ask(task.distributions)
        seconds.append(time.perf_counter() - began)  # the first one's include all preparation
        values.append(task.evaluate(trial.params))
        began = time.perf_counter()
        study.tell(trial, values[-1])
    return Run(*cell, values, [round(s, 5) for s in seconds])


def noted(folder: Path) -> list[Run]:
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [Run(**json.loads(line)) for line in lines]


def note(folder: Path, found: Run) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{found.method}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(found)) + "\n")


def be_quiet() -> None:
    """In each process: no line per trial, no warning that a sampler is experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")


if __name__ == "__main__":
    main()
