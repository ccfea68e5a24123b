"""A study that shows a sampler chosen trials of another one, by a storage that answers with these."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa.hpo.forwarding import ForwardingStorage


def showing(study: optuna.Study, trials: Sequence[FrozenTrial], storage: BaseStorage | None = None) -> optuna.Study:
    """The study as if it had these trials alone.

    Args:
        storage: the study's, for what the sampler writes; without it, that is dropped.
    """
    chosen = _Dropping(study.directions, trials) if storage is None else _Chosen(storage, trials)
    return optuna.load_study(study_name=study.study_name, storage=chosen, sampler=RandomSampler(), pruner=NopPruner())


class _Chosen(ForwardingStorage):
    def __init__(self, backend: BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(backend)
        self._trials = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials


class _Dropping(_Chosen):
    def __init__(self, directions: list[StudyDirection], trials: Sequence[FrozenTrial]) -> None:
        super().__init__(InMemoryStorage(), trials)
        self._directions = directions

    def get_study_id_from_name(self, study_name: str) -> int:
        return 0

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._directions

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        pass
