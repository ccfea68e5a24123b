"""Searches replayed over recorded curves: what fewer validation episodes and paired tests cost and save.

    python benchmarks/pruning_on_curves.py digits omniglot

Reads what `rung_curves.py` recorded. Each replay draws twelve candidates in an order of its own and gives them to two
workers that take as long as the recorded trial did; a pruner sees only what was reported by then. Rules:

- `halving`: Optuna's, at rungs 2, 4 and 8, on means;
- `keep`: halving, unless a Wilcoxon signed-rank test on common episodes cannot tell the trial from the one at
  halving's threshold;
- `early`: halving, and at every other rung whoever such a test finds worse than the trial at the threshold;
- `common`: halving, on the means of those episodes that both the trial and its rival have seen.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from end_to_end import RESULTS, machine
from scipy.stats import wilcoxon

REPLAYS, TRIALS = 300, 12
WORKERS = 2
RUNGS, EPISODES = 9, 100
HALVING_RUNGS = (2, 4, 8)
FEWEST_RIVALS = 4

Counts = Callable[["Candidate", int], int]  # episodes a candidate is validated on at a rung, 1 … RUNGS


@dataclass(frozen=True, eq=False)
class Candidate:
    """Right answers [rung, episode] as shares, seconds at the end of each rung, seconds of one validation episode."""

    scores: np.ndarray
    seconds: np.ndarray
    episode_seconds: float

    @functools.cached_property
    def sums(self) -> list[list[float]]:
        """Of the first episodes [rung, episodes], starting with none."""
        return np.pad(self.scores.cumsum(1), ((0, 0), (1, 0))).tolist()

    def mean(self, rung: int, count: int) -> float:
        return self.sums[rung - 1][count] / count


@dataclass(frozen=True)
class Outcome:
    """Of one replayed search: accuracy lost against the best candidate, and what was spent."""

    regret: float
    training: float
    validation: float


class Search:
    """What a pruner may look at: who reported at each rung, and the episodes each was validated on."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.reported: dict[int, list[Candidate]] = {rung: [] for rung in range(1, RUNGS + 1)}

    def threshold(self, candidate: Candidate, rung: int, *, common: bool = False) -> Candidate | None:
        """The last of the better half at this rung, as in Optuna's halving; None where it is the candidate."""
        mine = self.counts(candidate, rung)

        def value(other: Candidate) -> float:
            return other.mean(rung, min(mine, self.counts(other, rung)) if common else self.counts(other, rung))

        def own(other: Candidate) -> float:
            return candidate.mean(rung, min(mine, self.counts(other, rung)) if common else mine)

        ahead = [other for other in self.reported[rung] if other is not candidate and value(other) > own(other)]
        place = max(1, len(self.reported[rung]) // 2)
        if len(ahead) < place:
            return None
        return sorted(ahead, key=value, reverse=True)[place - 1]

    def p_worse(self, candidate: Candidate, other: Candidate, rung: int) -> float:
        return p_worse(candidate, other, rung, min(self.counts(candidate, rung), self.counts(other, rung)))


@functools.cache
def p_worse(candidate: Candidate, other: Candidate, rung: int, count: int) -> float:
    """Of the hypothesis that the candidate is not worse than the other, on the first episodes of both."""
    difference = candidate.scores[rung - 1, :count] - other.scores[rung - 1, :count]
    return float(wilcoxon(difference, alternative="less").pvalue) if difference.any() else 1.0


Rule = Callable[[Search, Candidate, int], bool]


def nobody(search: Search, candidate: Candidate, rung: int) -> bool:
    return False


def halving(search: Search, candidate: Candidate, rung: int, *, common: bool = False) -> bool:
    return rung in HALVING_RUNGS and search.threshold(candidate, rung, common=common) is not None


def keep(search: Search, candidate: Candidate, rung: int, *, level: float) -> bool:
    if rung not in HALVING_RUNGS:
        return False
    rival = search.threshold(candidate, rung)
    return rival is not None and search.p_worse(candidate, rival, rung) < level


def early(search: Search, candidate: Candidate, rung: int, *, level: float, first: int) -> bool:
    if rung in HALVING_RUNGS:
        return halving(search, candidate, rung)
    if rung < first or len(search.reported[rung]) < FEWEST_RIVALS:
        return False
    rival = search.threshold(candidate, rung)
    return rival is not None and search.p_worse(candidate, rival, rung) < level


def full(candidate: Candidate, rung: int) -> int:
    return EPISODES


def growing(candidate: Candidate, rung: int, *, first: int) -> int:
    """From `first` at rung 1 to all at the last, by one factor a rung."""
    return round(first * (EPISODES / first) ** ((rung - 1) / (RUNGS - 1)))


def a_tenth(candidate: Candidate, rung: int, *, first: int, fewest: int) -> int:
    """The same, scaled down until it takes, with the last rung, a tenth of training; not below `fewest`."""
    if rung == RUNGS:
        return EPISODES
    low = sum(growing(candidate, r, first=first) for r in range(1, RUNGS))
    left = 0.1 * candidate.seconds[-1] / candidate.episode_seconds - EPISODES
    return max(fewest, int(min(1.0, left / low) * growing(candidate, rung, first=first)))


def replay(candidates: Sequence[Candidate], rule: Rule, counts: Counts, seed: int) -> Outcome:
    """One search over some of the candidates."""
    candidates = random.Random(seed).sample(candidates, TRIALS)
    waiting = list(candidates)
    search, running, ended = Search(counts), [], []
    training = validation = 0.0

    def start(at: float, candidate: Candidate, rung: int) -> None:
        nonlocal training, validation
        before = candidate.seconds[rung - 2] if rung > 1 else 0.0
        trained = candidate.seconds[rung - 1] - before
        validated = counts(candidate, rung) * candidate.episode_seconds
        training, validation = training + trained, validation + validated
        heapq.heappush(running, (at + trained + validated, id(candidate), candidate, rung))

    for _ in range(WORKERS):
        start(0.0, waiting.pop(), 1)
    while running:
        now, _, candidate, rung = heapq.heappop(running)
        search.reported[rung].append(candidate)
        if rung == RUNGS:
            ended.append(candidate)
        if rung < RUNGS and not rule(search, candidate, rung):
            start(now, candidate, rung + 1)
        elif waiting:
            start(now, waiting.pop(), 1)
    best = max(c.mean(RUNGS, EPISODES) for c in candidates)
    return Outcome(best - max(c.mean(RUNGS, EPISODES) for c in ended), training, validation)


COUNTS: dict[str, Counts] = {
    "100": full,
    "20 → 100": functools.partial(growing, first=20),
    "10 → 100": functools.partial(growing, first=10),
    "5 → 100": functools.partial(growing, first=5),
    "a tenth, 20": functools.partial(a_tenth, first=20, fewest=20),
    "a tenth, 10": functools.partial(a_tenth, first=20, fewest=10),
    "a tenth, 5": functools.partial(a_tenth, first=20, fewest=5),
}
RULES: dict[str, Rule] = {
    "none": nobody,
    "halving": halving,
    "common": functools.partial(halving, common=True),
    "keep 0.3": functools.partial(keep, level=0.3),
    "keep 0.05": functools.partial(keep, level=0.05),
    "early 0.001 from 1": functools.partial(early, level=1e-3, first=1),
    "early 0.001 from 3": functools.partial(early, level=1e-3, first=3),
}
TESTED_WITH = ("100", "20 → 100", "a tenth, 10")  # episodes that the rules with a test are tried with


def read(dataset: str) -> list[Candidate]:
    recorded = json.loads((RESULTS / f"rung_curves-{dataset}.json").read_text())
    way, query = {"digits": (5, 15), "omniglot": (5, 5)}[dataset]
    found = []
    for one in recorded["candidates"]:
        if one["rungs"] == list(range(1, RUNGS + 1)):
            # Every rung has as many steps; medians, since other work on the machine paused some.
            rung_seconds = float(np.median(np.diff(one["seconds"], prepend=0.0)))
            cost = float(np.median(one["validation_seconds"])) / EPISODES
            seconds = rung_seconds * np.arange(1, RUNGS + 1)
            found.append(Candidate(np.array(one["right"]) / (way * query), seconds, cost))
    return found


def table(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    rows = []
    for counts_name, counts in COUNTS.items():
        for rule_name, rule in RULES.items():
            if rule_name not in ("halving", "common") and counts_name not in TESTED_WITH:
                continue
            outcomes = [replay(candidates, rule, counts, seed) for seed in range(REPLAYS)]
            regrets = np.array([o.regret for o in outcomes])
            training, validation = (
                float(np.mean([getattr(o, k) for o in outcomes])) for k in ("training", "validation")
            )
            rows.append(
                {
                    "episodes": counts_name,
                    "rule": rule_name,
                    "regret": round(100 * float(regrets.mean()), 2),
                    "regret_error": round(100 * float(regrets.std()) / REPLAYS**0.5, 2),
                    "lost_best": round(float((regrets > 0).mean()), 3),
                    "training_seconds": round(training, 1),
                    "validation_seconds": round(validation, 1),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("datasets", nargs="+")
    found: dict[str, Any] = {}
    for dataset in parser.parse_args().datasets:
        candidates = read(dataset)
        found[dataset] = {"candidates": len(candidates), "rows": table(candidates)}
        for row in found[dataset]["rows"]:
            print(dataset, *row.values(), sep="\t", flush=True)
    (RESULTS / "pruning_on_curves.json").write_text(
        json.dumps({**machine(), "replays": REPLAYS, **found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
