"""The one door to Ray: Ray Tune runs trials in parallel, and every report goes to the ledger.

Tune's stock `OptunaSearch` stores trials that were stopped early as COMPLETE and loses their last report
(ray#52535 and others), so three small adapters stand in its place. They hold no state of their own:
what must survive a crash is in the study and in the trials' checkpoints.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # as clusters have it by default; a driver does not find out
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints tables at verbose=0 too
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the record, not Tune's snapshots

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autometa.errors import AutometaError, ConfigError
from autometa.records import Accuracy, RungReport, TrialRecord
from autometa.space.space import SearchSpace
from autometa.trial.job import Job

if TYPE_CHECKING:  # a worker imports this file, and starts faster without Optuna
    from autometa.study.ledger import Asked, Ledger

# glibc hands large buffers back to the kernel after each step and page-faults them in again; with these,
# read when a process starts, a batched step is 2 to 2.6 times as fast on a CPU. One arena, because Tune runs
# a trial in a thread that is not the main one, whose own arena ignores the rest above 64 MB: a step of conv-64
# took 431 to 449 ms without it and 239 to 262 with it.
WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
# A worker that was killed is started again this often, and its trial goes on from its checkpoint.
_RETRIES = 2
_OBJECT_STORE_BYTES = 256 * 2**20  # workers map the data set from disk; Ray's default is 30 % of memory


@dataclass(frozen=True)
class Share:
    """What one worker gets: how many workers at once, and the part of a GPU each has."""

    workers: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """Ray's words for one worker's share."""
        return {"cpu": 1, "gpu": self.gpus} if self.gpus else {"cpu": 1}


@contextmanager
def cluster(address: str | None, *, workers: int | None) -> Iterator[None]:
    """A Ray cluster for the length of a `with` block: the one at `address`, else a private local one.

    Raises:
        ConfigError: there is no cluster at that address.
    """
    # What matters of a worker that dies is told by the ledger, in one line in place of a traceback.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False, "configure_logging": False}
    try:
        if address:
            _check_reachable(address)
            ray.init(address=address, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **quiet)
        else:
            _start_local(workers, quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Try the port first: Ray itself tries for minutes. `auto` and other names are Ray's to resolve."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise ConfigError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def _start_local(workers: int | None, quiet: dict[str, Any]) -> None:
    """Start Ray with the workers' allocator settings in the environment they inherit."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update({k: v for k, v in WORKER_ENVIRONMENT.items() if k not in os.environ})
    try:
        ray.init(
            address="local",
            num_cpus=max(workers or 0, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **quiet,
        )
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


def require_local_gpus(gpus_per_trial: float) -> None:
    """Raise `ConfigError` where this machine has fewer GPUs, before anything is started or written."""
    import torch

    _check_gpus(gpus_per_trial, torch.cuda.device_count())


def share_out(
    workers: int | None, gpus_per_trial: float | None, trials_at_once: Callable[[], int] = lambda: 1
) -> Share:
    """Decide workers and GPU share from what was asked for and what the cluster has.

    Args:
        trials_at_once: how many trials fit one GPU; asked where there is one and nobody said how to share it.

    Raises:
        ConfigError: a GPU is asked for and there is none, or not so many.
    """
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    _check_gpus(gpus_per_trial or 0.0, gpus)
    if gpus_per_trial is None:
        # Exactly 1/k of a GPU: other fractions strand the rest of it.
        gpus_per_trial = 1 / _on_one_gpu(workers, gpus, cpus, trials_at_once) if gpus else 0.0
    most = int(gpus / gpus_per_trial + 1e-9) if gpus_per_trial else cpus
    return Share(workers=min(workers or most, max(1, most)), gpus=gpus_per_trial)


def _on_one_gpu(workers: int | None, gpus: int, cpus: int, trials_at_once: Callable[[], int]) -> int:
    """As many as the workers need, or, without a number of workers, as fit and have a core each."""
    return max(1, -(-workers // gpus) if workers else min(trials_at_once(), cpus // gpus))


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


def _check_gpus(gpus_per_trial: float, gpus: int) -> None:
    if gpus_per_trial > gpus:
        raise ConfigError(
            f"--gpus-per-trial {gpus_per_trial:g}: there are {gpus} GPUs; leave it out to use what there is"
        )


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
        if not result.get("report"):
            return TrialScheduler.CONTINUE
        report = RungReport.model_validate_json(result["report"])
        number = self._propose.numbers[trial.trial_id]
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
        record = run(job, on_rung=_report, number=config["number"])
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
