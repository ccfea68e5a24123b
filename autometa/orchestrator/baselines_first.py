"""The baselines of a search are measured on the first worker that is free, as a trial of Tune before all others.

It wraps the search's own searcher and scheduler, which never hear of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Share  # isort: split

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from autometa.errors import StopSearchError
from autometa.orchestrator import ray_tune
from autometa.records import Baseline
from autometa.trial.job import Job

Trainable = Callable[[dict[str, Any]], None]


class Baselines(Protocol):
    """Says what is to be measured, and is told what came of it."""

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Jobs by the name of their baseline; those that are known have none."""
        ...

    def measured(self, baseline: Baseline) -> None:
        """One was measured, and its checkpoint is on disk."""

    def failed(self, reason: str) -> None:
        """One could not be measured, or none."""


class First(ray_tune.StatelessSearcher):
    """A searcher whose first trial are the baselines."""

    def __init__(self, inner: Searcher, baselines: Baselines, share: Share, stop: ray_tune.StopAll) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.baselines, self.stop = baselines, stop
        self._inner = inner
        self._gpus = share.gpus
        self.trial: str | None = None

    def suggest(self, trial_id: str) -> Any:
        if self.trial is not None:
            return self._inner.suggest(trial_id)
        self.trial = trial_id
        jobs = {name: job.model_dump_json() for name, job in self.baselines.jobs.items()}
        return {"baselines": jobs, "gpus": self._gpus}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id != self.trial:
            self._inner.on_trial_complete(trial_id, result, error)
        elif error:
            with self.stop.on_error():
                self.baselines.failed(ray_tune.LOST)


class TellFirst(ray_tune.StatelessScheduler):
    """What the first trial reports goes to the baselines, all else to another scheduler."""

    def __init__(self, inner: TrialScheduler, first: First) -> None:
        super().__init__()
        self._inner = inner
        self._first = first

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.trial_id != self._first.trial:
            return str(self._inner.on_trial_result(tune_controller, trial, result))
        with self._first.stop.on_error():
            self._told(result)
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP

    def _told(self, result: dict[str, Any]) -> None:
        if result.get("stop"):
            raise StopSearchError(result["stop"])
        if result.get("baseline"):
            self._first.baselines.measured(Baseline.model_validate_json(result["baseline"]))
        elif result.get("failed"):
            self._first.baselines.failed(result["failed"])


def before(
    trainable: Trainable, config: tune.TuneConfig, baselines: Baselines, share: Share, stop: ray_tune.StopAll
) -> tuple[Trainable, tune.TuneConfig]:
    """The trainable and the settings of a run of Tune that measures baselines before it does what it did."""

    def either(given: dict[str, Any]) -> None:
        if "baselines" in given:
            return _measure(given)
        return trainable(given)

    first = First(config.search_alg, baselines, share, stop)
    samples = config.num_samples + 1 if config.num_samples > 0 else config.num_samples
    scheduler = TellFirst(config.scheduler, first)
    return either, dataclasses.replace(config, search_alg=first, scheduler=scheduler, num_samples=samples)


def _measure(config: dict[str, Any]) -> None:
    """All baselines, one after the other, in a worker."""
    from autometa.trial.baselines import measure

    for name, text in config["baselines"].items():
        job = Job.model_validate_json(text)
        try:
            ray_tune.keep_to_share(job.use_gpu, config["gpus"])
            found = measure(name, job)
        except Exception as error:
            stop, reason = ray_tune.why(error)
            tune.report({"accuracy": 0.0, "stop": stop} if stop else {"accuracy": 0.0, "failed": f"{name}: {reason}"})
            if stop:
                return
            continue
        tune.report({"accuracy": found.accuracy.mean, "baseline": found.model_dump_json()})
