"""A sampler that is shown the candidates of an open search as trials that were stopped where they wait.

Such candidates are RUNNING until the search ends, and samplers learn nothing from trials that run. TPE ranks stopped
trials by the rung they reached, and at one rung by their accuracy: that is how promotion ranks candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.hpo.capped_history import MOST, CappedHistory


class OpenHistory(CappedHistory):
    """Another sampler, shown the latest candidates of an open search, each as PRUNED at its last rung."""

    def _chosen_of(self, trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
        continued = {attributes.CONTINUES.of(trial) for trial in trials}
        return [_stopped(trial) for trial in trials if trial.number not in continued][-MOST:]


def _stopped(trial: FrozenTrial) -> FrozenTrial:
    """The trial as if it had been stopped at its last rung, if it has reached one."""
    if trial.state.is_finished() or not trial.intermediate_values:
        return trial
    stopped = copy.copy(trial)
    stopped.state = TrialState.PRUNED
    stopped.value = trial.intermediate_values[max(trial.intermediate_values)]
    return stopped
