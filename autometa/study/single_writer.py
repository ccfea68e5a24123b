"""A study's storage for the one process that writes it: it reads from memory, and writes a step in one transaction.

Optuna's own storages assume many writers: each parameter, report and attribute is a transaction, with queries before
it for what another process may have changed; a trial of nine rungs makes 195 of them. The driver is alone, so what it
wrote is what there is. Anybody may read meanwhile, or put trials in the queue: they are seen with the next new one. It
knows trials as Optuna does, and nothing of searches.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study, StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from autometa.study.transaction import End, Kind, Write, new_trial, write_all


@contextmanager
def together(study: Study) -> Iterator[BaseStorage]:
    """What is written to the study inside the block goes out at its end, at once; yields the study's storage.

    Any storage may be the study's.
    """
    storage = study._storage
    if not isinstance(storage, SingleWriter):
        yield storage
        return
    with storage.together():
        yield storage


class SingleWriter(BaseStorage):
    """One study of a storage, for its only writer; in one thread.

    Args:
        backend: where the study is kept.
    """

    def __init__(self, backend: BaseStorage) -> None:
        self._backend = backend
        self._study_id: int | None = None
        self._trials: list[FrozenTrial] = []
        self._numbers: dict[int, int] = {}
        self._unfinished: set[int] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self._directions: list[StudyDirection] = []
        self._pending: dict[tuple[int, Kind, str | int], Write] = {}
        self._ends: list[End] = []
        self._depth = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Keep writes until the end of the block; a block that raises still writes what it had."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self._flush()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._load(study_id)
        if isinstance(self._backend, RDBStorage) and template_trial is None:
            trial = new_trial(self._backend, study_id)
        else:
            trial = self._backend.get_trial(self._backend.create_new_trial(study_id, template_trial))
        if trial.number != len(self._trials):  # somebody has put trials in the queue meanwhile
            for other in self._backend.get_all_trials(study_id, deepcopy=False)[len(self._trials) : trial.number]:
                self._add(other)
        self._add(trial)
        return trial._trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        check_distribution_compatibility(self._distributions.setdefault(param_name, distribution), distribution)
        value = distribution.to_external_repr(param_value_internal)
        is_new = self._put(trial_id, "params", param_name, value)
        self._put(trial_id, "distributions", param_name, distribution)
        self._write(Write(trial_id, "param", param_name, param_value_internal, is_new, distribution))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        is_new = self._put(trial_id, "intermediate_values", step, intermediate_value)
        self._write(Write(trial_id, "intermediate_value", step, intermediate_value, is_new))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(Write(trial_id, "user_attr", key, value, self._put(trial_id, "user_attrs", key, value)))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(Write(trial_id, "system_attr", key, value, self._put(trial_id, "system_attrs", key, value)))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if not state.is_finished():
            return self._started(trial_id, state, values)
        trial = self._changed(trial_id)
        trial.state, trial.datetime_complete = state, datetime.now()
        if values is not None:
            trial.values = list(values)
        self._unfinished.discard(trial.number)
        self._ends.append(End(trial_id, state, values, trial.datetime_complete))
        self._flush()
        return True

    def _started(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> bool:
        """A trial leaves the queue, unless somebody else took it."""
        self._send()
        if not self._backend.set_trial_state_values(trial_id, state, values):
            return False
        trial = self._changed(trial_id)
        trial.state, trial.datetime_start = state, datetime.now()
        return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A copy while it runs, since `optuna.Trial` notes in it what it writes."""
        trial = self._known(trial_id)
        return trial if trial.state.is_finished() else copy.deepcopy(trial)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Not a copy: a pruner asks for them several times a report."""
        return self._known(trial_id).system_attrs

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        self._load(study_id)
        trials = list(self._trials) if states is None else [t for t in self._candidates(states) if t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _candidates(self, states: Container[TrialState]) -> Iterable[FrozenTrial]:
        """Trials that may be in these states: to look for queued ones among all takes longer the longer a study is."""
        if any(state in states for state in TrialState if state.is_finished()):
            return self._trials
        return (self._trials[number] for number in sorted(self._unfinished))

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        self._load(study_id)
        if not 0 <= trial_number < len(self._trials):
            raise KeyError(f"no trial {trial_number} in this study")
        return self._trials[trial_number]._trial_id

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._backend.create_new_study(directions, study_name)

    def delete_study(self, study_id: int) -> None:
        self._backend.delete_study(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._backend.set_study_user_attr(study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._backend.set_study_system_attr(study_id, key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._backend.get_study_id_from_name(study_name)

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._backend.get_study_name_from_id(study_id)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        self._directions = self._directions or self._backend.get_study_directions(study_id)
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._backend.get_study_user_attrs(study_id)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._backend.get_study_system_attrs(study_id)

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._backend.get_all_studies()

    def _load(self, study_id: int) -> None:
        if self._study_id is None:
            try:
                trials = self._backend.get_all_trials(study_id, deepcopy=False)
            except Exception as error:  # damaged bytes fail in many ways
                raise StorageInternalError(f"its trials cannot be read: {error}") from error
            self._study_id = study_id
            for trial in trials:
                self._add(trial)
        assert study_id == self._study_id, "one study each"

    def _add(self, trial: FrozenTrial) -> None:
        self._numbers[trial._trial_id] = trial.number
        self._trials.append(trial)
        if not trial.state.is_finished():
            self._unfinished.add(trial.number)
        for name, distribution in trial.distributions.items():
            self._distributions.setdefault(name, distribution)

    def _known(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._numbers:
            raise KeyError(f"no trial with id {trial_id} in this study")
        return self._trials[self._numbers[trial_id]]

    def _changed(self, trial_id: int) -> FrozenTrial:
        """A running trial to change: a new one in the place of that which may have been handed out."""
        old = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, old.state)
        new = self._trials[old.number] = copy.copy(old)
        return new

    def _put(self, trial_id: int, of: str, key: str | int, value: Any) -> bool:
        """Set one entry of one of the trial's dictionaries; returns whether it is new."""
        trial = self._changed(trial_id)
        entries = getattr(trial, of)
        setattr(trial, of, {**entries, key: value})
        return key not in entries

    def _write(self, write: Write) -> None:
        at = (write.trial_id, write.kind, write.key)
        waiting = self._pending.pop(at, None)
        self._pending[at] = replace(write, is_new=waiting.is_new) if waiting else write
        self._flush()

    def _flush(self) -> None:
        if not self._depth:
            self._send()

    def _send(self) -> None:
        writes, ends = list(self._pending.values()), self._ends
        self._pending, self._ends = {}, []
        if writes or ends:
            write_all(self._backend, writes, ends)
