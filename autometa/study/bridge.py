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
from autometa.trial.job import Job, is_stackable

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
    """What one worker gets: how many workers at once, the part of a GPU each has, and how many trials it may train
    together.
    """

    workers: int
    gpus: float
    together: int = 1

    @property
    def trials(self) -> int:
        """How many trials run at once, at most."""
        return self.workers * self.together

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
    workers: int | None,
    gpus_per_trial: float | None,
    trials_at_once: Callable[[], int] = lambda: 1,
    *,
    together: int = 1,
) -> Share:
    """Decide workers and GPU share from what was asked for and what the cluster has.

    Args:
        trials_at_once: how many trials fit one GPU; asked where there is one and nobody said how to share it.
        together: how many of them a worker may train as one model.

    Raises:
        ConfigError: a GPU is asked for and there is none, or not so many.
    """
    total = ray.cluster_resources()
    gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
    _check_gpus(gpus_per_trial or 0.0, gpus)
    if gpus_per_trial is None:
        # Exactly 1/k of a GPU: other fractions strand the rest of it.
        gpus_per_trial = 1 / _on_one_gpu(workers, gpus, cpus, lambda: trials_at_once() // together) if gpus else 0.0
    most = int(gpus / gpus_per_trial + 1e-9) if gpus_per_trial else cpus
    return Share(workers=min(workers or most, max(1, most)), gpus=gpus_per_trial, together=together)


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
    propose = _Propose(ledger, make_job, share, trials, over=scratch.resolve() / "over")
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

    def __init__(
        self, ledger: Ledger, make_job: Callable[[Asked], Job], share: Share, trials: int, *, over: Path
    ) -> None:
        super().__init__(metric="accuracy", mode="max")
        self._share = share
        self.ledger = ledger
        self._make_job = make_job
        self._left = trials
        self._over = over
        self.numbers: dict[str, list[int]] = {}

    def suggest(self, trial_id: str) -> Any:
        if self.ledger.hopeless_reason or self._left <= 0:
            return Searcher.FINISHED
        group = self._ask()
        self._left -= len(group)
        self.numbers[trial_id] = [asked.number for asked in group]
        jobs = {str(asked.number): self._make_job(asked).model_dump_json() for asked in group}
        return {"jobs": jobs, "gpus": self._share.gpus, "over": str(self._over)}

    def _ask(self) -> list[Asked]:
        """The next trial, and others of its architecture where they may be trained together."""
        group = [self.ledger.ask()]
        count = min(self._share.together, self._left)
        first = group[0]
        if count > 1 and not first.rung and is_stackable(first.values) and self.ledger.has_others_like(first):
            group += [self.ledger.ask_like(first) for _ in range(count - 1)]
        return group

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler sees every result, the searcher misses the last one."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        lost = f"its worker died {_RETRIES + 1} times (killed, out of memory, or its node was lost)"
        for number in self.numbers.pop(trial_id, ()):
            self.ledger.end(number, record=None, error=lost if error else None)

    def end(self, number: int, record: TrialRecord | None) -> None:
        """Write a trial's end, and leave word for its worker, which may have others to train."""
        self.ledger.end(number, record=record)
        self._over.mkdir(parents=True, exist_ok=True)
        (self._over / str(number)).touch()

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
        numbers, ledger = self._propose.numbers[trial.trial_id], self._propose.ledger
        number = result.get("number")
        if number not in ledger.running:  # over, and told again by a worker that was started again
            return TrialScheduler.CONTINUE
        if result.get("record"):
            self._propose.end(number, TrialRecord.model_validate_json(result["record"]))
        elif ledger.report(number, RungReport.model_validate_json(result["report"])):
            if len(numbers) == 1:
                return TrialScheduler.STOP
            self._propose.end(number, None)
        return TrialScheduler.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _trainable(config: dict[str, Any]) -> None:
    """One trial or a few, in a worker. An actor runs many, one after the other: `run` resets all seeds."""
    from autometa.trial.group import failed, run_group

    over = Path(config["over"])
    jobs = {int(number): Job.model_validate_json(job) for number, job in config["jobs"].items()}
    # After its worker died, a group comes back as it was; who had ended by then has not to be trained again.
    left = {number: job for number, job in jobs.items() if not (over / str(number)).exists()}

    def on_rung(number: int, report: RungReport) -> bool:
        tune.report({"accuracy": report.accuracy.mean, "number": number, "report": report.model_dump_json()})
        # This returns when the driver has seen the report, and has left word if it said stop.
        return (over / str(number)).exists()

    def on_end(record: TrialRecord) -> None:
        del left[record.number]
        accuracy = record.last.accuracy.mean if record.last else 0.0
        tune.report({"accuracy": accuracy, "number": record.number, "record": record.model_dump_json()})

    try:
        _keep_to_share(next(iter(jobs.values())).use_gpu, config["gpus"])
        run_group(dict(left), on_rung=on_rung, on_end=on_end)
        return
    except AutometaError as error:
        reason = str(error)
    except Exception as error:  # a bug in a learner, perhaps the user's own, ends its trials and not the search
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
    for number, job in dict(left).items():
        on_end(failed(number, job, reason))


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
