"""TPE that learns from failures. Optuna's own leaves FAIL trials out, and so proposes their like again."""

from __future__ import annotations

import copy

import optuna
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.hpo.conditional_tpe import ConditionalTPE


class FailureAwareTPE(ConditionalTPE):
    """TPE for which a failed trial is worse than any other.

    Interrupted trials are not failures: each goes on as a later one.
    """

    def past(self, study: optuna.Study) -> list[FrozenTrial]:
        failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        shown = [_as_pruned(trial) for trial in failed if not attributes.INTERRUPTED.of(trial)]
        return sorted([*super().past(study), *shown], key=lambda trial: trial.number)


def _as_pruned(trial: FrozenTrial) -> FrozenTrial:
    """A copy that TPE puts behind all others; the constraint of one that does not fit is kept."""
    shown = copy.copy(trial)
    shown.state, shown.intermediate_values = TrialState.PRUNED, {}
    return shown
