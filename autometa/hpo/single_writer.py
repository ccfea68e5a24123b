"""A study's storage for the one process that writes it: it reads from memory, and writes only what is new.

Optuna's own storages assume many writers: before each answer they look up what another process may have changed. The
driver is alone, so what it wrote is what there is. Anybody may read meanwhile, or put trials in the queue: they are
seen with the next new one. It knows trials as Optuna does, and nothing of searches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from autometa.hpo.forwarding import ForwardingStorage


@dataclass
class Created:
    """What a block of `SingleWriter.one_write` has created."""

    number: int | None = None  # the trial's, known when the block has ended; None without a new trial


class SingleWriter(ForwardingStorage):
    """One study of a storage, for its only writer; in one thread. A trial's id is its number here.

    Args:
        backend: where the study is kept.
    """

    def __init__(self, backend: BaseStorage) -> None:
        super().__init__(backend)
        self._study: tuple[str, int] | None = None
        self._trials: list[FrozenTrial] = []
        self._loaded: int | None = None  # the study's id
        self._ids: dict[int, int] = {}  # the backend's, by number, as far as they were needed
        self._unfinished: set[int] = set()
        self._distributions: dict[str, BaseDistribution] = {}
        self._directions: list[StudyDirection] = []
        self._deferred: dict[int, dict[str, Any]] = {}  # user attributes by number
        self._is_deferring = False
        self._is_one_write = False
        self._held: int | None = None  # number of the trial that is in memory alone

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """User attributes of a trial that are set in this block are kept in memory, and written when it ends."""
        self._is_deferring = True
        try:
            yield
        finally:
            self._is_deferring = False

    @contextmanager
    def one_write(self) -> Iterator[Created]:
        """A running trial that is created in this block is kept in memory, and written whole when the block ends.

        One transaction takes the place of one per parameter and attribute. Until it ends, the trial has the next
        number. It gets a later one where somebody put trials in the queue meanwhile. If the block raises, there is no
        such trial.
        """
        created, distributions = Created(), dict(self._distributions)
        self._is_one_write = True
        try:
            yield created
            if self._held is not None:
                created.number = self._create(self._released())
        except BaseException:
            if self._held is not None:
                self._released()
            self._distributions = distributions
            raise
        finally:
            self._is_one_write = False

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        self._load(study_id)
        assert self._held is None, "one new trial a block"
        trial = copy.deepcopy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        if not self._is_one_write or trial.state != TrialState.RUNNING:
            return self._create(trial)
        self._held = len(self._trials)
        self._add(trial)
        return self._held

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        known = self._distributions.get(param_name, distribution)
        check_distribution_compatibility(known, distribution)
        trial = self._updatable(trial_id)
        self._pass_on(self._backend.set_trial_param, trial_id, param_name, param_value_internal, distribution)
        self._distributions[param_name] = known
        value = distribution.to_external_repr(param_value_internal)
        self._replace(
            trial,
            params={**trial.params, param_name: value},
            distributions={**trial.distributions, param_name: distribution},
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._updatable(trial_id)
        self._pass_on(self._backend.set_trial_intermediate_value, trial_id, step, intermediate_value)
        self._replace(trial, intermediate_values={**trial.intermediate_values, step: intermediate_value})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._updatable(trial_id)
        if self._is_deferring:
            self._deferred.setdefault(trial_id, {})[key] = value
        else:
            self._pass_on(self._backend.set_trial_user_attr, trial_id, key, value)
        self._replace(trial, user_attrs={**trial.user_attrs, key: value})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._updatable(trial_id)
        self._pass_on(self._backend.set_trial_system_attr, trial_id, key, value)
        self._replace(trial, system_attrs={**trial.system_attrs, key: value})

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        trial = self._updatable(trial_id)
        if state.is_finished():
            for key, value in self._deferred.pop(trial_id, {}).items():
                self._backend.set_trial_user_attr(self._id(trial_id), key, value)
        if not self._backend.set_trial_state_values(self._id(trial_id), state, values):
            return False  # somebody else took it out of the queue
        now = datetime.now()
        if state.is_finished():
            self._unfinished.discard(trial_id)
            self._replace(trial, state=state, values=trial.values if values is None else values, datetime_complete=now)
        else:
            self._replace(trial, state=state, datetime_start=now)
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

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        self._load(study_id)
        self._known(trial_number)
        return trial_number

    def get_study_id_from_name(self, study_name: str) -> int:
        if self._study is None or self._study[0] != study_name:
            self._study = (study_name, self._backend.get_study_id_from_name(study_name))
        return self._study[1]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        self._directions = self._directions or self._backend.get_study_directions(study_id)
        return self._directions

    def _candidates(self, states: Container[TrialState]) -> Iterable[FrozenTrial]:
        """Trials that may be in these states: to look for queued ones among all takes longer the longer a study is."""
        if any(state in states for state in TrialState if state.is_finished()):
            return self._trials
        return (self._trials[number] for number in sorted(self._unfinished))

    def _load(self, study_id: int) -> None:
        if self._loaded is None:
            try:
                trials = self._backend.get_all_trials(study_id, deepcopy=False)
            except Exception as error:  # damaged bytes fail in many ways
                raise StorageInternalError(f"its trials cannot be read: {error}") from error
            self._loaded = study_id
            for trial in trials:
                self._add(trial)
        assert study_id == self._loaded, "one study each"

    def _create(self, trial: FrozenTrial) -> int:
        """Write a new trial and keep it in memory; returns its number."""
        assert self._loaded is not None
        trial_id = self._backend.create_new_trial(self._loaded, trial)
        number = len(self._trials)
        if self._backend.get_trial_id_from_study_id_trial_number(self._loaded, number) != trial_id:
            # Somebody has put trials in the queue meanwhile.
            number = self._backend.get_trial_number_from_id(trial_id)
            for other in self._backend.get_all_trials(self._loaded, deepcopy=False)[len(self._trials) : number]:
                self._add(other)
        self._ids[number] = trial_id
        self._add(trial)
        return number

    def _released(self) -> FrozenTrial:
        """The trial that was in memory alone, out of it."""
        assert self._held == len(self._trials) - 1
        self._unfinished.discard(self._held)
        self._held = None
        return self._trials.pop()

    def _pass_on(self, write: Callable[..., None], number: int, *what: Any) -> None:
        if number != self._held:
            write(self._id(number), *what)

    def _add(self, trial: FrozenTrial) -> None:
        mine = _with_id(trial, len(self._trials))
        self._trials.append(mine)
        if not mine.state.is_finished():
            self._unfinished.add(mine.number)
        for name, distribution in mine.distributions.items():
            self._distributions.setdefault(name, distribution)

    def _known(self, trial_id: int) -> FrozenTrial:
        if not 0 <= trial_id < len(self._trials):
            raise KeyError(f"no trial {trial_id} in this study")
        return self._trials[trial_id]

    def _id(self, number: int) -> int:
        """The backend's id of a trial."""
        assert number != self._held, "not written yet"
        if number not in self._ids:
            assert self._loaded is not None
            self._ids[number] = self._backend.get_trial_id_from_study_id_trial_number(self._loaded, number)
        return self._ids[number]

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self._known(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return trial

    def _replace(self, trial: FrozenTrial, **changes: Any) -> None:
        """Put a changed copy in the place of one that may have been handed out."""
        new = self._trials[trial.number] = copy.copy(trial)
        for name, value in changes.items():
            setattr(new, name, value)


def _with_id(trial: FrozenTrial, number: int) -> FrozenTrial:
    """The trial with this number, which is its id too."""
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs,
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )
