"""The baselines of one study: which are to be measured, and where what they show is kept.

It does not measure; `orchestrator/baselines_first.py` has a worker do it.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna

from autometa.events import BaselineMeasured, OnEvent, Warned
from autometa.hpo import study_record
from autometa.orchestrator.cluster import Share
from autometa.records import Baseline
from autometa.study.plan import Plan
from autometa.trial import baselines
from autometa.trial.job import Job


class StudyBaselines:
    """What is known of a study's baselines, and the jobs of the others."""

    def __init__(self, plan: Plan, study: optuna.Study, share: Share, on_event: OnEvent) -> None:
        self._plan = plan
        self._study = study
        self._use_gpu = share.gpus > 0
        self._on_event = on_event

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Those of baselines that are not yet known, by name."""
        known = {baseline.name for baseline in study_record.read(self._study).baselines}
        return {name: self._job(name) for name in baselines.BASELINES if name not in known}

    def measured(self, baseline: Baseline) -> None:
        """Write one into the study."""
        study_record.add_baseline(self._study, baseline)
        self._on_event(BaselineMeasured(baseline))

    def failed(self, reason: str) -> None:
        """The search goes on without one that cannot be measured."""
        self._on_event(Warned(f"a baseline was not measured: {reason}"))

    def _job(self, name: str) -> Job:
        plan, values = self._plan, dict(baselines.BASELINES[name])
        folder = plan.baselines_folder / name
        job = plan.job(values, plan.settings.seed, folder, budget=baselines.BUDGET, use_gpu=self._use_gpu)
        episodes = baselines.episodes(plan.episodes, plan.dataset.image_shape, plan.validation_episodes)
        return job.model_copy(update={"validation_episodes": episodes})
