"""The door to Ray Tune: it runs trials in parallel, and every report goes to the ledger.

Tune's stock `OptunaSearch` stores trials that were stopped early as COMPLETE and loses their last report
(ray#52535 and others), so three small adapters stand in its place. They hold no state of their own:
what must survive a crash is in the study and in the trials' checkpoints.
"""

from __future__ import annotations

import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Sets what Ray reads when it is imported.
from autometa.study.cluster import Share  # isort: split

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autometa.errors import AutometaError
from autometa.records import Accuracy, RungReport, TrialRecord
from autometa.space.space import SearchSpace
from autometa.trial.job import Job

if TYPE_CHECKING:  # a worker imports this file, and starts faster without Optuna
    from autometa.study.ledger import Asked, Ledger

# A worker that was killed is started again this often, and its trial goes on from its checkpoint.
_RETRIES = 2


def ask_trials_at_once(space: SearchSpace, **task: Any) -> int:
    """`trial.footprint.trials_at_once` for the space's largest candidate, found on a GPU worker; one if that fails."""
    try:
        return int(ray.get(ray.remote(num_cpus=1, num_gpus=1)(_trials_at_once).remote(space, **task)))
    except ray.exceptions.RayTaskError:  # a learner of another package that does nothing without images
        return 1


def _trials_at_once(space: SearchSpace, *, resident: int, **task: Any) -> int:
    import torch

    from autometa.trial.footprint import largest_bytes, trials_at_once

    gpu_bytes = torch.cuda.get_device_properties(0).total_memory
    return trials_at_once(largest_bytes(space, **task), resident=resident, gpu_bytes=gpu_bytes)


def run_trials(
    ledger: Ledger,
    make_job: Callable[[Asked], Job],
    *,
    trials: int,
    share: Share,
    scratch: Path,
    deadline: float | None,
) -> None:
    """Run up to `trials` trials; returns when they ended, at the deadline, or after Ctrl-C.

    Trials that still run then are left RUNNING in the study, for `Ledger.recover`.

    Args:
        deadline: `time.monotonic()` at which to stop.
        scratch: a folder for Tune's own files, removed afterwards.
    """
    # An environment of its own, for PyTorch Lightning alone, would keep an actor from a worker that is up already.
    class_cache.DEFAULT_ENV_VARS.clear()
    propose = _Propose(ledger, make_job, share.gpus)
    remaining = None if deadline is None else max(1.0, deadline - time.monotonic())
    tuner = tune.Tuner(
        tune.with_resources(_trainable, share.resources),
        tune_config=tune.TuneConfig(
            num_samples=trials,
            search_alg=propose,
            scheduler=_Prune(propose),
            max_concurrent_trials=share.workers,
            reuse_actors=True,
            time_budget_s=remaining,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_RETRIES),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tuner.fit()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def run_everywhere(
    function: Callable[..., Any], calls: Sequence[dict[str, Any]], share: Share
) -> Iterator[tuple[int, Any]]:
    """Call `function(**call)` on the workers, in parallel; yields (index, result) as they end."""
    remote = ray.remote(num_cpus=1, num_gpus=share.gpus, max_retries=_RETRIES)(function)
    pending = {remote.remote(**call): index for index, call in enumerate(calls)}
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        yield pending.pop(done[0]), ray.get(done[0])


class _Propose(Searcher):
    """Tune asks for a configuration; the ledger answers."""

    def __init__(self, ledger: Ledger, make_job: Callable[[Asked], Job], gpus: float) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._gpus = gpus
        self.ledger = ledger
        self._make_job = make_job
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.ledger.hopeless_reason:
            return Searcher.FINISHED
        asked = self.ledger.ask()
        self.numbers[trial_id] = asked.number
        job = self._make_job(asked).model_dump_json()
        return {"job": job, "number": asked.number, "gpus": self._gpus}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler sees every result, the searcher misses the last one."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id, None)
        if number is None:
            return
        record = TrialRecord.model_validate_json(result["record"]) if result and result.get("record") else None
        lost = f"its worker died {_RETRIES + 1} times (killed, out of memory, or its node was lost)"
        self.ledger.end(number, record=record, error=lost if error else None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study keeps the state, and a pickle would hold the storage's password."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Prune(FIFOScheduler):
    """Every report goes to the ledger, which says whether the trial should stop."""

    def __init__(self, propose: _Propose) -> None:
        super().__init__()
        self._propose = propose

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = self._propose.numbers[trial.trial_id]
        if result.get("is_training"):
            self._propose.ledger.started(number)
        if not result.get("report"):
            return TrialScheduler.CONTINUE
        report = RungReport.model_validate_json(result["report"])
        should_stop = self._propose.ledger.report(number, report)
        return TrialScheduler.STOP if should_stop else TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _trainable(config: dict[str, Any]) -> None:
    """One trial, in a worker. An actor runs many, one after the other: `run` resets all seeds."""
    from autometa.trial.run import run

    job = Job.model_validate_json(config["job"])
    try:
        _keep_to_share(job.use_gpu, config["gpus"])
        record = run(job, on_rung=_report, on_step=_FirstStep(), number=config["number"])
    except AutometaError as error:
        record = _failed(config["number"], job, str(error))
    except Exception as error:  # a bug in a learner, perhaps the user's own, ends its trial and not the search
        traceback.print_exc()
        record = _failed(config["number"], job, f"{type(error).__name__}: {error}")
    tune.report({"accuracy": record.last.accuracy.mean if record.last else 0.0, "record": record.model_dump_json()})


def _failed(number: int, job: Job, reason: str) -> TrialRecord:
    return TrialRecord(number=number, state="fail", config=job.config, reason=reason)


def _report(report: RungReport) -> None:
    tune.report({"accuracy": report.accuracy.mean, "report": report.model_dump_json()})


class _FirstStep:
    """Says once that training has begun."""

    def __init__(self) -> None:
        self._is_said = False

    def __call__(self, step: int, progress: float, metrics: dict[str, Any]) -> None:
        if not self._is_said:
            tune.report({"accuracy": 0.0, "is_training": True})
        self._is_said = True


def evaluate_in_worker(**call: Any) -> Accuracy:
    """`trial.run.evaluate_checkpoint`, in a worker."""
    from autometa.trial.run import evaluate_checkpoint

    _keep_to_share(call.get("use_gpu"), 1.0)
    return evaluate_checkpoint(**call)


def _keep_to_share(use_gpu: bool | None, gpus: float) -> None:
    """One thread on a CPU, where two spinning OpenMP pools slow each other about sevenfold; on a GPU its memory."""
    from autometa.learning.device import limit_gpu_memory, limit_threads, pick_device

    if not use_gpu:
        limit_threads(1)
    elif gpus < 1 and pick_device(True).type == "cuda":
        limit_gpu_memory(gpus)
