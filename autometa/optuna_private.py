"""The only private member of Optuna in use, with its reason. `tests/test_optuna_private.py` tells when it is gone."""

from __future__ import annotations

from optuna.storages import BaseStorage
from optuna.study import Study


def storage_of(study: Study) -> BaseStorage:
    """Where a study is kept.

    A sampler is handed a study and a frozen trial, and Optuna gives it no public way to note something on that trial.
    Optuna's own samplers write to this storage.
    """
    return study._storage
