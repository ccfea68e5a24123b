"""One study as lines of text: what it is, how its trials ended, and the best of them rung by rung."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autometa.cli.words import certain, deployed_task, for_new_classes, percent, summary
from autometa.records import Scalar, StudyRecord
from autometa.trial.abilities import marks

if TYPE_CHECKING:
    from autometa.past import PastReport, PastStudy
    from autometa.study.find import FoundStudy

_MOST_PAST = 3
_MOST_RUNGS = 9  # more values than that fill more than a line


def page(found: FoundStudy, top: int) -> Iterator[str]:
    """The lines, in the order of what one asks first."""
    past, about = found.past, found.about
    yield past.name
    facts = _own_facts(about, past) if about else _foreign_facts(past)
    facts |= {"trials": states([trial.state for trial in past.trials]), "where": found.where}
    for name, text in facts.items():
        yield f"  {name:<11} {text}"
    best = past.ranked()[:top]
    if not best:
        yield "no trial has a value"
        return
    rungs = _shown(past.rungs)
    unit = "accuracy in %" if about else "value"
    yield f"best trials, {unit} at rung {', '.join(map(str, rungs))}:"
    for trial in best:
        values = " ".join(_value(trial.by_rung.get(rung), is_accuracy=about is not None) for rung in rungs)
        yield f"  trial {trial.number}, {trial.state}: {values}"
        yield f"    {summary(trial.values) if about else _parameters(trial.values)}"


def facts(found: FoundStudy, top: int) -> dict[str, Any]:
    """The same for machines: values in the study's own units, accuracies in [0, 1]."""
    past = found.past
    return {
        "name": past.name,
        "where": found.where,
        "direction": past.direction,
        "rungs": past.rungs,
        "dataset": past.dataset,
        "study": found.about,  # None for a study of another program
        "trials": Counter(trial.state for trial in past.trials),
        "best": past.ranked()[:top],
    }


def states(found: Sequence[str]) -> str:
    """`16 trials (3 complete, 13 pruned)`."""
    parts = [f"{found.count(state)} {state}" for state in ("complete", "pruned", "fail") if state in found]
    return f"{len(found):,} trial{'' if len(found) == 1 else 's'} ({', '.join(parts) or 'none'})"


def _own_facts(about: StudyRecord, past: PastStudy) -> dict[str, str]:
    from autometa.study.confirm import winner

    facts = {
        "data set": about.dataset,
        "task": _task(about),
        "space": f"{about.space}, version {about.space_version}",
        "budget": f"{about.budget} a trial, {about.budget.rungs} rungs, pruner {about.pruner}",
    }
    if about.past is not None:
        facts["learned"] = _learned(about.past)
    won = winner(about.confirmed)
    if won:
        own = next((trial.values for trial in past.trials if trial.number == won.trial), {})
        facts["winner"] = ", ".join([won.source, *marks(own)])
        facts["validation"] = certain(won.validation, "validation")
        facts |= {"meta-test": certain(won.test, "test")} if won.test else {}
    if about.deployed:
        facts["all classes"] = deployed_task(about.deployed)[0].removeprefix("your task: ")
    if about.baselines:
        best = max(about.baselines, key=lambda baseline: baseline.accuracy.mean)
        facts["baseline"] = f"{best.name} {percent(best.accuracy)}, the best of {len(about.baselines)}"
    tested = [f"{c.source} {for_new_classes(c.test)}" for c in about.confirmed if c.test]
    facts |= {"test looks": f"{', '.join(tested)}, on the same episodes"} if len(tested) > 1 else {}
    return facts | ({"date": about.date} if about.date else {})


def _task(about: StudyRecord) -> str:
    way = f"all {about.episodes.way} classes by images, " if about.all_classes else f"{about.episodes.way}-way "
    return f"{way}{about.episodes.shot}-shot, {about.episodes.query} queries a class"


def _learned(past: Mapping[str, str]) -> str:
    """`from digits-5w1s 0a1b2c3d4e5f6071, …`."""
    shown = [f"{name} {digest}" for name, digest in past.items()]
    more = f", and {len(shown) - _MOST_PAST} more" if len(shown) > _MOST_PAST else ""
    return f"from {', '.join(shown[:_MOST_PAST])}{more}" if shown else "from no past study"


def _foreign_facts(past: PastStudy) -> dict[str, str]:
    facts = {"data set": past.dataset} if past.dataset else {}
    facts |= {
        "parameters": ", ".join(past.parameters) or "none",
        "better": _BETTER[past.direction],
        "rungs": str(past.rungs),
    }
    return facts | ({"from": past.origin} if past.origin else {})


_BETTER = {"maximize": "greater", "minimize": "smaller"}


def _shown(rungs: int) -> list[int]:
    """All rungs, or nine of them, the first and the last among them."""
    if rungs <= _MOST_RUNGS:
        return list(range(1, rungs + 1))
    return [1 + round(place * (rungs - 1) / (_MOST_RUNGS - 1)) for place in range(_MOST_RUNGS)]


def _value(report: PastReport | None, *, is_accuracy: bool) -> str:
    if report is None:
        return "–"
    return f"{100 * report.value:.1f}" if is_accuracy else f"{report.value:.4g}"


def _parameters(values: Mapping[str, Scalar]) -> str:
    return " ".join(f"{name}={f'{v:.4g}' if isinstance(v, float) else v}" for name, v in values.items())
