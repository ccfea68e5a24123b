"""What the winner would show had its search more time, as far as its own learning curve tells.

A learning curve is taken for a power law (Hestness et al. 2017, Viering and Loog 2022): each doubling of the training
gains a fixed part of what the doubling before has gained. Its two other constants are fitted to the last rungs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autometa.records import RungReport, TrialRecord

# What a doubling gains, as a part of what the one before has gained; docs/log.md has what was measured.
LEFT_AT_DOUBLING = 0.75
_DOUBLINGS = 2
# The rungs that are fitted: earlier ones are of another part of the curve. Of two alone nobody knows the noise.
_MOST, _FEWEST = 4, 3
_LEAST_GAIN = 0.005


@dataclass(frozen=True)
class Outlook:
    """What a search in so many seconds would gain in validation, ± the half width of a 95 % interval of the fit."""

    seconds: float
    gain: float
    half_width: float


def outlook(winners: Sequence[TrialRecord], seconds: float) -> Outlook | None:
    """What four times these seconds would give; None where it is not clear that accuracy still rises.

    Args:
        winners: the winning trial, or the members of the ensemble that won.
        seconds: that the search had.
    """
    known = [found for trial in winners if (found := _gain(trial.curve, _DOUBLINGS))]
    if not known or len(known) < len(winners):
        return None
    gain, half_width = np.mean(known, axis=0).tolist()
    if gain < max(half_width, _LEAST_GAIN):
        return None
    return Outlook(seconds=2**_DOUBLINGS * seconds, gain=gain, half_width=half_width)


def _gain(curve: Sequence[RungReport], doublings: float) -> tuple[float, float] | None:
    """What a trial would gain by so many doublings of its training, with the half width of the fit.

    Rungs share their validation episodes, so that their difference is surer than is assumed here.
    """
    shown = [report for report in curve if not report.cooled and report.steps][-_MOST:]
    if len({report.steps for report in shown}) < _FEWEST:
        return None
    gone = np.array([math.log2(report.steps / curve[-1].steps) for report in shown])
    means = np.array([report.accuracy.mean for report in shown])
    noise = np.array([max(report.accuracy.half_width, 1e-4) for report in shown])
    rows = np.stack([np.ones_like(gone), -(LEFT_AT_DOUBLING**gone)], 1) / noise[:, None]
    covariance = np.linalg.inv(rows.T @ rows)
    _, missing = covariance @ rows.T @ (means / noise)
    part = 1 - LEFT_AT_DOUBLING**doublings
    return float(missing) * part, math.sqrt(covariance[1, 1]) * part
