"""How many trials at once one driver can serve: workers that answer from a formula, through the driver's real code.

    python benchmarks/simulated.py
    python benchmarks/simulated.py --sampler random --at-once 10 100 1000 --table off

Real are the searcher and scheduler, the JSON of jobs and reports, the ledger, sampler, pruner, SQLite storage
and live table. Not there are Ray's processes and Tune's own loop: a thousand actors need more than this machine has. A
worker's answer is due at a simulated time; the driver takes the answers in their order, as fast as it can.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import psutil
from driver import RUNGS, SAMPLERS, live_table, make
from end_to_end import RESULTS, machine
from ray.tune.schedulers import TrialScheduler

from autometa.events import SearchStarted, ignore
from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.ledger import Asked, Ledger
from autometa.hpo.pruning import make_pruner
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from autometa.orchestrator.adapters import StopAll
from autometa.orchestrator.cluster import Share
from autometa.orchestrator.trials import Propose, Prune
from autometa.records import Budget, EpisodeSpec, RungReport, TrialConfig, TrialRecord
from autometa.space.files import load_space
from autometa.testing import formula
from autometa.trial.job import DatasetRef, Job

AT_ONCE = (10, 100, 1000)
LEAST_TRIALS = 300
SETTING = ("sampler", "at_once", "live_table")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE)
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS, default=("random", "prior"))
    parser.add_argument("--trials", type=int, help="by default 300, or twice as many as run at once")
    parser.add_argument("--table", nargs="+", choices=("on", "off"), default=("on",), help="the live table")
    arguments = parser.parse_args()
    for sampler, at_once, table in itertools.product(arguments.sampler, arguments.at_once, arguments.table):
        with tempfile.TemporaryDirectory() as folder:
            trials = arguments.trials or max(LEAST_TRIALS, 2 * at_once)
            row = search(Path(folder), sampler, at_once, trials, table=table == "on")
        print(json.dumps(row), flush=True)
        keep(row)


def keep(row: dict[str, Any]) -> None:
    """Write a row in the place of that of the same setting."""
    file = RESULTS / "simulated.json"
    known = json.loads(file.read_text())["rows"] if file.is_file() else []
    setting = [row[name] for name in SETTING]
    others = [other for other in known if [other.get(name) for name in SETTING] != setting]
    rows = sorted(
        [*others, row], key=lambda row: (SAMPLERS.index(row["sampler"]), row["at_once"], not row["live_table"])
    )
    file.write_text(json.dumps({**machine(), "rows": rows}, indent=2) + "\n")


def search(folder: Path, sampler: str, at_once: int, trials: int, *, table: bool) -> dict[str, Any]:
    """Run `trials` trials, `at_once` of them at any time."""
    space = load_space("few_shot")
    storage = SingleWriter(open_storage(f"sqlite:///{folder}/studies.db"))
    study = optuna.create_study(
        study_name="simulated",
        storage=storage,
        direction="maximize",
        pruner=make_pruner("halving", RUNGS),
        sampler=CappedHistory(make(sampler, space, 0), storage),
    )
    process = psutil.Process()
    before = process.memory_info().rss
    with live_table() if table else nullcontext(ignore) as view:
        view(SearchStarted("simulated", "digits", "5w1s", "300 steps", trials, 0, at_once, 0.0, None, "memory"))
        ledger = Ledger(study, space, storage=storage, rungs=RUNGS, seed=0, folder=folder, on_event=view)
        share = Share(workers=at_once, gpus=0.0)
        propose = Propose(ledger, lambda asked: job(asked, folder), share, trials, over=folder / "over", stop=StopAll())
        workers = Workers(propose, Prune(propose))
        wall, cpu = time.perf_counter(), time.process_time()
        for number in range(trials):
            if number >= at_once:
                workers.answer_until_one_ends()
            workers.start(f"trial-{number}")
        proposed = time.perf_counter()
        while workers.due:
            workers.answer_until_one_ends()
        wall, cpu, tail = time.perf_counter() - wall, time.process_time() - cpu, time.perf_counter() - proposed
    states = [trial.state.name.lower() for trial in study.get_trials(deepcopy=False)]
    return {
        "sampler": sampler,
        "at_once": at_once,
        "live_table": table,
        "trials": {state: states.count(state) for state in sorted(set(states))},
        "reports": workers.reports,
        "seconds": round(wall, 1),
        "trials_a_second": round(trials / wall, 1),
        "cpu_ms_a_trial": round(1000 * cpu / trials, 1),
        "ask_ms": {"first_tenth": workers.mean_ask(0, 0.1), "last_tenth": workers.mean_ask(0.9, 1)},
        "seconds_after_the_last_proposal": round(tail, 1),
        "memory_mib": {"before": before >> 20, "after": process.memory_info().rss >> 20},
    }


def job(asked: Asked, folder: Path) -> Job:
    return Job(
        config=TrialConfig(values=asked.values),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        budget=Budget(steps=300, rungs=RUNGS),
        seed=asked.seed,
        folder=str(folder / asked.folder),
    )


@dataclass
class Workers:
    """Workers of a formula, each with a time of its own."""

    propose: Propose
    prune: Prune
    reports: int = 0
    due: list[tuple[float, str, RungReport]] = field(default_factory=list)
    _now: float = 0.0
    _jobs: dict[str, tuple[int, Job, Iterator[RungReport]]] = field(default_factory=dict)
    _asks: list[float] = field(default_factory=list)

    def start(self, trial_id: str) -> None:
        started = time.perf_counter()
        (asked,) = self.propose.suggest(trial_id)["jobs"].items()
        self._asks.append(1000 * (time.perf_counter() - started))
        number, job = int(asked[0]), Job.model_validate_json(asked[1])
        self._jobs[trial_id] = (number, job, formula.reports(job))
        self.told(trial_id, {"number": number, "is_training": True})
        self._go_on(trial_id, 0.0)

    def answer_until_one_ends(self) -> None:
        has_ended = False
        while not has_ended:
            self._now, trial_id, report = heapq.heappop(self.due)
            has_ended = self._answer(trial_id, report)

    def _go_on(self, trial_id: str, seconds: float) -> bool:
        """Have the next report due, that much training after the last one; returns whether there is one."""
        report = next(self._jobs[trial_id][2], None)
        if report:
            heapq.heappush(self.due, (self._now + report.seconds - seconds, trial_id, report))
        return report is not None

    def _answer(self, trial_id: str, report: RungReport) -> bool:
        """One report, and what follows from it; returns whether the trial is over."""
        self.reports += 1
        number, job, _ = self._jobs[trial_id]
        mean = report.accuracy.mean
        said = self.told(trial_id, {"number": number, "accuracy": mean, "report": report.model_dump_json()})
        if said != TrialScheduler.STOP:
            if self._go_on(trial_id, report.seconds):
                return False
            record = TrialRecord(number=number, state="complete", config=job.config)
            self.told(trial_id, {"number": number, "accuracy": mean, "record": record.model_dump_json()})
        self.propose.on_trial_complete(trial_id)
        del self._jobs[trial_id]
        return True

    def told(self, trial_id: str, result: dict[str, Any]) -> str:
        """What the driver says to a result."""
        return self.prune.on_trial_result(None, SimpleNamespace(trial_id=trial_id), result)

    def mean_ask(self, first: float, last: float) -> float:
        """Milliseconds a proposal, over this part of them."""
        count = len(self._asks)
        return round(float(np.mean(self._asks[int(first * count) : max(1, int(last * count))])), 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
