"""What was found for the last proposal and need not be found for the next, whose trials differ by one or two.

It does not know what the rows are, nor what is proposed.

Symbols: n rows of trials, C rows that stay, D columns of the encoding, S studies.
"""

from __future__ import annotations

import numpy as np

from autometa.priors.kernel import Kernel
from autometa.priors.surrogates import Surrogates


class Encoded:
    """Trials encoded and predicted by past studies, each once."""

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


class Correlations:
    """Correlations of trials with rows that stay [C, D], as long as the kernel stays the same."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows
        self._kernel: Kernel | None = None
        self._known: dict[bytes, np.ndarray] = {}

    def __call__(self, kernel: Kernel, trials: np.ndarray) -> np.ndarray:
        """k(trials, rows), [n, C]."""
        keys = [trial.tobytes() for trial in trials]
        known = self._known if kernel is self._kernel else {}
        new = {key: place for place, key in enumerate(keys) if key not in known}
        if new:
            known |= zip(new, kernel(trials[list(new.values())], self._rows), strict=True)
        self._kernel, self._known = kernel, {key: known[key] for key in keys}
        return np.array([known[key] for key in keys]).reshape(len(keys), len(self._rows))


class Gram:
    """Correlations of trials with each other, as long as the kernel stays the same."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None
        self._places: dict[bytes, int] = {}
        self._found = np.empty((0, 0))

    def __call__(self, kernel: Kernel, trials: np.ndarray) -> np.ndarray:
        """k(trials, trials), [n, n]."""
        keys = [trial.tobytes() for trial in trials]
        places = self._places if kernel is self._kernel else {}
        old = np.array([key in places for key in keys], dtype=bool)
        there = [places[key] for key in keys if key in places]
        found = np.empty((len(keys), len(keys)))
        found[np.ix_(old, old)] = self._found[np.ix_(there, there)]
        if not old.all():
            found[~old] = kernel(trials[~old], trials)
            found[:, ~old] = found[~old].T
        self._kernel, self._found = kernel, found
        self._places = {key: place for place, key in enumerate(keys)}
        return found
