"""The door to Ray Tune: it runs trials in parallel, and every report goes to the ledger.

Tune's stock `OptunaSearch` stores trials that were stopped early as COMPLETE and loses their last report
(ray#52535 and others), so three small adapters stand in its place. They hold no state of their own:
what must survive a crash is in the study and in the trials' checkpoints.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Share  # isort: split

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from autometa.errors import AutometaError, StopSearchError, StudyError, write_trouble
from autometa.orchestrator import ray_private
from autometa.records import DeployedTask, RungReport, TrialRecord
from autometa.space.space import SearchSpace
from autometa.trial.abilities import is_stackable
from autometa.trial.job import Job
from autometa.trial.measured import Measured

if TYPE_CHECKING:  # a worker imports this file, and starts faster without Optuna
    from autometa.hpo.ledger import Asked, Ledger
    from autometa.orchestrator.baselines_first import Baselines

# A worker that was killed is started again this often, and its trial goes on from its checkpoint.
RETRIES = 2
LOST = f"its worker died {RETRIES + 1} times (killed, out of memory, or its node was lost)"


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
    propose = _Propose(ledger, make_job, share, trials, over=scratch.resolve() / "over", stop=stop)
    remaining = None if deadline is None else max(1.0, deadline - time.monotonic())
    config = tune.TuneConfig(
        num_samples=trials, search_alg=propose, scheduler=_Prune(propose), time_budget_s=remaining, **usual(share)
    )
    run_tune(_trainable, config, share, scratch, stop, baselines)


def run_tune(
    trainable: Callable[[dict[str, Any]], None],
    config: tune.TuneConfig,
    share: Share,
    scratch: Path,
    stop: StopAll,
    baselines: Baselines | None,
) -> None:
    """Have Tune run trainables until its searcher has no more; raises as `run_trials` does."""
    if baselines and baselines.jobs:
        from autometa.orchestrator.baselines_first import before  # which is made of parts of this file

        trainable, config = before(trainable, config, baselines, share, stop)
    ray_private.let_actors_take_started_workers()
    tuner = tune.Tuner(
        tune.with_resources(trainable, share.resources),
        tune_config=config,
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(scratch.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            stop=stop,
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tuner.fit()
        except ray.exceptions.RayError as error:
            said = str(error).strip().splitlines()[0]
            raise StudyError(f"Ray failed: {said}; what was done is kept: the same command continues") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    if stop.error:
        raise stop.error


def usual(share: Share) -> dict[str, Any]:
    """Settings of every run of Tune: its actors are used again."""
    return {
        "max_concurrent_trials": share.workers,
        "reuse_actors": True,
        "trial_dirname_creator": lambda trial: trial.trial_id,
    }


def warm_up(share: Share) -> None:
    """Have workers started that will measure at the end: those of Tune end with its run."""
    load = ray.remote(num_cpus=0)(_load)
    for _ in range(share.workers):
        load.remote()


def _load() -> None:
    import autometa.trial.run  # noqa: F401


def run_everywhere(
    function: Callable[..., Any], calls: Sequence[dict[str, Any]], share: Share
) -> Iterator[tuple[int, Any]]:
    """Call `function(**call)` on the workers, in parallel; yields (index, result) as they end.

    An `AutometaError` of a worker is raised as it was there.
    """
    remote = ray.remote(num_cpus=1, num_gpus=share.gpus, max_retries=RETRIES)(function)
    pending = {remote.remote(**call): index for index, call in enumerate(calls)}
    while pending:
        done, _ = ray.wait(list(pending), num_returns=1)
        try:
            result = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:  # its text is the worker's traceback
            raise (error.cause if isinstance(error.cause, AutometaError) else error) from None
        yield pending.pop(done[0]), result


class StopAll(Stopper):
    """Stops all trials as soon as there is an error that concerns them all.

    Tune would take what a callback raises for the failure of one trial, or make a text of it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.error is not None

    @contextlib.contextmanager
    def on_error(self) -> Iterator[None]:
        """Keep the first error of the block and end the block; what comes later follows from it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StatelessSearcher(Searcher):
    """A searcher that Tune has nothing to keep of: the study has it all, and a pickle would hold its password."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler sees every result, the searcher misses the last one."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StatelessScheduler(FIFOScheduler):
    """The same for schedulers."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Propose(StatelessSearcher):
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


class _Prune(StatelessScheduler):
    """Every report goes to the ledger, which says whether the trial should stop."""

    def __init__(self, propose: _Propose) -> None:
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


def why(error: Exception) -> tuple[str | None, str]:
    """Why the whole search has to stop, if it has to; and why a trial failed."""
    if isinstance(error, StopSearchError):
        return str(error), str(error)
    if isinstance(error, AutometaError):
        return None, str(error)
    if isinstance(error, OSError) and (trouble := write_trouble(error)):
        where = f"{error.filename}: {trouble}" if error.filename else trouble
        return where, where
    traceback.print_exc()  # a bug in a learner, perhaps the user's own, ends its trials and not the search
    return None, f"{type(error).__name__}: {error}"


def measure_in_worker(*, threads: int, **call: Any) -> Measured:
    """`trial.run.measure_checkpoint`, in a worker, with so many threads of a CPU."""
    from autometa.trial.run import measure_checkpoint

    keep_to_share(call.get("use_gpu"), 1.0, threads)
    return measure_checkpoint(**call)


def compute_features_in_worker(**call: Any) -> None:
    """`trial.run.compute_features`, in a worker."""
    from autometa.trial.run import compute_features

    keep_to_share(call.get("use_gpu"), 1.0)
    compute_features(**call)


def say_in_worker(**call: Any) -> dict[str, Any]:
    """`trial.model.said_in_views`, in a worker."""
    from autometa.trial.model import said_in_views

    keep_to_share(call.get("use_gpu"), 1.0)
    return said_in_views(**call)


def compute_all_classes_in_worker(**call: Any) -> None:
    """`deployment.all_classes.compute_features`, in a worker."""
    from autometa.deployment.all_classes import compute_features

    keep_to_share(call.get("use_gpu"), 1.0)
    compute_features(**call)


def measure_all_classes_in_worker(**call: Any) -> DeployedTask:
    """`deployment.all_classes.measure_all_classes`, in a worker."""
    from autometa.deployment.all_classes import measure_all_classes

    keep_to_share(call.get("use_gpu"), 1.0)
    return measure_all_classes(**call)


def fit_ensemble_in_worker(**call: Any) -> dict[int, str]:
    """`trial.model.fit_ensemble`, in a worker."""
    from autometa.trial.model import fit_ensemble

    keep_to_share(False, 1.0)
    return fit_ensemble(**call)


def train_in_worker(job: str, gpus: float) -> TrialRecord:
    """One job from its JSON, in a worker, from its checkpoint where there is one."""
    from autometa.trial.run import run

    asked = Job.model_validate_json(job)
    keep_to_share(asked.use_gpu, gpus)
    return run(asked)


def keep_to_share(use_gpu: bool | None, gpus: float, threads: int = 1) -> None:
    """Threads on a CPU, where two spinning OpenMP pools slow each other about sevenfold; on a GPU its memory."""
    from autometa.learning.device import limit_gpu_memory, limit_threads, pick_device

    if not use_gpu:
        limit_threads(threads)
    elif gpus < 1 and pick_device(True).type == "cuda":
        limit_gpu_memory(gpus)
