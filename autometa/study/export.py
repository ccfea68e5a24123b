"""Turn the best trials of a study into recipes that carry where they come from.

It reads the study; it does not train.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna

from autometa import trial_attributes as attributes
from autometa.errors import StudyError
from autometa.hpo import study_record
from autometa.hpo.ledger import ended, record_of
from autometa.learning.open_ended import with_known_end
from autometa.records import Accuracy, Baseline, Budget, Confirmation, Scalar, StudyRecord, TrialRecord
from autometa.study import confirm
from autometa.trial.abilities import marks
from autometa.trial.baselines import BUDGET
from autometa.trial.recipe import Recipe


def best_recipes(study: optuna.Study, top: int) -> list[Recipe]:
    """The `top` best trials as recipes: confirmed ones by their fresh accuracy first, then the others.

    Where a baseline has won the study, it comes before them, with no step of training.

    A recipe trains for the steps its trial really took, so a budget in seconds does not make the result
    depend on the machine that trains it again.

    Raises:
        StudyError: no trial has an accuracy yet.
    """
    about = study_record.read(study)
    frozen = {t.number: t for t in ended(study)}
    ranked = _ranked([record_of(t) for t in frozen.values()], about)
    baseline = _winning_baseline(about)
    if not ranked and not baseline:
        raise StudyError(f"study {about.name!r} has no trial with an accuracy yet")
    first = [_of_baseline(about, baseline)] if baseline else []
    others = (_recipe(about, trial, attributes.SEED.required_of(frozen[trial.number])) for trial in ranked)
    return [*first, *others][:top]


def recipes_of_trials(study: optuna.Study, numbers: Sequence[int]) -> list[Recipe]:
    """The recipes of these trials, in this order."""
    about, frozen = study_record.read(study), {t.number: t for t in ended(study)}
    seeds = (attributes.SEED.required_of(frozen[number]) for number in numbers)
    return [_recipe(about, record_of(frozen[number]), seed) for number, seed in zip(numbers, seeds, strict=True)]


def _ranked(trials: list[TrialRecord], about: StudyRecord) -> list[TrialRecord]:
    fresh = {c.trial: confirm.rank(c) for c in about.confirmed if c.trial is not None}
    ordered = confirm.best(trials, len(trials))
    return sorted(ordered, key=lambda t: (t.number in fresh, fresh.get(t.number, (False, 0.0))), reverse=True)


def _winning_baseline(about: StudyRecord) -> Baseline | None:
    won = confirm.winner(about.confirmed)
    return next((known for known in about.baselines if won and known.name == won.baseline), None)


def _of_baseline(about: StudyRecord, baseline: Baseline) -> Recipe:
    recipe = _of_study(about, BUDGET, about.seed, baseline.config.values)
    return recipe.model_copy(update={"provenance": _of_source(about, baseline.name, baseline.accuracy)})


def _recipe(about: StudyRecord, trial: TrialRecord, seed: int) -> Recipe:
    assert trial.last is not None
    budget = Budget(steps=max(1, trial.last.steps), rungs=about.budget.rungs)
    config = with_known_end(trial.config.values) if about.budget.open else trial.config.values
    facts = {"state": trial.state, **dict.fromkeys(marks(trial.config.values, trial.facts), True)}
    provenance = _of_source(about, trial.number, trial.last.accuracy) | facts
    return _of_study(about, budget, seed, config).model_copy(update={"provenance": provenance})


def _of_study(about: StudyRecord, budget: Budget, seed: int, config: dict[str, Scalar]) -> Recipe:
    return Recipe(
        dataset=about.dataset,
        dataset_identity=about.dataset_identity,
        pretrain_dataset=about.pretrain_dataset,
        pretrain_identity=about.pretrain_identity,
        skip_unreadable=bool({"unreadable", "pretrain_unreadable"} & about.dataset_facts.keys()),
        all_classes=about.all_classes,
        episodes=about.episodes,
        image_size=int(about.dataset_facts["image_size"]) if "image_size" in about.dataset_facts else None,
        budget=budget,
        seed=seed,
        validation_seed=about.seed,
        config=config,
    )


def _of_source(about: StudyRecord, model: int | str, accuracy: Accuracy) -> dict[str, Any]:
    """Where a recipe comes from: a trial by its number, or a baseline by its name."""
    confirmed = next((c for c in about.confirmed if c.model == model), None)
    facts: dict[str, Any] = {
        "study": about.name,
        "trial" if isinstance(model, int) else "baseline": model,
        "space": f"{about.space} {about.space_version}",
        "search_budget": str(about.budget),
        "search_seed": about.seed,
        "dataset_fingerprint": about.dataset_fingerprint,
        "validation": accuracy.model_dump(exclude_none=True),
        "versions": about.versions,
    }
    facts |= {"past": about.past} if about.past else {}
    return facts | _confirmed_facts(confirmed) | ({"date": about.date} if about.date else {})


def _confirmed_facts(confirmed: Confirmation | None) -> dict[str, Any]:
    if confirmed is None:
        return {}
    facts = {"confirmed_validation": confirmed.validation.model_dump(exclude_none=True)}
    return facts | ({"meta_test": confirmed.test.model_dump(exclude_none=True)} if confirmed.test else {})
