"""From runs to the committed facts: regret, trials to reach what cold search reached, seconds, with intervals.

Intervals are 95 % bootstrap intervals over tasks, of means over seeds.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from end_to_end import machine
from transfer_tasks import Array, Suite

Facts = dict[str, Any]
ByTask = Mapping[str, Array]  # the incumbent's regret after each trial, mean over seeds
COLD = ("tpe", "prior-cold")  # what misleading sources must not be worse than
TOLERANCE = 0.05
EARLY = 10
RESAMPLES = 10_000
VERSIONS = ("optuna", "syne-tune", "cmaes", "scikit-learn", "xgboost", "onnxruntime", "numpy", "torch")


class Run(Protocol):
    """One search, as `transfer.Run`."""

    method: str
    task: str
    seed: int
    values: list[float]
    seconds: list[float]


def keep(folder: Path, name: str, found: Facts, text: str) -> str:
    """Write the facts and their text beside each other; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    return text


def environment() -> Facts:
    """Where this was measured: the machine, the date and the versions."""
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    return {**machine(), "versions": {name: installed[name] for name in VERSIONS if name in installed}}


def facts(suite: Suite, runs: Sequence[Run], trials: int) -> Facts:
    """All that is said of the runs, per method."""
    curves = mean_regrets(suite, runs, trials)
    rivals = [curves[name] for name in suite.rivals if name in curves]
    target = to_reach(rivals) if len(rivals) == len(suite.rivals) else {}
    cold = {name: curves[name] for name in COLD if name in curves}
    rows = {
        name: regrets(by_task) | speed(by_task, target) | harm(by_task, cold) | delays(name, runs)
        for name, by_task in curves.items()
    }
    return {
        **environment(),
        "trials": trials,
        "tasks": len({run.task for run in runs}),
        "seeds": min(Counter((run.method, run.task) for run in runs).values()),
        "rivals": suite.rivals,
        "methods": rows,
    }


def mean_regrets(suite: Suite, runs: Sequence[Run], trials: int) -> dict[str, dict[str, Array]]:
    """By method and task, the incumbent's regret after each trial, mean over seeds."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run.method][run.task].append(suite.scale(run.task).incumbents(run.values[:trials]))
    return {
        method: {task: np.mean(curves, axis=0) for task, curves in sorted(by_task.items())}
        for method, by_task in found.items()
    }


def to_reach(rivals: Sequence[ByTask]) -> dict[str, float]:
    """Per task, the regret at which the better of the rivals ends."""
    return {task: min(float(rival[task][-1]) for rival in rivals if task in rival) for task in rivals[0]}


def regrets(by_task: ByTask) -> Facts:
    curves = np.stack(list(by_task.values()))
    counts = [count for count in (EARLY, curves.shape[1]) if count <= curves.shape[1]]
    return {
        **{f"regret@{count}": interval(curves[:, count - 1], np.mean) for count in counts},
        "regret_by_task": {task: [short(curve[count - 1]) for count in counts] for task, curve in by_task.items()},
    }


def speed(by_task: ByTask, target: Mapping[str, float]) -> Facts:
    """How many times fewer trials than the rival's reach its last regret; 0 where it is not reached."""
    if not target:
        return {}
    needed = {task: first(curve <= target[task]) for task, curve in by_task.items()}
    trials = len(next(iter(by_task.values())))
    gains = np.array([trials / count if count else 0.0 for count in needed.values()])
    return {
        "speedup_median": interval(gains, np.median),
        "reached": sum(count is not None for count in needed.values()),
        "trials_by_task": needed,
    }


def harm(by_task: ByTask, cold: Mapping[str, ByTask]) -> Facts:
    """The share of tasks whose last regret is within 5 % of the cold method's, and within 0.05 of it."""
    shares = {}
    for name, other in cold.items():
        pairs = np.array([(curve[-1], other[task][-1]) for task, curve in by_task.items() if task in other])
        shares[name] = {
            "within_5_percent": short(np.mean(pairs[:, 0] <= (1 + TOLERANCE) * pairs[:, 1])),
            "within_0.05": short(np.mean(pairs[:, 0] <= pairs[:, 1] + TOLERANCE)),
        }
    return {"no_worse_than": shares}


def delays(method: str, runs: Sequence[Run]) -> Facts:
    """Seconds per suggestion; a search's first includes all its preparation."""
    seconds = [run.seconds for run in runs if run.method == method]
    later = [s for run in seconds for s in run[1:]]
    return {
        "suggestion_seconds": {
            "first": short(np.median([run[0] for run in seconds])),
            "median": short(np.median(later)),
            "max": short(max(later)),
        }
    }


def interval(values: Array, statistic: Callable[..., Any]) -> list[float]:
    """The statistic over tasks with its 95 % bootstrap interval: [it, low, high]."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(statistic(np.asarray(values)[drawn], axis=1), [0.025, 0.975])
    return [short(statistic(values)), short(low), short(high)]


def first(reached: Array) -> int | None:
    """The number of the first trial that did, counted from 1."""
    return int(reached.argmax()) + 1 if reached.any() else None


def short(number: Any) -> float:
    return float(f"{float(number):.4g}")


def table(found: Facts, label: str) -> str:
    """The facts for a reader."""
    end = found["trials"]
    rivals = " and ".join(found["rivals"])
    rival = f"{rivals}@{end}" if len(found["rivals"]) == 1 else f"the better of {rivals}@{end}"
    heads = ["method", f"regret@{EARLY}", f"regret@{end}", f"× fewer trials to {rival}", "reached"]
    heads += ["within 5 % of cold (tpe / prior)", "s per suggestion: first", "median", "max"]
    rows = [_row(name, row, end, found["tasks"]) for name, row in found["methods"].items()]
    lines = [
        f"# Transfer, {label}: {found['tasks']} tasks, {found['seeds']} seeds, {end} trials",
        "",
        "Regret: 1 = a median random configuration, 0 = best. [95 % bootstrap intervals over tasks]. Fewer trials:",
        "median over tasks, by the mean regret over seeds. A search's first suggestion includes its preparation.",
        f"Details in the `.json` beside this file. {found['processor']}, {found['date']}.",
        "",
        *markdown(heads, rows),
    ]
    return "\n".join(lines) + "\n"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows]]


def with_interval(found: Sequence[float] | None, digits: int = 3) -> str:
    if not found:
        return ""
    middle, low, high = (f"{number:.{digits}f}" for number in found)
    return f"{middle} [{low}, {high}]"


def _row(name: str, row: Facts, trials: int, tasks: int) -> list[str]:
    harm = row["no_worse_than"]
    delay = row["suggestion_seconds"]
    return [
        name,
        with_interval(row.get(f"regret@{EARLY}")),
        with_interval(row[f"regret@{trials}"]),
        with_interval(row.get("speedup_median"), 1),
        f"{row['reached']} / {tasks}" if "reached" in row else "",
        " / ".join(f"{100 * harm[cold]['within_5_percent']:.0f} %" if cold in harm else "–" for cold in COLD),
        *(f"{delay[part]:.3f}" for part in ("first", "median", "max")),
    ]
