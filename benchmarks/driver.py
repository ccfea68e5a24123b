"""What one more trial costs the driver of a long search: ask, nine reports, tell, with all that hangs on them.

    python benchmarks/driver.py                                          # SQLite, as a search makes it
    python benchmarks/driver.py --storage postgresql://user@host/empty   # a database of its own, filled by this
    python benchmarks/driver.py --storage ... --only-fill                # to measure later, on a quiet machine

A study is filled with N finished trials of nine rungs, over the real space `few_shot`. Then the real ledger, sampler,
pruner and live table serve more trials: two run at once, all reach the last rung. No trial is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from end_to_end import RESULTS, machine
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState, create_trial
from rich.console import Console

from autometa import trial_attributes
from autometa.archives import read
from autometa.cli.live import LiveTable
from autometa.events import SearchStarted
from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.ledger import Ledger
from autometa.hpo.pruning import make_pruner, make_sampler
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from autometa.records import Accuracy, Budget, EpisodeSpec, RungReport, StudyRecord, TrialConfig, TrialRecord
from autometa.space.files import load_space
from autometa.space.space import SearchSpace
from autometa.study import warm

BAR_MS, BAR_GROWTH = {"sqlite": 100.0, "postgresql": 200.0}, 2.0
SIZES = (500, 5000)
RUNGS, TRIALS, AT_ONCE = 9, 30, 2
SAMPLERS = ("random", "tpe", "prior")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--storage")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--pruner", default="halving")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--only-fill", action="store_true")
    arguments = parser.parse_args()
    if arguments.only_fill:
        for size in arguments.sizes:
            filled(arguments.storage, load_space("few_shot"), size)
        return
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.storage or f"sqlite:///{folder}/studies.db"
        rows = list(measured(url, arguments.sizes, arguments.samplers, arguments.pruner, arguments.trials))
    kind = url.split(":")[0].split("+")[0]
    results = {**machine(), "storage": kind, "bar_ms": BAR_MS.get(kind), "bar_growth": BAR_GROWTH, "rows": rows}
    (RESULTS / f"driver-{kind}.json").write_text(json.dumps(results, indent=2) + "\n")


def measured(
    url: str, sizes: Sequence[int], samplers: Sequence[str], pruner: str, trials: int
) -> Iterator[dict[str, Any]]:
    space = load_space("few_shot")
    for size in sizes:
        filled(url, space, size)
        for name in samplers:
            # As a driver that continues the search: what it knows, it has read.
            storage = SingleWriter(open_storage(url))
            study = optuna.load_study(study_name=str(size), storage=storage, pruner=make_pruner(pruner, RUNGS))
            study.sampler = Timed(CappedHistory(make(name, space, size), storage))
            row = {"trials": size, "sampler": name, "pruner": pruner}
            row |= serve(study, storage, space, trials)
            print(json.dumps(row), flush=True)
            yield row


def make(name: str, space: SearchSpace, size: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed=0)
    if name == "tpe":
        return make_sampler(0, size)
    past = warm.Past(read.past_studies())
    return warm.start(about(space), space, past, trials=2 * size, trials_so_far=size).sampler


def about(space: SearchSpace) -> StudyRecord:
    return StudyRecord(
        name="driver",
        dataset="digits",
        dataset_fingerprint="",
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        space=space.name,
        space_version=space.version,
        budget=Budget(steps=300, rungs=RUNGS),
        seed=0,
        pruner="halving",
    )


def filled(url: str, space: SearchSpace, size: int) -> None:
    """Fill a study up to `size` finished trials of random configurations, with all that the ledger writes of each."""
    study = optuna.create_study(
        study_name=str(size), storage=open_storage(url), direction="maximize", load_if_exists=True
    )
    first = len(study.get_trials(deepcopy=False))
    random = np.random.default_rng(first)  # others than those that are there
    drawn = optuna.create_study(sampler=RandomSampler(seed=first))
    for number in range(first, size):
        trial = drawn.ask()
        space.suggest(trial)
        curve = curve_of(random)
        values = {report.rung: report.accuracy.mean for report in curve}
        state = TrialState.COMPLETE if number % 2 else TrialState.PRUNED
        study.add_trial(
            create_trial(
                state=state,
                value=values[RUNGS],
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=values,
                user_attrs=attributes(number, curve),
            )
        )


def attributes(number: int, curve: Sequence[RungReport]) -> dict[str, Any]:
    """What the ledger notes of a trial beside its values."""
    return (
        trial_attributes.SEED.entry(number)
        | trial_attributes.FOLDER.entry(f"{number:05d}")
        | trial_attributes.ORIGIN.entry("cold")
        | trial_attributes.FACTS.entry({"parameters": 1000, "flops": 100_000, "transductive": False})
        | trial_attributes.CURVE.entry([report.model_dump() for report in curve])
    )


def curve_of(random: np.random.Generator) -> list[RungReport]:
    end = random.uniform(0.3, 0.8)
    means = np.clip(0.2 + (end - 0.2) * np.linspace(0.3, 1, RUNGS) + random.normal(0, 0.02, RUNGS), 0, 1)
    return [
        RungReport(
            rung=rung,
            accuracy=Accuracy(mean=float(mean), half_width=0.02, episodes=100, seed=0),
            steps=33 * rung,
            seconds=float(rung),
        )
        for rung, mean in enumerate(means, 1)
    ]


def serve(study: optuna.Study, storage: SingleWriter, space: SearchSpace, count: int) -> dict[str, Any]:
    """Let the ledger serve `count` trials, after one that is not counted and reads the study."""
    random = np.random.default_rng(1)
    times: dict[str, list[float]] = {"ask": [], "sampler": [], "report": [], "tell": [], "trial": []}
    sampler = study.sampler
    assert isinstance(sampler, Timed)
    with tempfile.TemporaryDirectory() as folder, live_table() as view:
        view(SearchStarted("driver", "digits", "5w1s", "300 steps", 2 * count, 0, AT_ONCE, 0.0, None, "memory"))
        ledger = Ledger(study, space, storage=storage, rungs=RUNGS, seed=0, folder=Path(folder), on_event=view)
        ledger.ask()  # one more trial that runs beside those that are served
        serve_one(ledger, random)
        for _ in range(count):
            sampler.seconds = 0.0
            ask, report, tell = serve_one(ledger, random)
            parts = {"ask": ask - sampler.seconds, "sampler": sampler.seconds, "report": report, "tell": tell}
            for name, seconds in {**parts, "trial": ask + report + tell}.items():
                times[name].append(1000 * seconds)
    return {f"{name}_ms": summary(found) for name, found in times.items()}


@contextmanager
def live_table() -> Iterator[LiveTable]:
    """The table a user sees, drawn four times a second, to nowhere."""
    with Path(os.devnull).open("w") as nowhere, LiveTable(Console(file=nowhere, force_terminal=True)) as view:
        yield view


def serve_one(ledger: Ledger, random: np.random.Generator) -> tuple[float, float, float]:
    """Seconds of ask, of all reports together, and of the end."""
    clock = time.perf_counter
    started = clock()
    asked = ledger.ask()
    was_asked = clock()
    for report in curve_of(random):
        ledger._live[asked.number].pruned = False
        ledger.report(asked.number, report)
    reported = clock()
    record = TrialRecord(
        number=asked.number, state="complete", config=TrialConfig(values=asked.values), facts={"parameters": 1000}
    )
    ledger.end(asked.number, record=record)
    return was_asked - started, reported - was_asked, clock() - reported


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {
        "median": round(statistics.median(milliseconds), 1),
        "p95": round(float(np.percentile(milliseconds, 95)), 1),
    }


class Timed(BaseSampler):
    """A sampler, and the seconds it took since they were last set to 0."""

    def __init__(self, sampler: BaseSampler) -> None:
        self._sampler = sampler
        self.seconds = 0.0

    @contextmanager
    def _clock(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        with self._clock():
            return method(*arguments)

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self._call(self._sampler.infer_relative_search_space, study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._call(self._sampler.sample_relative, study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: Any, param_distribution: Any) -> Any:
        return self._call(self._sampler.sample_independent, study, trial, param_name, param_distribution)

    def before_trial(self, study: Any, trial: Any) -> None:
        self._call(self._sampler.before_trial, study, trial)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        self._sampler.after_trial(study, trial, state, values)


if __name__ == "__main__":
    main()
