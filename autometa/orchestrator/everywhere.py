"""Functions that run in workers as tasks of Ray, beside trials: what is measured at the end, and what a GPU holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Share  # isort: split

import ray

from autometa.errors import AutometaError
from autometa.orchestrator.adapters import RETRIES
from autometa.orchestrator.worker import keep_to_share
from autometa.records import DeployedTask, TrialRecord
from autometa.space.space import SearchSpace
from autometa.trial.job import Job
from autometa.trial.measured import Measured


def warm_up(share: Share) -> None:
    """Have workers started that will measure at the end: those of Tune end with its run."""
    load = ray.remote(num_cpus=0)(_load)
    for _ in range(share.workers):
        load.remote()


def _load() -> None:
    import autometa.trial.run  # noqa: F401


def run(function: Callable[..., Any], calls: Sequence[dict[str, Any]], share: Share) -> Iterator[tuple[int, Any]]:
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


def measure_in_worker(*, threads: int, **call: Any) -> Measured:
    """`trial.evaluate.measure_checkpoint`, in a worker, with so many threads of a CPU."""
    from autometa.trial.evaluate import measure_checkpoint

    keep_to_share(call.get("use_gpu"), 1.0, threads)
    return measure_checkpoint(**call)


def compute_features_in_worker(**call: Any) -> None:
    """`trial.evaluate.compute_features`, in a worker."""
    from autometa.trial.evaluate import compute_features

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
    from autometa.trial.run import run as train

    asked = Job.model_validate_json(job)
    keep_to_share(asked.use_gpu, gpus)
    return train(asked)
