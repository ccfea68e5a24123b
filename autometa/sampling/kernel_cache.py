"""Caches of what one proposal computes and the next, whose trials differ by one or two, needs again.

They do not know what the rows are, nor what is proposed.

Symbols: n rows of trials, C fixed rows, D columns of the encoding, S studies.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autometa.sampling.kernel import Kernel
from autometa.sampling.surrogates import Surrogates


class PredictionCache:
    """Encodings of trials and the surrogates' predictions, each computed once."""

    def __init__(self, surrogates: Surrogates) -> None:
        self._surrogates = surrogates
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows [n, D] of codes [n, P], and predictions [n, S]."""
        keys = [one.tobytes() for one in codes]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if len(new) == len(keys):
            rows = self._surrogates.domain.encode(codes)
            predicted = self._surrogates.predict(rows)
        else:
            found = self._surrogates.domain.encode(codes[new])
            pairs = zip(found, self._surrogates.predict(found), strict=True)
            known = self._known | dict(zip([keys[place] for place in new], pairs, strict=True))
            rows, predicted = (np.array(part) for part in zip(*(known[key] for key in keys), strict=True))
        self._known = dict(zip(keys, zip(rows, predicted, strict=True), strict=True))
        return rows, predicted


class CrossKernelCache:
    """Correlations of trials with fixed rows [C, D]; emptied when the kernel changes."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self._scaled = rows
        self._kernel: Kernel | None = None
        self._places: dict[bytes, int] = {}
        self._found = np.empty((0, len(rows)))

    def __call__(self, kernel: Kernel, trials: np.ndarray) -> np.ndarray:
        """k(trials, rows), [n, C], not to be changed."""
        if kernel is not self._kernel:
            self._kernel, self._scaled, self._places = kernel, kernel.scaled(self._rows), {}
        keys, old, there = _known(trials, self._places)
        found = np.empty((len(keys), len(self._rows)))
        found[old] = self._found[there]
        if not old.all():
            found[~old] = kernel.between(kernel.scaled(trials[~old]), self._scaled)
        self._found, self._places = found, {key: place for place, key in enumerate(keys)}
        return found


class KernelCache:
    """Correlations of trials with each other; emptied when the kernel changes."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None
        self._places: dict[bytes, int] = {}
        self._found = np.empty((0, 0))

    def __call__(self, kernel: Kernel, trials: np.ndarray) -> np.ndarray:
        """k(trials, trials), [n, n], not to be changed."""
        if kernel is not self._kernel:
            self._kernel, self._places = kernel, {}
        keys, old, there = _known(trials, self._places)
        found = np.empty((len(keys), len(keys)))
        found[np.ix_(old, old)] = self._found[np.ix_(there, there)]
        if not old.all():
            found[~old] = kernel(trials[~old], trials)
            found[:, ~old] = found[~old].T
        self._found, self._places = found, {key: place for place, key in enumerate(keys)}
        return found


def _known(trials: np.ndarray, places: Mapping[bytes, int]) -> tuple[list[bytes], np.ndarray, list[int]]:
    """A key for each trial, which have a place already, and theirs."""
    keys = [trial.tobytes() for trial in trials]
    old = np.array([key in places for key in keys], dtype=bool)
    return keys, old, [places[key] for key in keys if key in places]
