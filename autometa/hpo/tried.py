"""Which configurations a study has already, whatever became of them, and whether its space has others.

It does not know who proposes (`never_twice.py` does not let a sampler propose them again).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autometa.records import Scalar
from autometa.space.space import SearchSpace
from autometa.space.walk import configurations


class Tried:
    """The configurations of all trials of one study: over, running, or waiting in the queue.

    A trial that is over is looked at once, so a look costs the same in a long study.
    """

    def __init__(self, study: optuna.Study, space: SearchSpace) -> None:
        self._study = study
        self.space = space
        self._keys: set[object] = set()
        self._seen = 0
        self._open: set[int] = set()
        self._left = configurations(space)
        self._next = next(self._left, None)
        self._is_exhausted = False

    def __contains__(self, values: Mapping[str, Scalar]) -> bool:
        return self.space.key(values) in self._now()

    @property
    def is_all(self) -> bool:
        """Whether the space has no other. Goes through the space once in the life of the study."""
        keys = self._now()
        while not self._is_exhausted and self._next is not None and self.space.key(self._next) in keys:
            try:
                self._next = next(self._left)
            except StopIteration:
                self._is_exhausted = True
        return self._is_exhausted

    def other(self, fixed: Mapping[str, Scalar]) -> dict[str, Scalar] | None:
        """The first configuration with these values that was not tried and can be counted; None without one."""
        keys = self._now()
        return next((c for c in configurations(self.space, fixed) if c and self.space.key(c) not in keys), None)

    def has_others(self, fixed: Mapping[str, Scalar]) -> bool:
        """Whether the space has another with these values."""
        keys = self._now()
        return any(c is None or self.space.key(c) not in keys for c in configurations(self.space, fixed))

    def _now(self) -> set[object]:
        trials = self._study.get_trials(deepcopy=False)
        still_open = set()
        for number in [*sorted(self._open), *range(self._seen, len(trials))]:
            self._keys.add(self.space.key(values_of(trials[number])))
            if not trials[number].state.is_finished():
                still_open.add(number)
        self._open, self._seen = still_open, len(trials)
        return self._keys


def values_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's values: those it has, and those it waits in the queue with."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
