"""Trials of a fixed budget on the workers of Ray Tune: each is a trial of Tune, and every report goes to the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Share  # isort: split

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from autometa.errors import StopSearchError
from autometa.orchestrator.adapters import LOST, StatelessScheduler, StatelessSearcher, StopAll
from autometa.orchestrator.baselines_first import Baselines
from autometa.orchestrator.ray_tune import run_tune, usual
from autometa.orchestrator.worker import keep_to_share, why
from autometa.records import RungReport, TrialRecord
from autometa.trial.abilities import is_stackable
from autometa.trial.job import Job

if TYPE_CHECKING:  # a worker imports this file, and starts faster without Optuna
    from autometa.hpo.ledger import Asked, Ledger


def run_trials(
    ledger: Ledger,
    make_job: Callable[[Asked], Job],
    *,
    trials: int,
    share: Share,
    scratch: Path,
    deadline: float | None,
    baselines: Baselines | None = None,
) -> None:
    """Run up to `trials` trials; returns when they ended, at the deadline, after Ctrl-C, or when the ledger says stop.

    Trials that still run then are left RUNNING in the study, for `Ledger.recover`.

    Args:
        deadline: `time.monotonic()` at which to stop.
        baselines: to be measured first.
        scratch: a folder for Tune's own files, removed afterwards.

    Raises:
        StopSearchError: a worker met what would end every trial, such as a full disk.
        Exception: whatever the ledger raised, such as a storage that failed.
    """
    stop = StopAll()
    propose = Propose(ledger, make_job, share, trials, over=scratch.resolve() / "over", stop=stop)
    remaining = None if deadline is None else max(1.0, deadline - time.monotonic())
    config = tune.TuneConfig(
        num_samples=trials, search_alg=propose, scheduler=Prune(propose), time_budget_s=remaining, **usual(share)
    )
    run_tune(_trainable, config, share, scratch, stop, baselines)


class Propose(StatelessSearcher):
    """Tune asks for a configuration; the ledger answers."""

    def __init__(
        self, ledger: Ledger, make_job: Callable[[Asked], Job], share: Share, trials: int, *, over: Path, stop: StopAll
    ) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._share = share
        self.ledger = ledger
        self._make_job = make_job
        self._left = trials
        self._over = over
        self.stop = stop
        self.numbers: dict[str, list[int]] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.stop.error or self._left <= 0 or self.ledger.hopeless_reason or self.ledger.is_exhausted:
            return Searcher.FINISHED
        with self.stop.on_error():
            group = self._ask()
            self._left -= len(group)
            self.numbers[trial_id] = [asked.number for asked in group]
            jobs = {str(asked.number): self._make_job(asked).model_dump_json() for asked in group}
            return {"jobs": jobs, "gpus": self._share.gpus, "over": str(self._over)}
        return Searcher.FINISHED

    def _ask(self) -> list[Asked]:
        """The next trial, and others of its architecture where they may be trained together."""
        group = [self.ledger.ask()]
        count = min(self._share.together, self._left)
        first = group[0]
        if first.goes_on or not is_stackable(first.values):  # others that go on wait for the workers, too
            return group
        while len(group) < count and self.ledger.has_others_like(first):
            group.append(self.ledger.ask_like(first))
        return group

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self.stop.on_error():
            for number in self.numbers.pop(trial_id, ()):
                self.ledger.end(number, record=None, error=LOST if error else None)

    def end(self, number: int, record: TrialRecord | None) -> None:
        """Write a trial's end, and leave word for its worker, which may have others to train."""
        self.ledger.end(number, record=record)
        self._over.mkdir(parents=True, exist_ok=True)
        (self._over / str(number)).touch()


class Prune(StatelessScheduler):
    """Every report goes to the ledger, which says whether the trial should stop."""

    def __init__(self, propose: Propose) -> None:
        super().__init__()
        self._propose = propose

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._propose.stop.on_error():
            return self._told(self._propose.numbers[trial.trial_id], result)
        return TrialScheduler.STOP

    def _told(self, numbers: Sequence[int], result: dict[str, Any]) -> str:
        ledger = self._propose.ledger
        if result.get("stop"):
            raise StopSearchError(result["stop"])
        number = result.get("number")
        ledger.ran_with(result.get("kernels"))
        if number not in ledger.running:  # over, and told again by a worker that was started again
            return TrialScheduler.CONTINUE
        if result.get("is_training"):
            ledger.started(number)
        elif result.get("record"):
            self._propose.end(number, TrialRecord.model_validate_json(result["record"]))
        elif ledger.report(number, RungReport.model_validate_json(result["report"])):
            if len(numbers) == 1:
                return TrialScheduler.STOP
            self._propose.end(number, None)
        return TrialScheduler.CONTINUE


def _trainable(config: dict[str, Any]) -> None:
    """One trial or a few, in a worker. An actor runs many, one after the other: `run` resets all seeds."""
    from autometa.learning.ops import native
    from autometa.trial.group import failed, run_group

    over = Path(config["over"])
    jobs = {int(number): Job.model_validate_json(job) for number, job in config["jobs"].items()}
    # After its worker died, a group comes back as it was; who had ended by then has not to be trained again.
    left = {number: job for number, job in jobs.items() if not (over / str(number)).exists()}

    def on_start(number: int) -> None:
        tune.report({"accuracy": 0.0, "number": number, "is_training": True, "kernels": native.use()})

    def on_rung(number: int, report: RungReport) -> bool:
        shown = {"number": number, "report": report.model_dump_json(), "kernels": native.use()}
        tune.report({"accuracy": report.accuracy.mean, **shown})
        # This returns when the driver has seen the report, and has left word if it said stop.
        return (over / str(number)).exists()

    def on_end(record: TrialRecord) -> None:
        del left[record.number]
        accuracy = record.last.accuracy.mean if record.last else 0.0
        tune.report({"accuracy": accuracy, "number": record.number, "record": record.model_dump_json()})

    try:
        keep_to_share(next(iter(jobs.values())).use_gpu, config["gpus"])
        run_group(dict(left), on_start=on_start, on_rung=on_rung, on_end=on_end)
        return
    except Exception as error:
        stop, reason = why(error)
    if stop:
        tune.report({"accuracy": 0.0, "number": next(iter(jobs)), "stop": stop})
        return
    for number, job in dict(left).items():
        on_end(failed(number, job, reason))
