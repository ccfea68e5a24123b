"""The end of a search: the best trials are measured again, the winner named and measured once on test classes.

Answers of each episode are kept in the study's folder, so that any two finalists can be compared later. `confirm.py`
says who is measured and who won; this file has it done, writes it into the study, and goes on where a dead search was.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autometa import trial_attributes as attributes
from autometa.errors import AutometaError
from autometa.events import Confirmed, Confirming, OnEvent, Retraining, Warned, ignore
from autometa.hpo import study_record
from autometa.hpo.ledger import ended, record_of
from autometa.learning import intervals, scores
from autometa.learning.checkpoint_facts import FINAL, exists
from autometa.learning.scores import Scores
from autometa.learning.symmetries import VIEWS
from autometa.orchestrator.cluster import Share
from autometa.records import ENSEMBLE, Accuracy, Confirmation, DeployedTask, Look, Retrained, StudyRecord, TrialRecord
from autometa.study import confirm
from autometa.study.export import best_recipes, recipes_of_trials
from autometa.study.measuring import WITHOUT_END, Ends, measure
from autometa.study.plan import Plan
from autometa.trial.abilities import external_backbones
from autometa.trial.measured import Measured, together
from autometa.trial.model_files import RECIPE, content_of, copy_model, ensemble_facts
from autometa.trial.recipe import write_recipes


def run(
    plan: Plan,
    study: optuna.Study,
    trials: Sequence[TrialRecord],
    share: Share,
    on_event: OnEvent,
    *,
    ends: Ends = WITHOUT_END,
    ensemble: Together | None = None,
) -> Confirmation | None:
    """Confirm the best trials and the best baseline, and return the winner.

    What is in the study or on disk already is not done again.

    Args:
        trials: of which to confirm the best.
        ends: when the measurements are over; by default each has all episodes that there may be.
        ensemble: of trials, if there is one.
    """
    most = int(plan.part_of_episodes * confirm.EPISODES)
    finals = _Finals(plan, study, share, on_event, most, ends, ensemble)
    best = [trial.number for trial in confirm.best(trials) if exists(finals.folder(trial.number))]
    finals.validate(best, [*finals.best_baseline(), *([ENSEMBLE] if ensemble else [])])
    if plan.settings.confirm_seeds:
        finals.train_again(best, plan.settings.confirm_seeds)
    won = confirm.winner(finals.confirmed_now)
    if won is None:
        on_event(Warned("no trial has a model to confirm: nothing can be named as winner"))
        return None
    won = finals.tested(won)
    on_event(Confirmed(won))
    finals.hand_over(won)
    return won


def combine(
    plan: Plan, study: optuna.Study, trials: Sequence[TrialRecord], share: Share, *, seconds: float, is_new: bool
) -> Together | None:
    """Make an ensemble of these trials' models where they are better together, or in several views, in validation.

    Args:
        seconds: that it may take, as far as it does not need a few episodes.
        is_new: whether a trial ended in this run. If none did, an ensemble that is known stays, and where a winner
            was named without one, none is made.
    """
    finals = _Finals(plan, study, share, ignore)
    numbers = [trial.number for trial in trials if exists(finals.folder(trial.number))]
    known = finals.of(ENSEMBLE)
    if known and known.ensemble and not is_new and set(known.ensemble) <= set(numbers):
        views = ensemble_facts(plan.ensemble_folder).views or ["plain"] * len(known.ensemble)
        return Together(dict(zip(known.ensemble, views, strict=True)), is_new=False)
    if not is_new and any(confirmed.test for confirmed in finals.confirmed_now):
        return None
    found = finals.fitted(numbers, seconds) if numbers else {}
    return Together(found, is_new=True) if found else None


def deployed_task(plan: Plan, study: optuna.Study, share: Share, on_event: OnEvent) -> DeployedTask | None:
    """What the model that is handed over shows on all classes of an image folder; measured once a model, and kept."""
    if not plan.measures_all_classes:
        return None
    known = study_record.read(study).deployed
    if known and known.model == content_of(plan.model_folder):
        return known
    from autometa.orchestrator import everywhere

    call = {"folder": plan.model_folder.resolve(), "dataset": plan.ref, "use_gpu": share.gpus > 0}
    try:
        if external_backbones(plan.space):
            list(everywhere.run(everywhere.compute_all_classes_in_worker, [call] * share.workers, share))
        ((_, found),) = everywhere.run(everywhere.measure_all_classes_in_worker, [call], share)
    except AutometaError as error:
        on_event(Warned(f"all classes at once were not measured: {error}"))
        return None
    assert isinstance(found, DeployedTask)
    study_record.add_deployed(study, found)
    return found


def kept_scores(plan: Plan, record: StudyRecord) -> dict[str, Scores]:
    """What each confirmed model answered on the fresh episodes, by its source, where its file is there."""
    files = {c.source: _file(plan, c.source) for c in record.confirmed}
    return {source: scores.read(file) for source, file in files.items() if file.is_file()}


@dataclass(frozen=True)
class Together:
    """An ensemble: its trials, each with the name of its views (`learning/views.py`); and whether it was just made."""

    views: Mapping[int, str]
    is_new: bool

    @property
    def passes(self) -> float:
        """How often its members see an episode, in all their views."""
        return float(sum(len(VIEWS[views]) for views in self.views.values()))


@dataclass(frozen=True)
class _Finals:
    plan: Plan
    study: optuna.Study
    share: Share
    on_event: OnEvent
    episodes: int = confirm.EPISODES
    ends: Ends = WITHOUT_END
    together: Together | None = None

    @property
    def confirmed(self) -> list[Confirmation]:
        return study_record.read(self.study).confirmed

    @property
    def confirmed_now(self) -> list[Confirmation]:
        """Without those of trials that later ones continue: their models are gone."""
        there = {trial.number for trial in ended(self.study)}
        return [c for c in self.confirmed if ({c.trial, *(c.ensemble or ())} - {None}) <= there]

    def of(self, model: int | str) -> Confirmation | None:
        """What is known of a trial, a baseline or the ensemble, as far as its models are there."""
        return next((c for c in self.confirmed_now if c.model == model), None)

    def best_baseline(self) -> list[str]:
        """Its name, if there is one with a model."""
        best = confirm.best_baseline(study_record.read(self.study).baselines)
        return [best.name] if best and exists(self.folder(best.name)) else []

    def folder(self, model: int | str) -> Path:
        """Where the checkpoint of a trial or a baseline is."""
        if isinstance(model, str):
            return self.plan.ensemble_folder if model == ENSEMBLE else self.plan.baselines_folder / model
        folder = self.plan.trials_folder / attributes.FOLDER.required_of(self._frozen(model))
        return folder / FINAL if exists(folder / FINAL) else folder

    def seed_folder(self, trial: int, seed: int) -> Path:
        """Where the checkpoint of a trial's configuration with another seed is."""
        return (self.plan.folder / "seeds" / f"trial-{trial}" / f"seed-{seed}").resolve()

    def fitted(self, trials: Sequence[int], seconds: float) -> dict[int, str]:
        """The views of the ensemble's members, written to its folder; empty where a single model is as good."""
        from autometa.orchestrator import everywhere

        folders = [self.folder(trial) for trial in trials]
        how: dict[str, Any] = {"dataset": self.plan.ref, "episodes": self.plan.validation_episodes}
        how |= {"seed": self.plan.settings.seed, "use_gpu": self.share.gpus > 0}
        how |= {"seconds": seconds / math.ceil(len(folders) / self.share.workers)}
        each = everywhere.run(everywhere.say_in_worker, [{"folder": f, **how} for f in folders], self.share)
        said = [answers for _, answers in sorted(each, key=operator.itemgetter(0))]
        call = {"folders": folders, "said": said, "to": self.plan.ensemble_folder}
        ((_, views),) = everywhere.run(everywhere.fit_ensemble_in_worker, [call], self.share)
        return {trials[index]: name for index, name in views.items()}

    def unmeasured(self, models: Sequence[int | str]) -> list[int | str]:
        """Those of which nothing is known; an ensemble that was just fitted is another one than any that is known."""
        is_new = self.together is not None and self.together.is_new
        return [model for model in models if self.of(model) is None or (model == ENSEMBLE and is_new)]

    def validate(self, best: Sequence[int], others: Sequence[str]) -> None:
        """Measure trials, baselines and an ensemble that were not yet, on fresh validation episodes."""
        models: list[int | str] = [*best, *others]
        todo = self.unmeasured(models)
        if todo:
            trials = [model for model in todo if isinstance(model, int)]
            self.on_event(
                Confirming(trials, self.episodes, next((m for m in todo if isinstance(m, str) and m != ENSEMBLE), None))
            )
        measured = measure(
            self.plan,
            self.share,
            [self.folder(model) for model in todo],
            "val",
            episodes=self.episodes,
            until=self.ends.confirmation,
            costs=[self.together.passes if model == ENSEMBLE and self.together else 1.0 for model in todo],
        )
        for index, found in measured:
            model = todo[index]
            whose: dict[str, Any] = {"trial": model} if isinstance(model, int) else {"baseline": model}
            whose = {"ensemble": list(self.together.views)} if model == ENSEMBLE and self.together else whose
            selection, validation = _both_halves([found])
            result = Confirmation(**whose, selection=selection, validation=validation)
            scores.write(_file(self.plan, result.source), found.scores)
            study_record.add_confirmation(self.study, result)
            self.on_event(Confirmed(result))

    def train_again(self, best: Sequence[int], count: int) -> None:
        """Train the configurations of trials with `count` other seeds each, and measure these models."""
        wanted = {t: confirm.other_seeds(attributes.SEED.required_of(self._frozen(t)), count) for t in best}
        todo = {t: seeds for t, seeds in wanted.items() if not self._has_seeds(t, seeds)}
        if not todo:
            return
        self.on_event(Retraining(todo))
        self._train([(trial, seed) for trial, seeds in todo.items() for seed in seeds])
        for trial, seeds in todo.items():
            trained = [seed for seed in seeds if exists(self.seed_folder(trial, seed))]
            if len(trained) < 2:
                self.on_event(Warned(f"trial {trial}: fewer than two of its other seeds could be trained"))
                continue
            before = self.of(trial)
            assert before is not None
            folders, count = [self.seed_folder(trial, seed) for seed in trained], _episodes_of(before)
            measured = dict(measure(self.plan, self.share, folders, "val", episodes=count, until=None))
            for index, seed in enumerate(trained):
                scores.write(_file(self.plan, f"trial-{trial}-seed-{seed}"), measured[index].scores)
            selection, validation = _both_halves([measured[index] for index in range(len(trained))])
            again = Retrained(seeds=trained, selection=selection, validation=validation)
            result = before.model_copy(update={"retrained": again})
            study_record.add_confirmation(self.study, result)
            self.on_event(Confirmed(result))

    def tested(self, won: Confirmation) -> Confirmation:
        """The winner with its accuracy on test classes, and that of its other seeds; each model is a look."""
        if won.test is None:
            # Other seeds took longer to train than anybody planned: it has as many episodes as confirmation then.
            count, until = (_episodes_of(won), None) if won.retrained else (self.episodes, self.ends.test)
            test, looks = self._test(won.source, [self.folder(won.model)], count, until)
            won = won.model_copy(update={"test": test})
            study_record.add_confirmation(self.study, won, looks)
        again = won.retrained
        if again and again.test is None:
            assert won.trial is not None
            assert won.test is not None
            folders = [self.seed_folder(won.trial, seed) for seed in again.seeds]
            test, looks = self._test(won.source, folders, won.test.episodes)
            won = won.model_copy(update={"retrained": again.model_copy(update={"test": test})})
            study_record.add_confirmation(self.study, won, looks)
        return won

    def hand_over(self, won: Confirmation) -> None:
        """Put the winner's model, and the recipe to train it again, or those of its members, in the study's folder."""
        copy_model(self.folder(won.model), self.plan.model_folder)
        recipes = recipes_of_trials(self.study, won.ensemble) if won.ensemble else best_recipes(self.study, 1)
        write_recipes(self.plan.model_folder / RECIPE, recipes, "toml")

    def _has_seeds(self, trial: int, seeds: Sequence[int]) -> bool:
        known = self.of(trial)
        return bool(known and known.retrained and len(known.retrained.seeds) >= len(seeds))

    def _train(self, models: Sequence[tuple[int, int]]) -> None:
        from autometa.orchestrator import everywhere

        budget, gpus = study_record.read(self.study).budget, self.share.gpus
        values = {t.number: record_of(t).config.values for t in ended(self.study)}
        calls = []
        for trial, seed in models:
            folder = self.seed_folder(trial, seed)
            job = self.plan.job(values[trial], seed, folder, budget=budget, use_gpu=gpus > 0)
            calls.append({"job": job.model_dump_json(), "gpus": gpus})
        for index, record in everywhere.run(everywhere.train_in_worker, calls, self.share):
            if record.state == "fail":
                trial, seed = models[index]
                self.on_event(Warned(f"trial {trial} trained again with seed {seed} failed: {record.reason}"))

    def _test(
        self, source: str, models: list[Path], episodes: int, until: float | None = None
    ) -> tuple[Accuracy, list[Look]]:
        measured = dict(measure(self.plan, self.share, models, "test", episodes=episodes, until=until))
        what = f"search {self.plan.name}, {source}"
        warn = functools.cache(lambda message: self.on_event(Warned(message)))
        noted = [measured[index].noted(what, warn=warn) for index in range(len(models))]
        return together(noted), [found.look for found in noted if found.look]

    def _frozen(self, trial: int) -> FrozenTrial:
        return next(t for t in ended(self.study) if t.number == trial)


def _both_halves(models: Sequence[Measured]) -> tuple[Accuracy, Accuracy]:
    halves = zip(*(confirm.halves(model.scores) for model in models), strict=True)
    first, second = (intervals.accuracy_of_seeds(half, models[0].seed) for half in halves)
    return first, second


def _episodes_of(confirmed: Confirmation) -> int:
    """How many validation episodes a model was measured on."""
    return confirmed.validation.episodes + (confirmed.selection.episodes if confirmed.selection else 0)


def _file(plan: Plan, name: str) -> Path:
    return plan.folder / "answers" / f"{name.replace(' ', '-')}.safetensors"
