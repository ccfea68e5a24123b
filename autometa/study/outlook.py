"""What the winner would show had its search more time, as far as its own learning curve tells.

The error is taken for a power law (Hestness et al. 2017, Viering and Loog 2022): each doubling of the training leaves
the same part of it. Its slope is fitted to the last rungs, and flattens from there on, as that of real curves does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autometa.records import RungReport, TrialRecord

# The slope after a doubling, as a part of that before it; docs/log.md has what was measured.
LEFT_AT_DOUBLING = 0.75
_DOUBLINGS = 2
# The rungs that are fitted: earlier ones are of another part of the curve. Of two alone nobody knows the noise.
_MOST, _FEWEST = 4, 3
_LEAST_GAIN = 0.005
_LEAST_ERROR = 0.002


@dataclass(frozen=True)
class Outlook:
    """What a search in so many seconds would gain in validation, ± the half width of a 95 % interval of the fit."""

    seconds: float
    gain: float
    half_width: float


def outlook(winners: Sequence[TrialRecord], accuracy: float, seconds: float) -> Outlook | None:
    """What four times these seconds would give; None where it is not clear that accuracy still rises.

    Args:
        winners: the winning trial, or the members of the ensemble that won.
        accuracy: of the winner.
        seconds: that the search had.
    """
    known = [found for trial in winners if (found := _slope(trial.curve))]
    if not known or len(known) < len(winners):
        return None
    slope, half_width = np.mean(known, axis=0).tolist()
    doublings = sum(LEFT_AT_DOUBLING**number for number in range(1, _DOUBLINGS + 1))
    least, gain = ((1 - accuracy) * -math.expm1(s * doublings) for s in (slope + half_width, slope))
    if least <= 0 or gain < _LEAST_GAIN:
        return None
    return Outlook(seconds=2**_DOUBLINGS * seconds, gain=gain, half_width=gain - least)


def _slope(curve: Sequence[RungReport]) -> tuple[float, float] | None:
    """What a doubling of the training adds to the logarithm of the error, with the half width of the fit.

    Rungs share their validation episodes, so that their difference is surer than is assumed here.
    """
    shown = [report for report in curve if not report.cooled and report.steps][-_MOST:]
    if len({report.steps for report in shown}) < _FEWEST:
        return None
    doublings = np.log2([report.steps for report in shown])
    errors = np.array([max(1 - report.accuracy.mean, _LEAST_ERROR) for report in shown])
    noise = np.array([max(report.accuracy.half_width, 1e-4) for report in shown]) / errors
    rows = np.stack([np.ones_like(doublings), doublings], 1) / noise[:, None]
    covariance = np.linalg.inv(rows.T @ rows)
    _, slope = covariance @ rows.T @ (np.log(errors) / noise)
    return float(slope), math.sqrt(covariance[1, 1])
