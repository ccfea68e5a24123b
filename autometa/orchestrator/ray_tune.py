"""The door to Ray Tune: one run of it, whose trials are whatever a searcher proposes.

`trials.py` runs trials of a fixed budget by it, and `segments.py` parts of open ones.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Share  # isort: split

import ray
from ray import tune

from autometa.errors import StudyError
from autometa.orchestrator import baselines_first, ray_private
from autometa.orchestrator.adapters import RETRIES, StopAll
from autometa.orchestrator.baselines_first import Baselines


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
        trainable, config = baselines_first.before(trainable, config, baselines, share, stop)
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
