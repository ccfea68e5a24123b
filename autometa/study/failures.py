"""TPE that learns from failures. Optuna's own leaves FAIL trials out, and so proposes their like again."""

from __future__ import annotations

import copy
from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState


class FailureAwareTPE(TPESampler):
    """`TPESampler` for which a failed trial is worse than any other.

    Interrupted trials are not failures: each goes on as a later one.
    """

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(_with_failures(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(_with_failures(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(_with_failures(study), trial, param_name, param_distribution)


def _with_failures(study: optuna.Study) -> optuna.Study:
    return cast("optuna.Study", _WithFailures(study))


class _WithFailures:
    """A study as TPE sees it, whose failed trials were pruned before they showed anything."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        """What TPE calls; as Optuna's Hyperband does, it stands in for the study's own."""
        trials = self._study._get_trials(deepcopy=deepcopy, states=states, use_cache=use_cache)
        if states is None or TrialState.PRUNED not in states:
            return trials
        failed = self._study._get_trials(deepcopy=False, states=(TrialState.FAIL,), use_cache=use_cache)
        shown = [_as_pruned(trial) for trial in failed if not trial.user_attrs.get("interrupted")]
        return sorted([*trials, *shown], key=lambda trial: trial.number)


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """A copy that TPE puts behind all others; the constraint of one that does not fit is kept."""
    shown = copy.copy(trial)
    shown.state, shown.intermediate_values = TrialState.PRUNED, {}
    return shown
