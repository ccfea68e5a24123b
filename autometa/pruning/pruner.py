"""A pruner for any Optuna study: it stops a trial that is unlikely to end above the best.

It asks `curves.py` where trials will end, and does not know how that is learned.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa.past import PastStudy, checked
from autometa.pruning.curves import Array, CurvePrior, Forecast
from autometa.pruning.running import Running, running

# Of .01, .02, .03, .05 and .08 on LCBench, the smallest that was as good as any against halving (docs/log.md).
_CHANCE = 0.03
# Below so many trials at a rung nothing is compared; below so many complete ones nothing is forecast without a past.
_FEW = 4


class PriorPruner(BasePruner):
    """Stops a trial whose chance to end above the best of its study is below `chance`.

    The best is the best complete value, or a running trial that is as far or further and is forecast to end higher.
    Forecasts come from the curves of past studies, in whatever unit, and more and more from the study's own
    complete trials. At its 2nd, 4th, 8th … rung a trial of the worse half is stopped as well, as in successive
    halving, unless it is more likely than not to win: so a poor archive, or none, costs about what halving does.

    What this promises: of the trials that forecasts stop, at most a share of `chance` would have won, as far as past
    studies can tell; and from each of those rungs about half go on, and likely winners. So the best of n trials is
    stopped with a probability of at most n times `chance`: the default is for whoever has time for more trials, since
    those make up for it; 0.01 is for a few that must not be missed.

    A NaN report stops its trial. The n-th step at which trials of the study report is rung n. The first call learns
    from the past studies: about a second for 33 of 200 trials and nine rungs.

    Args:
        past: studies whose trials reported at several rungs; others say nothing here.
        rungs: of a full trial; by default those of the study's complete trials, and until there is one, those of
            most past studies.
        chance: below which a trial is stopped.
    """

    def __init__(self, past: Sequence[PastStudy] = (), *, rungs: int | None = None, chance: float = _CHANCE) -> None:
        if not 0 <= chance < 1:
            raise ValueError(f"`0 <= chance < 1` must hold, but got chance={chance}.")
        if rungs is not None and rungs < 1:
            raise ValueError(f"`rungs >= 1` must hold, but got rungs={rungs}.")
        self._past = checked(past, "PriorPruner")
        self._rungs = rungs
        self._chance = chance
        self._priors: dict[int, CurvePrior] = {}

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None:
            return False
        if _is_hopeless(trial.intermediate_values[step], study.direction):
            return True
        shown = running(study, trial, self._length)
        rung = shown.rungs.get(step)
        if rung is None or (shown.is_length_known and rung == shown.curves.rungs - 1):
            return False
        here = shown.curves.values[:, rung]
        if (~np.isnan(here)).sum() < _FEW:
            return False
        chance = self._chance_to_win(shown, rung)
        return chance < self._chance or (chance < 0.5 and _is_halved(here, shown.index, rung))

    def _length(self, trials: Sequence[FrozenTrial]) -> int:
        if self._rungs:
            return self._rungs
        complete = max((len(t.intermediate_values) for t in trials if t.state == TrialState.COMPLETE), default=0)
        past = Counter(study.rungs for study in self._past if study.rungs > 1).most_common(1)
        return complete or (past[0][0] if past else 0)

    def _chance_to_win(self, shown: Running, rung: int) -> float:
        """The least of its chances against each that may be the best; just no likely winner where nothing is known."""
        nothing_known = math.nextafter(0.5, 0)
        me = np.array([shown.index])
        if not shown.is_length_known or not shown.curves.unit > 0:
            return nothing_known
        prior = self._prior(shown.curves.rungs)
        if not prior.has_past and shown.is_complete.sum() < _FEW:
            return nothing_known
        mine = _forecast(prior, shown, me, rung)
        finals = Forecast(shown.curves.values[shown.is_complete, -1], shown.errors[shown.is_complete])
        leads = [_lead(finals, mine)]
        for ahead in range(rung, shown.curves.rungs - 1):
            rivals = np.setdiff1d(np.flatnonzero(shown.is_running & (shown.last == ahead)), me)
            if len(rivals):
                leads.append(_lead(_forecast(prior, shown, rivals, ahead), mine))
        known = [lead for lead in np.concatenate(leads) if math.isfinite(lead)]
        return prior.chance_above(rung, max(known)) if known else nothing_known

    def _prior(self, rungs: int) -> CurvePrior:
        if rungs not in self._priors:
            self._priors[rungs] = CurvePrior(self._past, rungs)
        return self._priors[rungs]


def _is_hopeless(value: float, direction: StudyDirection) -> bool:
    """Diverged: not a number, or infinitely bad."""
    return math.isnan(value) or value == (math.inf if direction == StudyDirection.MINIMIZE else -math.inf)


def _forecast(prior: CurvePrior, shown: Running, trials: Array, rung: int) -> Forecast:
    """With the noise of the last value where that is known; past curves had theirs, so this errs towards going on."""
    forecast = prior.forecast(shown.curves, shown.curves.values[trials], rung)
    return Forecast(forecast.mean, np.hypot(forecast.deviation, shown.errors[trials]))


def _lead(theirs: Forecast, mine: Forecast) -> Array:
    """By how many standard deviations others are forecast to end above."""
    return (theirs.mean - mine.mean) / np.hypot(theirs.deviation, mine.deviation)


def _is_halved(here: Array, index: int, rung: int) -> bool:
    """Whether a trial is in the worse half at the 2nd, 4th, 8th … rung."""
    halves_here = rung > 0 and (rung + 1).bit_count() == 1
    peers = np.sort(here[~np.isnan(here)])[::-1]
    return halves_here and bool(here[index] < peers[len(peers) // 2 - 1])
