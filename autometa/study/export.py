"""Turn the best trials of a study into recipes that carry where they come from.

It reads the study; it does not train.
"""

from __future__ import annotations

from typing import Any

import optuna

from autometa import trial_attributes as attributes
from autometa.errors import StudyError
from autometa.hpo import study_record
from autometa.hpo.ledger import ended, record_of
from autometa.learning.open_ended import with_known_end
from autometa.records import Budget, Confirmation, StudyRecord, TrialRecord
from autometa.study import confirm
from autometa.trial.abilities import marks
from autometa.trial.recipe import Recipe


def best_recipes(study: optuna.Study, top: int) -> list[Recipe]:
    """The `top` best trials as recipes: confirmed ones by their fresh accuracy first, then the others.

    A recipe trains for the steps its trial really took, so a budget in seconds does not make the result
    depend on the machine that trains it again.

    Raises:
        StudyError: no trial has an accuracy yet.
    """
    about = study_record.read(study)
    frozen = {t.number: t for t in ended(study)}
    ranked = _ranked([record_of(t) for t in frozen.values()], about)
    if not ranked:
        raise StudyError(f"study {about.name!r} has no trial with an accuracy yet")
    return [_recipe(about, trial, attributes.SEED.required_of(frozen[trial.number])) for trial in ranked[:top]]


def _ranked(trials: list[TrialRecord], about: StudyRecord) -> list[TrialRecord]:
    fresh = {c.trial: confirm.rank(c) for c in about.confirmed}
    ordered = confirm.best(trials, len(trials))
    return sorted(ordered, key=lambda t: (t.number in fresh, fresh.get(t.number, (False, 0.0))), reverse=True)


def _recipe(about: StudyRecord, trial: TrialRecord, seed: int) -> Recipe:
    assert trial.last is not None
    return Recipe(
        dataset=about.dataset,
        dataset_identity=about.dataset_identity,
        pretrain_dataset=about.pretrain_dataset,
        pretrain_identity=about.pretrain_identity,
        skip_unreadable=bool({"unreadable", "pretrain_unreadable"} & about.dataset_facts.keys()),
        episodes=about.episodes,
        image_size=int(about.dataset_facts["image_size"]) if "image_size" in about.dataset_facts else None,
        budget=Budget(steps=max(1, trial.last.steps), rungs=about.budget.rungs),
        seed=seed,
        validation_seed=about.seed,
        config=with_known_end(trial.config.values) if about.budget.open else trial.config.values,
        provenance=_provenance(about, trial),
    )


def _provenance(about: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    assert trial.last is not None
    confirmed = next((c for c in about.confirmed if c.trial == trial.number), None)
    facts: dict[str, Any] = {
        "study": about.name,
        "trial": trial.number,
        "state": trial.state,
        "space": f"{about.space} {about.space_version}",
        "search_budget": str(about.budget),
        "search_seed": about.seed,
        "dataset_fingerprint": about.dataset_fingerprint,
        "validation": trial.last.accuracy.model_dump(exclude_none=True),
        **dict.fromkeys(marks(trial.config.values, trial.facts), True),
        "versions": about.versions,
    }
    facts |= {"past": about.past} if about.past else {}
    return facts | _confirmed_facts(confirmed) | ({"date": about.date} if about.date else {})


def _confirmed_facts(confirmed: Confirmation | None) -> dict[str, Any]:
    if confirmed is None:
        return {}
    facts = {"confirmed_validation": confirmed.validation.model_dump(exclude_none=True)}
    return facts | ({"meta_test": confirmed.test.model_dump(exclude_none=True)} if confirmed.test else {})
