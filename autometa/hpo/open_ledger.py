"""The books of a search in a given time: candidates that wait, go on, and end when the time does.

A candidate is one Optuna trial from its start to the end of the search. It is RUNNING until then, and marked where no
worker has it. At the end those that were trained to the end are COMPLETE, and the others PRUNED. A later search with
more time takes any of them on, as a new trial that names the one it continues.
"""

from __future__ import annotations

import shutil

from optuna.trial import FrozenTrial, Trial, TrialState

from autometa import trial_attributes as attributes
from autometa.events import RungReached, TrialPaused, TrialStarted
from autometa.hpo.ledger import MAX_ATTEMPTS, Asked, Ledger, Live, folder_of, record_of, trials_of
from autometa.hpo.promotion import Standing
from autometa.learning.checkpoint_facts import FINAL, exists, read_facts
from autometa.records import FIRST_SECONDS, RungReport, Scalar, TrialRecord


class OpenLedger(Ledger):
    """Asks and tells one Optuna study whose trials have no end of their own."""

    def adopt(self) -> None:
        """Take over the candidates that an earlier search left RUNNING, with what their checkpoints know.

        One that was on a worker in several searches that died is given up: it is more likely the cause.
        """
        for old in trials_of(self.study, TrialState.RUNNING):
            if not old.params:  # proposed in part when the search died
                self._close_interrupted(old)
                continue
            live = Live(Trial(self.study, old.number), self._again(old))
            self._live[old.number] = live
            for report in [*self._saved_curve(folder_of(old)), *self._cooled(folder_of(old))]:
                self.write(live, report, is_told=report.rung in old.intermediate_values)
            if attributes.IS_WAITING.of(old):
                self._waiting.add(old.number)
                continue
            attempts = attributes.ATTEMPTS.of(old, 0) + 1
            attributes.ATTEMPTS.write(live.trial, attempts)
            if attempts >= MAX_ATTEMPTS:
                self._tell(live, TrialState.FAIL, reason=f"interrupted {MAX_ATTEMPTS} times")
            else:
                self.pause(old.number)

    def try_again(self, number: int) -> Asked:
        """A new candidate with the configuration of another one, and a seed of its own."""
        other = self._frozen(number)
        origin = attributes.ORIGIN.entry(f"trial {number} with another seed")
        return self._added(params=other.params, distributions=other.distributions, user_attrs=origin)

    def go_on(self, number: int) -> Asked:
        """Hand a candidate that waits, or that an earlier search ended, to a worker."""
        if number not in self._live:
            return self._reopened(number)
        live = self._live[number]
        self._waiting.discard(number)
        attributes.IS_WAITING.write(live.trial, False)
        live.asked.rung = max(live.curve, default=0)
        self._emit(TrialStarted(number, live.asked.values, attributes.CONTINUES.of(live.trial), live.asked.rung))
        return live.asked

    def pause(self, number: int) -> None:
        """Note that no worker has a candidate any more."""
        live = self._live.get(number)
        if live and number not in self._waiting:
            self._waiting.add(number)
            self._emit(TrialPaused(number))
            attributes.IS_WAITING.write(live.trial, True)

    def pause_all(self) -> None:
        """Note that there are no workers any more."""
        for number in self.running:
            self.pause(number)

    def report(self, number: int, report: RungReport) -> bool:
        """Write a rung's accuracy; nobody is stopped by it."""
        live = self._live[number]
        if report.rung not in live.curve:
            self.write(live, report)
            self._emit(RungReached(number, None, report))
        return False

    def describe(self, number: int, facts: dict[str, Scalar]) -> None:
        """Note what a worker knows of a candidate."""
        if live := self._live.get(number):
            attributes.FACTS.write(live.trial, facts)

    def finish(self, number: int, record: TrialRecord) -> None:
        """Note that a candidate was trained to the end, or failed."""
        live = self._live.get(number)
        if live is None:
            return
        # What was measured first stays: a last training has more threads, and in these an image takes another time.
        attributes.FACTS.write(live.trial, dict(record.facts) | attributes.FACTS.of(self._frozen(number), {}))
        if record.reason:
            self.end(number, record=record)
        else:
            self.pause(number)

    def close(self) -> None:
        """End all candidates: those with a cooled model are COMPLETE, the others PRUNED."""
        for number in sorted(self._live):
            live = self._live[number]
            last = live.curve[max(live.curve)] if live.curve else None
            if last is None:
                old = self._frozen(number)
                needed = float(attributes.FACTS.of(old, {}).get(FIRST_SECONDS, 0.0))
                dear = f"features and a first step would have taken {needed:.0f} s" if needed else ""
                self._close_interrupted(old, why=dear or "the time was over before its first measurement")
                del self._live[number]
                continue
            self._tell(live, TrialState.COMPLETE if last.cooled else TrialState.PRUNED)
        self._waiting.clear()

    def standings(self) -> list[Standing]:
        """What every candidate has shown: those that are open, and those that an earlier search ended."""
        superseded = {attributes.CONTINUES.of(trial) for trial in trials_of(self.study)}
        found = []
        for trial in trials_of(self.study):
            if trial.number in superseded or trial.state == TrialState.FAIL:
                continue
            if live := self._live.get(trial.number):
                curve = [live.curve[rung] for rung in sorted(live.curve)]
                is_busy = trial.number not in self._waiting or (bool(curve) and curve[-1].cooled)
            elif trial.state.is_finished() and exists(self._folder / folder_of(trial)):
                curve, is_busy = [r for r in record_of(trial).curve if not r.cooled], False
            else:
                continue
            facts = attributes.FACTS.of(trial, {})
            network, seconds = str(facts.get("features", "")), float(facts.get("image_seconds", 0.0))
            found.append(
                Standing(trial.number, curve, is_busy, network, seconds, family=str(trial.params.get("learner", "")))
            )
        return found

    def _frozen(self, number: int) -> FrozenTrial:
        return trials_of(self.study)[number]

    def _reopened(self, number: int) -> Asked:
        """A new trial that continues one which an earlier search ended."""
        old = self._frozen(number)
        shutil.rmtree(self._folder / folder_of(old) / FINAL, ignore_errors=True)
        return self._added(params=old.params, distributions=old.distributions, user_attrs=self._continuing(old))

    def _again(self, trial: FrozenTrial) -> Asked:
        return Asked(trial.number, dict(trial.params), self._seed_of(trial), folder_of(trial))

    def _cooled(self, folder: str) -> list[RungReport]:
        """The last report of a candidate that was trained to the end."""
        path = self._folder / folder / FINAL
        return [RungReport.model_validate(read_facts(path)["curve"][-1])] if exists(path) else []
