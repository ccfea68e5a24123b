"""Any study of Optuna as a past study to learn from, whoever made it.

It does not open storages (`hpo/storage.py` does) and asks nothing of the study's sampler or pruner.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState

from autometa.errors import StudyError
from autometa.past import Direction, PastReport, PastStudy, PastTrial
from autometa.records import Scalar

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def from_optuna(study: optuna.Study, *, origin: str = "") -> PastStudy:
    """The ended trials of a study of one objective.

    The n-th step at which its trials report (0, 10, 20 …, or 1, 3, 9 …) is rung n. A complete trial's final
    value counts at the last rung, whatever was reported at that step; without reports there is one rung. A
    failed trial has no values, and one that ended with an infinite value counts as failed.

    Raises:
        StudyError: the study has several objectives.
    """
    if len(study.directions) > 1:
        count = len(study.directions)
        raise StudyError(f"study {study.study_name!r} has {count} objectives; priors learn from studies of one")
    frozen = study.get_trials(deepcopy=False, states=_ENDED)
    rungs = _rungs(frozen)
    direction: Direction = "minimize" if study.direction == optuna.study.StudyDirection.MINIMIZE else "maximize"
    return PastStudy(
        name=study.study_name,
        trials=tuple(_past_trial(trial, rungs) for trial in frozen),
        direction=direction,
        ranges=_ranges(frozen),
        origin=origin,
    )


def _rungs(trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Rung by step, over the finite reports of trials that did not fail."""
    steps = {step for t in trials if t.state != TrialState.FAIL for step in _finite(t.intermediate_values)}
    return {step: rung for rung, step in enumerate(sorted(steps), 1)}


def _past_trial(trial: FrozenTrial, rungs: Mapping[int, int]) -> PastTrial:
    values = {name: _scalar(value) for name, value in trial.params.items()}
    final = trial.value if trial.state == TrialState.COMPLETE else None
    if trial.state == TrialState.FAIL or (final is not None and not math.isfinite(final)):
        return PastTrial(values, (), "fail", trial.number)
    shown = {rungs[step]: value for step, value in _finite(trial.intermediate_values).items()}
    if final is not None:
        shown[max(len(rungs), 1)] = final
    curve = [PastReport(rung, shown[rung]) for rung in sorted(shown)]
    if curve:  # a trial's duration is known, how it spread over the rungs is not
        curve[-1] = PastReport(curve[-1].rung, curve[-1].value, _seconds(trial))
    return PastTrial(values, tuple(curve), "complete" if final is not None else "pruned", trial.number)


def _finite(reports: Mapping[int, float]) -> dict[int, float]:
    return {step: float(value) for step, value in reports.items() if math.isfinite(value)}


def _seconds(trial: FrozenTrial) -> float:
    """From start to end; a trial that was added by hand took no time, which says nothing."""
    seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return seconds if seconds > 0 else math.nan


def _ranges(trials: Iterable[FrozenTrial]) -> dict[str, str]:
    """How each parameter could vary over the whole study, where that can be said in one distribution."""
    seen: dict[str, list[BaseDistribution]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            others = seen.setdefault(name, [])
            if distribution not in others:
                others.append(distribution)
    joined = {name: _joined(distributions) for name, distributions in seen.items()}
    return {name: distribution_to_json(one) for name, one in joined.items() if one is not None}


def _joined(distributions: list[BaseDistribution]) -> BaseDistribution | None:
    """One distribution over all: Optuna lets the ends of a range move from trial to trial."""
    first = distributions[0]
    if isinstance(first, CategoricalDistribution):
        return CategoricalDistribution([_scalar(choice) for choice in first.choices])
    if len(distributions) == 1:
        return first
    numeric = [d for d in distributions if isinstance(d, FloatDistribution | IntDistribution)]
    if len({(type(d), d.log) for d in numeric}) > 1:
        return None
    low, high, log = min(d.low for d in numeric), max(d.high for d in numeric), numeric[0].log
    if isinstance(first, IntDistribution):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _scalar(value: object) -> Scalar:
    """A category as plain data: Optuna allows None and, with a warning, anything that JSON can hold."""
    is_plain = isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    if is_plain:
        return value  # type: ignore[return-value]
    return json.dumps(value, default=str) if isinstance(value, list | tuple | dict) else str(value)
