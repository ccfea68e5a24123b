"""The baselines of a search are measured on the first worker that is free, before its first trial.

It wraps the search's own searcher and scheduler, which never hear of it. As a trial of Tune of their own they cost a
search its second worker for half a minute: Tune ends an actor when it has no trial for it yet, and gives up starting
the next one whenever a short trial frees another.
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
from autometa.orchestrator.adapters import LOST, StatelessScheduler, StatelessSearcher, StopAll
from autometa.orchestrator.worker import keep_to_share, why
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


class First(StatelessSearcher):
    """A searcher whose first trial has the baselines before it; where there is no trial, they are one alone."""

    def __init__(self, inner: Searcher, baselines: Baselines, stop: StopAll, *, gpus: float) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.baselines, self.stop = baselines, stop
        self._inner = inner
        self._gpus = gpus
        self._trial: str | None = None

    def suggest(self, trial_id: str) -> Any:
        found = self._inner.suggest(trial_id)
        if self._trial is not None or found is None:
            return found
        self._trial = trial_id
        jobs = {name: job.model_dump_json() for name, job in self.baselines.jobs.items()}
        trial = {"gpus": self._gpus} if found == Searcher.FINISHED else {**found, "trial": True}
        return {**trial, "baselines": jobs}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._inner.on_trial_complete(trial_id, result, error)
        if trial_id == self._trial and error:
            with self.stop.on_error():
                self.baselines.failed(LOST)


class TellFirst(StatelessScheduler):
    """What is reported of baselines goes to them, all else to another scheduler."""

    def __init__(self, inner: TrialScheduler, first: First) -> None:
        super().__init__()
        self._inner = inner
        self._first = first

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if not result.get("of_baselines"):
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
    trainable: Trainable, config: tune.TuneConfig, baselines: Baselines, share: Share, stop: StopAll
) -> tuple[Trainable, tune.TuneConfig]:
    """The trainable and the settings of a run of Tune that measures baselines before it does what it did."""

    def both(given: dict[str, Any]) -> None:
        if "baselines" in given and not _measure(given):
            return
        if "baselines" not in given or given.get("trial"):
            trainable(given)

    first = First(config.search_alg, baselines, stop, gpus=share.gpus)
    return both, dataclasses.replace(config, search_alg=first, scheduler=TellFirst(config.scheduler, first))


def _measure(config: dict[str, Any]) -> bool:
    """Measure all baselines, one after the other, in a worker; returns whether the search goes on."""
    from autometa.trial.baselines import measure

    def tell(accuracy: float = 0.0, **what: str) -> None:
        tune.report({"accuracy": accuracy, "of_baselines": True, **what})

    for name, text in config["baselines"].items():
        job = Job.model_validate_json(text)
        try:
            keep_to_share(job.use_gpu, config["gpus"])
            found = measure(name, job)
        except Exception as error:
            stop, reason = why(error)
            if stop:
                tell(stop=stop)
                return False
            tell(failed=f"{name}: {reason}")
            continue
        tell(found.accuracy.mean, baseline=found.model_dump_json())
    return True
