"""A sampler that is shown the best and the latest trials of a long study only, so that asking costs the same all along.

Samplers fit their model to all trials at each proposal: TPE took 2.6 s a trial at 5,000 trials, the prior 2.0 s. TPE
takes at most 25 trials for good ones, and those are among the best here too: what is forgotten is how most bad ones
were bad.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Container, Iterable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa.hpo.shown import showing

MOST = 300

# Sorts better trials first, and of equal ones the earlier: (is not complete, -last step, -value, number).
_Rank = tuple[bool, int, float, int]


class CappedHistory(BaseSampler):
    """Another sampler, shown no more than `most` trials that are over, and no more than `most` of those that run.

    Half of the former are the best: complete ones by value, then those that came furthest. All others are the latest.

    Args:
        storage: that of the one study it samples for.
    """

    def __init__(self, sampler: BaseSampler, storage: BaseStorage, *, most: int = MOST) -> None:
        self._sampler = sampler
        self._storage = storage
        self._chosen = _Chosen(most)
        self._shown: Study | None = None
        self._shown_for: int | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._shown_for = None
        return self._sampler.infer_relative_search_space(self._show(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._show(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._show(study, trial), trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _show(self, study: Study, trial: FrozenTrial) -> Study:
        """The same for all parameters of a trial.

        From the storage: Hyperband hands out a study that hides most trials.
        """
        if self._shown is None or self._shown_for != trial.number:
            trials = self._storage.get_all_trials(
                self._storage.get_study_id_from_name(study.study_name), deepcopy=False
            )
            self._shown = showing(study, self._chosen_of(trials, study.direction), self._storage)
            self._shown_for = trial.number
        return self._shown

    def _chosen_of(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
        return self._chosen.of(trials, direction)


class _Chosen:
    """Which trials of a growing study are shown. A trial that is over is looked at once: it changes no more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen = 0
        self._running: list[int] = []  # by number, in ascending order, as all others
        self._over: list[int] = []
        self._best: list[_Rank] = []

    def of(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
        """Of all trials of the study, in their order, those that are shown."""
        self._update(trials, direction)
        if len(self._over) <= self._most and len(self._running) <= self._most:
            return list(trials)
        best = {number for *_, number in self._best}
        kept = best | set(_latest(self._over, self._most - self._most // 2, but=best))
        return [trials[number] for number in sorted(kept | set(_latest(self._running, self._most)))]

    def _update(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> None:
        still_running = []
        for number in [*self._running, *range(self._seen, len(trials))]:
            if not trials[number].state.is_finished():
                still_running.append(number)
                continue
            insort(self._over, number)
            insort(self._best, _rank(trials[number], direction))
            del self._best[self._most // 2 :]
        self._running, self._seen = still_running, len(trials)


def _rank(trial: FrozenTrial, direction: StudyDirection) -> _Rank:
    if trial.state == TrialState.FAIL or trial.value is None or trial.value != trial.value:
        return True, 1, 0.0, trial.number
    worth = -trial.value if direction == StudyDirection.MINIMIZE else trial.value
    return trial.state != TrialState.COMPLETE, -(trial.last_step or 0), -worth, trial.number


def _latest(numbers: Sequence[int], most: int, but: Container[int] = ()) -> Iterable[int]:
    """The last of these numbers, as many as there may be, leaving some out."""
    left = most
    for number in reversed(numbers):
        if not left:
            return
        if number not in but:
            left -= 1
            yield number
