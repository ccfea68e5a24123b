"""Name the winner honestly: the best of many noisy scores is biased upward, so the best are measured again.

It says which trials to measure and which of them won; it does not know how they are measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from autometa.records import Confirmation, TrialRecord

CANDIDATES = 3
EPISODES = 600

# Offsets that keep the episodes of the search, of the confirmation and of meta-test apart.
_CONFIRM, _TEST = 1_000_000, 2_000_000


def confirm_seed(search_seed: int) -> int:
    """Seed of the fresh validation episodes."""
    return search_seed + _CONFIRM


def test_seed(search_seed: int) -> int:
    """Seed of the meta-test episodes."""
    return search_seed + _TEST


def best(trials: Iterable[TrialRecord], count: int = CANDIDATES) -> list[TrialRecord]:
    """The trials to measure again: complete ones by accuracy, then those that came furthest."""
    scored = [t for t in trials if t.state != "fail" and t.last is not None]
    return sorted(scored, key=_rank, reverse=True)[:count]


def winner(confirmed: Iterable[Confirmation]) -> Confirmation | None:
    """The confirmed trial with the highest accuracy on fresh validation episodes."""
    return max(confirmed, key=lambda c: c.validation.mean, default=None)


def _rank(trial: TrialRecord) -> tuple[bool, int, float]:
    assert trial.last is not None
    return trial.state == "complete", trial.last.rung, trial.last.accuracy.mean
