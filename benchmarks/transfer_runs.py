"""Many independent runs in a few processes, each kept as soon as it ends, so that an interrupted whole goes on.

It does not know what a run does; `transfer.py` and `transfer_async.py` do.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import optuna
import platformdirs
from end_to_end import RESULTS
from transfer_deepar import DeepAR
from transfer_lcbench import LCBench
from transfer_tasks import Suite

CACHE = Path(platformdirs.user_cache_dir("autometa")) / "benchmarks"
EXTRA = ("cmaes", "onnxruntime", "syne_tune")
FILES = {"lcbench": "hpo/lcbench/model.onnx", "deepar": "hpo/DeepAR.csv.zip"}
Found = TypeVar("Found", bound=Any)  # a dataclass with the fields of `Cell`


class Setting(NamedTuple):
    """What tells one suite from another; the same in every process."""

    suite: str
    data_root: Path
    cache: Path
    source_trials: int

    @property
    def label(self) -> str:
        """With the size of its past studies, where that can be chosen."""
        return f"lcbench-{self.source_trials}" if self.suite == "lcbench" else self.suite


class Cell(NamedTuple):
    """One run to do."""

    method: str
    task: str
    seed: int


def add_common(parser: argparse.ArgumentParser) -> None:
    """The arguments of every transfer benchmark."""
    parser.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tasks", nargs="+", help="by default all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--source-trials", type=int, default=200, help="of each past study on LCBench")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--partial", type=Path, default=Path("runs/transfer"), help="folder of the runs so far")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of what is found once per task")


def setting(parser: argparse.ArgumentParser, arguments: argparse.Namespace, suite: str) -> Setting:
    """Check that there is what the arguments name, and what the extra brings."""
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        parser.error(f"{', '.join(missing)} is not installed; try: pip install 'autometa-search[bench]'")
    if not (arguments.data_root / FILES[suite]).is_file():
        parser.error(f"no {FILES[suite]} in {arguments.data_root}; --data-root names the folder that holds it")
    found = Setting(suite, arguments.data_root, arguments.cache, arguments.source_trials)
    names = open_suite(found).names
    if unknown := set(arguments.tasks or ()) - set(names):
        parser.error(f"{suite} has no task {', '.join(sorted(unknown))}; it has {', '.join(names)}")
    return found


def cells(suite: Suite, tasks: Sequence[str] | None, methods: Sequence[str], seeds: int) -> list[Cell]:
    return [Cell(method, task, seed) for task in tasks or suite.names for method in methods for seed in range(seeds)]


def seed_of(suite: Suite, cell: Cell) -> int:
    """The same for all methods; of its own for each task, or one lucky draw would count on all of them."""
    return 1000 * suite.names.index(cell.task) + cell.seed


@functools.cache
def open_suite(setting: Setting) -> Suite:
    if setting.suite == "lcbench":
        return LCBench(setting.data_root, setting.cache, setting.source_trials)
    return DeepAR(setting.data_root)


def run_all(
    run: Callable[[Cell], Found], wanted: Sequence[Cell], known: Sequence[Found], *, folder: Path, jobs: int
) -> list[Found]:
    """The runs of these cells: those known, and the others, kept in `folder` one by one."""
    found = {cell_of(one): one for one in known}
    todo = [cell for cell in wanted if cell not in found]
    for done, one in enumerate(in_processes(run, todo, jobs), 1):
        note(folder, one)
        found[cell_of(one)] = one
        print(f"{done}/{len(todo)} {one.task} {one.method} seed {one.seed}", file=sys.stderr, flush=True)
    return [found[cell] for cell in wanted]


def in_processes(run: Callable[[Cell], Found], todo: Sequence[Cell], jobs: int) -> Iterator[Found]:
    """The runs in the order they end; when one fails, those not begun are dropped."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))  # the runs are parallel already
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=be_quiet)
    try:
        for future in as_completed([pool.submit(run, cell) for cell in todo]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def be_quiet() -> None:
    """In each process: no line per trial, no warning that a sampler is experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")


def cell_of(found: Any) -> Cell:
    return Cell(found.method, found.task, found.seed)


def noted(folder: Path, kind: type[Found]) -> list[Found]:
    """The runs kept there, each method's in its file."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [kind(**json.loads(line)) for line in lines]


def note(folder: Path, found: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{found.method}.jsonl").open("a") as file:
        file.write(json.dumps(asdict(found)) + "\n")
