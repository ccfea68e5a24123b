"""Measure models at the end of a search: all on the same fresh episodes, as many as the time allows.

Nobody knows beforehand what an episode takes: a learner is fitted to each, a network sees some images for the first
time, and the machine may have other work. So workers go through the episodes in one order until their time is over,
and the first that all of them have done count.
"""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autometa.orchestrator.cluster import Share
from autometa.study import confirm
from autometa.study.plan import Plan
from autometa.trial.abilities import external_backbones
from autometa.trial.measured import Measured

# Of the time, at most for features of images that no frozen network has seen: all workers compute them together.
_PART_FOR_FEATURES = 0.7


@dataclass(frozen=True)
class Ends:
    """When the measurements of the end are over, by `time.monotonic()`; None where they have all the time."""

    confirmation: float | None = None
    test: float | None = None


WITHOUT_END = Ends()


def measure(
    plan: Plan,
    share: Share,
    models: Sequence[Path],
    split: str,
    *,
    episodes: int,
    until: float | None,
    costs: Sequence[float] | None = None,
) -> Iterator[tuple[int, Measured]]:
    """What models answer on the same fresh episodes, each with its place in `models`, in any order.

    Args:
        episodes: of each, at most.
        costs: what an episode of each takes, in any unit; alike by default.
        until: `time.monotonic()` by which it is over, with a thirtieth of the episodes at least; None for all.
    """
    # Ray Tune takes a second to import, and must not while Ray starts in its thread.
    from autometa.orchestrator import everywhere

    seed = (confirm.test_seed if split == "test" else confirm.confirm_seed)(plan.settings.seed)
    how: dict[str, Any] = {"split": split, "episodes": episodes, "seed": seed}
    how |= {"use_gpu": share.gpus > 0, "dataset": plan.ref}
    if external_backbones(plan.space):
        for index, model in enumerate(models):
            seconds = _left(until, _PART_FOR_FEATURES / (len(models) - index))
            shared = [{"folder": model, "seconds": seconds, **how}] * share.workers
            list(everywhere.run(everywhere.compute_features_in_worker, shared, share))
    how |= {"threads": share.threads if len(models) == 1 else 1}
    parts = in_parts(costs or [1.0] * len(models), share.workers)
    first = sorted(range(len(models)), key=lambda place: -parts[place])  # the longest, or it would end last
    calls = [{"folder": models[place], "seconds": _left(until, parts[place]), **how} for place in first]
    found = ((first[index], one) for index, one in everywhere.run(everywhere.measure_in_worker, calls, share))
    return found if until is None else iter(_on_common_episodes(list(found)))


def in_parts(costs: Sequence[float], workers: int) -> list[float]:
    """The part of a time that each may take on one of some workers, so that all get equally far, and 1 at most."""
    parts, workers_left, costs_left = [0.0] * len(costs), float(workers), sum(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        parts[place] = min(1.0, workers_left * costs[place] / costs_left)
        workers_left, costs_left = workers_left - parts[place], costs_left - costs[place]
    return parts


def _left(until: float | None, part: float) -> float | None:
    """Seconds, as a part of those that are left; None where there is no end."""
    return None if until is None else part * (until - time.monotonic())


def _on_common_episodes(found: Sequence[tuple[int, Measured]]) -> list[tuple[int, Measured]]:
    """The first episodes that all have answered."""
    common = slice(min((len(one.scores) for _, one in found), default=0))
    each = [(place, dataclasses.replace(one, scores=one.scores.part(common))) for place, one in found]
    return sorted(each, key=operator.itemgetter(0))
