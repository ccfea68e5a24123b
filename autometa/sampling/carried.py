"""The fit of past studies over one domain, taken over to another that differs in ranges alone.

The first trial of a study is proposed before anybody knows its ranges: past studies are fitted to those that they had.
Once the target has named its own, most often the same parameters are there and only the ends of their ranges are
others. Codes of a number are then shifted and stretched, and a kernel with stretched lengths is the very same function.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from autometa.sampling.encoding import Domain
from autometa.sampling.kernel import Nystroem
from autometa.sampling.surrogates import Surrogates


def carrier(old: Domain, domain: Domain) -> Callable[[Surrogates], Surrogates] | None:
    """What makes of surrogates over a domain the same functions over another; None where more than ranges differ.

    A parameter that is not always there must have the same range: where it is absent it counts as in its middle. So
    must one on whose numbers others depend.
    """
    if set(old.names) != set(domain.names) or dict(old.conditions) != dict(domain.conditions):
        return None
    scale, shift = np.ones(len(old.names)), np.zeros(len(old.names))
    for place, name in enumerate(old.names):
        before, now = old.distributions[name], domain.distributions[name]
        if before == now:
            continue
        change = None if old.conditions.get(name) else _change(before, now)
        if change is None or any(c.parent == name for cs in old.conditions.values() for c in cs):
            return None
        scale[place], shift[place] = change
    order = Domain({name: domain.distributions[name] for name in old.names}, old.conditions, old.defaults)
    return functools.partial(_carried, domain=order, scale=scale, shift=shift)


def _carried(fit: Surrogates, domain: Domain, scale: np.ndarray, shift: np.ndarray) -> Surrogates:
    columns, numbers = domain.number_columns, ~domain.is_category
    lengths, inducing = fit.kernel.lengths.copy(), fit.features.inducing.copy()
    lengths[columns] *= scale[numbers]
    inducing[:, columns] = inducing[:, columns] * scale[numbers] + shift[numbers]
    return Surrogates(
        domain=domain,
        features=Nystroem(replace(fit.kernel, lengths=lengths), inducing, fit.features.root),
        studies=tuple(replace(study, codes=study.codes * scale + shift) for study in fit.studies),
        weights=fit.weights,
        cost=fit.cost,
    )


def _change(before: Any, now: Any) -> tuple[float, float] | None:
    """What makes of a number's code in one range that in another: a factor and a sum; None where there is none."""
    if hasattr(before, "choices") or hasattr(now, "choices") or before.log != now.log:
        return None
    (low, high), (new_low, new_high) = (_ends(distribution) for distribution in (before, now))
    if high <= low or new_high <= new_low:
        return None
    return (high - low) / (new_high - new_low), (low - new_low) / (new_high - new_low)


def _ends(distribution: Any) -> tuple[float, float]:
    at = math.log if distribution.log else float
    return at(distribution.low), at(distribution.high)
