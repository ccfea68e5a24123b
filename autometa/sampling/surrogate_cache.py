"""Fitted surrogates on disk, by a digest of what they were fitted to, so that the next search does not fit again.

Arrays and text only, never a pickle. A file that cannot be read counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autometa.data import cache
from autometa.past import PastStudy
from autometa.sampling.encoding import Domain
from autometa.sampling.kernel import Kernel, Nystroem
from autometa.sampling.surrogates import Surrogates, TrainingSet, fit_surrogates
from autometa.sampling.threads import one_thread

_VERSION = 4  # of the fit: to be raised when the same studies would give other functions
_MOST_FILES = 20
_log = logging.getLogger(__name__)

Fit = tuple[Surrogates | None, dict[str, str]]


def fit_or_load(domain: Domain, past: Sequence[PastStudy], seed: int = 0) -> Fit:
    """`surrogates.fit_surrogates`, kept in the cache folder. A full disk costs the cache, not the answer."""
    file = cache.root() / "priors" / f"{_content(domain, past, seed)}.npz"
    kept = _read(file, domain)
    if kept is not None:
        return kept
    _log.info("fitting %d past studies of %d trials", len(past), sum(len(study.trials) for study in past))
    with one_thread():
        fit = fit_surrogates(domain, past, seed)
    _write(file, fit)
    return fit


def _content(domain: Domain, past: Sequence[PastStudy], seed: int) -> str:
    digest = hashlib.sha256(f"{_VERSION} {seed} {domain!r}".encode())
    for study in past:
        digest.update(f"{study.name!r} {study.digest}".encode())
    return digest.hexdigest()[:32]


def _write(file: Path, fit: Fit) -> None:
    surrogates, dropped = fit
    arrays = {"dropped": np.array(json.dumps(dropped))}
    if surrogates is not None:
        arrays |= _arrays(surrogates)
    draft = file.with_name(f".{file.stem}.{os.getpid()}.npz")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(draft, **arrays)  # type: ignore[arg-type]
        os.replace(draft, file)
        for old in sorted(file.parent.glob("*.npz"), key=lambda f: f.stat().st_mtime)[:-_MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError:
        draft.unlink(missing_ok=True)


def _read(file: Path, domain: Domain) -> Fit | None:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            dropped = json.loads(str(arrays["dropped"]))
            return (_surrogates(dict(arrays), domain) if "weights" in arrays else None), dropped
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _arrays(fit: Surrogates) -> dict[str, np.ndarray]:
    columns = ("codes", "scores", "noise", "log_seconds")
    trials = {name: np.concatenate([getattr(study, name) for study in fit.studies]) for name in columns}
    return {
        **trials,
        "names": np.array(json.dumps(fit.names)),
        "sizes": np.array([len(study.scores) for study in fit.studies]),
        "lengths": fit.kernel.lengths,
        "variances": np.array([fit.kernel.amplitude, fit.kernel.noise]),
        "inducing": fit.features.inducing,
        "root": fit.features.root,
        "weights": fit.weights,
        "cost": fit.cost if fit.cost is not None else np.zeros(0),
    }


def _surrogates(arrays: dict[str, np.ndarray], domain: Domain) -> Surrogates:
    amplitude, noise = map(float, arrays["variances"])
    features = Nystroem(Kernel(arrays["lengths"], amplitude, noise), arrays["inducing"], arrays["root"])
    ends = np.cumsum(arrays["sizes"])[:-1]
    parts = [np.split(arrays[name], ends) for name in ("codes", "scores", "noise", "log_seconds")]
    names = json.loads(str(arrays["names"]))
    studies = tuple(TrainingSet(*row) for row in zip(names, *parts, strict=True))
    return Surrogates(domain, features, studies, arrays["weights"], arrays["cost"] if arrays["cost"].size else None)
