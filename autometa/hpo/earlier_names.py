"""A study whose trials have earlier names of parameters, as if they had those of now."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from autometa.aliases import ALIASES, FIRST
from autometa.hpo.forwarding import ForwardingStorage

_FIXED = "fixed_params"  # where Optuna keeps what was enqueued


class WithNamesOfNow(ForwardingStorage):
    """Another storage, read under the names of now.

    A parameter that the study has under its earlier name is written under that, so each has one name in the storage.

    Args:
        backend: where the study is kept.
    """

    def __init__(self, backend: BaseStorage) -> None:
        super().__init__(backend)
        self._earlier: set[str] = set()  # those that were met

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        stored = copy.copy(template_trial)
        if stored is not None:
            stored.params = {self._name(name): value for name, value in stored.params.items()}
            stored.distributions = {self._name(name): value for name, value in stored.distributions.items()}
        return super().create_new_trial(study_id, stored)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, self._name(param_name), param_value_internal, distribution)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._translated(super().get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [self._translated(trial) for trial in super().get_all_trials(study_id, deepcopy, states)]

    def _name(self, now: str) -> str:
        """The one that the study has."""
        first = FIRST.get(now, now)
        return first if first in self._earlier else now

    def _translated(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial itself where it has no earlier name, else a copy."""
        fixed = trial.system_attrs.get(_FIXED, {})
        if ALIASES.keys().isdisjoint(trial.params) and ALIASES.keys().isdisjoint(fixed):
            return trial
        self._earlier |= ALIASES.keys() & trial.params.keys()
        changed = copy.copy(trial)
        changed.params, changed.distributions = _renamed(trial.params), _renamed(trial.distributions)
        changed.system_attrs = trial.system_attrs | ({_FIXED: _renamed(fixed)} if fixed else {})
        return changed


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of both names the last counts: an entry of the queue that somebody wrote so is no damage."""
    return {ALIASES.get(name, name): value for name, value in values.items()}
