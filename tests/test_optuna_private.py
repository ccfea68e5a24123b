"""Optuna's private members stand in one file, and the installed version still has them."""

from __future__ import annotations

import re
from pathlib import Path

import optuna

import autometa
from autometa.optuna_private import storage_of

PACKAGE = Path(autometa.__file__).parent
# A private module or name of Optuna, or a private attribute of a study, a trial, a storage or a distribution.
PRIVATE = re.compile(
    r"optuna(\.\w+)*\._|from optuna\S* import .*\b_\w|\._(storage|study_id|trial_id|get_trials|contains)\b"
)


def test_the_installed_optuna_has_what_is_used() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    message = f"Optuna {optuna.__version__} keeps a study's storage elsewhere: change autometa/optuna_private.py"
    assert hasattr(study, "_storage"), message
    assert storage_of(study) is storage, message


def test_no_other_file_uses_private_members_of_optuna() -> None:
    found = {
        path.name
        for path in PACKAGE.rglob("*.py")
        if PRIVATE.search(re.sub(r"self\._\w+", "", path.read_text(encoding="utf-8")))
    }
    assert found == {"optuna_private.py"}
