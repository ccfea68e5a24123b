"""Segments of candidates on the workers of Ray Tune: each is a trial of Tune, and whoever hands them out decides.

A candidate that waits costs nothing: it is a checkpoint on disk. Tune uses its actors again, so a segment starts in
some 15 ms, and the next one may be of any candidate.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

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
from autometa.records import RungReport, Scalar, TrialRecord
from autometa.trial.segment import Segment


class Desk(Protocol):
    """Hands out segments, and is told what comes of them. A candidate is known by its number."""

    @property
    def is_over(self) -> bool:
        """Whether there will be no further segment."""
        ...

    def next(self) -> tuple[int, Segment] | None:
        """The next segment of a candidate; None where there is nothing to do for now."""
        ...

    def started(self, number: int) -> None:
        """A worker has taken the first step."""

    def reported(self, number: int, report: RungReport) -> None:
        """A rung was reached."""

    def described(self, number: int, facts: dict[str, Scalar]) -> None:
        """What a worker knows of a candidate beside its curve."""

    def ended(self, number: int, record: TrialRecord | None, error: str | None = None) -> None:
        """A segment is over; with a record or an error its candidate goes on no further."""

    def ran_with(self, kernels: str | None) -> None:
        """Which compiled kernels a worker has."""


def run_segments(desk: Desk, share: Share, scratch: Path, baselines: Baselines | None = None) -> None:
    """Run segments until the desk has no more.

    Args:
        scratch: a folder for Tune's own files, removed afterwards.
        baselines: to be measured first.

    Raises:
        StopSearchError: a worker met what would end every candidate, such as a full disk.
        Exception: whatever the desk raised, such as a storage that failed.
    """
    stop = StopAll()
    ask = _Ask(desk, share, stop)
    config = tune.TuneConfig(num_samples=-1, search_alg=ask, scheduler=_Tell(ask), **usual(share))
    run_tune(_trainable, config, share, scratch, stop, baselines)


class _Ask(StatelessSearcher):
    """Tune asks for a segment; the desk answers."""

    def __init__(self, desk: Desk, share: Share, stop: StopAll) -> None:
        super().__init__(metric="accuracy", mode="max")
        self.desk, self.stop = desk, stop
        self.numbers: dict[str, int] = {}
        self._gpus = share.gpus

    def suggest(self, trial_id: str) -> Any:
        with self.stop.on_error():
            if self.desk.is_over:
                return Searcher.FINISHED
            found = self.desk.next()
            if found is None:
                return Searcher.FINISHED if self.desk.is_over else None
            number, segment = found
            self.numbers[trial_id] = number
            return {"number": number, "segment": segment.model_dump_json(), "gpus": self._gpus}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        with self.stop.on_error():
            if (number := self.numbers.pop(trial_id, None)) is not None:
                self.desk.ended(number, None, LOST if error else None)


class _Tell(StatelessScheduler):
    """Every report goes to the desk."""

    def __init__(self, ask: _Ask) -> None:
        super().__init__()
        self._ask = ask

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        with self._ask.stop.on_error():
            self._told(result)
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP

    def _told(self, result: dict[str, Any]) -> None:
        desk = self._ask.desk
        if result.get("stop"):
            raise StopSearchError(result["stop"])
        number = result["number"]
        desk.ran_with(result.get("kernels"))
        if result.get("is_training"):
            desk.started(number)
        elif result.get("is_cut"):
            return
        elif result.get("facts"):
            desk.described(number, json.loads(result["facts"]))
        elif result.get("record"):
            desk.ended(number, TrialRecord.model_validate_json(result["record"]))
        else:
            desk.reported(number, RungReport.model_validate_json(result["report"]))


def _trainable(config: dict[str, Any]) -> None:
    """One segment, in a worker; everything that it needs is in its job and its checkpoint."""
    from autometa.learning.ops import native
    from autometa.trial.group import failed
    from autometa.trial.segment import run_segment

    segment, number = Segment.model_validate_json(config["segment"]), int(config["number"])
    starts = iter([number] if segment.until == 1 else [])
    told = False

    def tell(**what: Any) -> None:
        nonlocal told
        told = True
        tune.report({"accuracy": 0.0, "number": number, **what})

    def on_step(*_: object) -> None:
        for _first in starts:
            tell(is_training=True, kernels=native.use())

    def on_rung(report: RungReport) -> None:
        tell(accuracy=report.accuracy.mean, report=report.model_dump_json(), kernels=native.use())

    def on_facts(facts: dict[str, Scalar]) -> None:
        tell(facts=json.dumps(facts))

    try:
        keep_to_share(segment.job.use_gpu, config["gpus"], threads=segment.threads)
        record = run_segment(segment, number=number, on_rung=on_rung, on_step=on_step, on_facts=on_facts)
    except Exception as error:
        stop, reason = why(error)
        if stop:
            return tell(stop=stop)
        record = failed(number, segment.job, reason)
    if record:
        tell(record=record.model_dump_json())
    if not told:  # its time was over before the first step, and Tune takes no trial without a result
        tell(is_cut=True)
    return None
