"""Name the winner honestly: the best of many noisy scores is biased upward, so the best are measured again.

Each is measured on 600 fresh validation episodes, the same for all. The first half chooses the winner; the second half
is reported, and compares the others with it in pairs. Both halves are of the same validation classes: what the choice
owes to these stays in the reported accuracy, and only meta-test is free of it.

It says which trials to measure and which of them won; it does not know how they are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autometa.learning import intervals
from autometa.learning.scores import Scores
from autometa.records import Baseline, Comparison, Confirmation, TrialRecord, source_of

CANDIDATES = 3
EPISODES = 600
# Networks that may be handed over together where features are kept: each computes those of all test images.
_NETWORKS = 2

# Offsets that keep the episodes of the search, of the confirmation and of meta-test apart.
_CONFIRM, _TEST = 1_000_000, 2_000_000
# Apart from the seeds of all trials.
_BETWEEN_SEEDS = 10_000_019


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


def rivals(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Of trials that were trained to the end of an open search, those that may be the best: the intervals overlap.

    Where none was, since a slow one held up the end, it is the one that is surely best: not the one that came furthest.
    """
    scored = [t for t in trials if t.state != "fail" and t.last]
    trained = [t for t in scored if t.last and t.last.cooled] or sorted(scored, key=_sure)[-1:]
    leader = max((t.last.accuracy for t in trained if t.last), key=lambda accuracy: accuracy.mean, default=None)
    if leader is None:
        return []
    return best(t for t in trained if t.last and t.last.accuracy.high >= leader.low)


def to_combine(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that may be better together: those that were trained to the end of an open search.

    Where a network with features that are kept is among them, they are the best of two networks, and heads that need
    no training count as well.
    """
    ended = best([t for t in trials if t.last and t.last.cooled], CANDIDATES)
    if not any("features" in t.facts for t in ended):
        return ended
    ready = [t for t in trials if t.state != "fail" and t.last and (t.last.cooled or t.last.is_untrained)]
    by_network = {t.facts.get("features", t.number): t for t in sorted(ready, key=_sure)}
    return sorted(by_network.values(), key=_sure, reverse=True)[:_NETWORKS]


def best_baseline(baselines: Iterable[Baseline]) -> Baseline | None:
    """The one to measure again beside the best trials."""
    return max(baselines, key=lambda baseline: baseline.accuracy.mean, default=None)


def other_seeds(trial_seed: int, count: int) -> list[int]:
    """Seeds to train a trial's configuration again with."""
    return [trial_seed + _BETWEEN_SEEDS * number for number in range(1, count + 1)]


def halves(scores: Scores) -> tuple[Scores, Scores]:
    """The episodes that choose, and those that are reported."""
    middle = len(scores) // 2
    return scores.part(slice(middle)), scores.part(slice(middle, None))


def winner(confirmed: Iterable[Confirmation]) -> Confirmation | None:
    """The confirmed model with the highest accuracy on the episodes that choose; a trial where none is better.

    Where some were trained again with other seeds, it is one of them: the seed of the others was chosen as well.
    """
    known = list(confirmed)
    trial = max((c for c in known if c.trial is not None), key=rank, default=None)
    other = max((c for c in known if c.trial is None), key=rank, default=None)
    if trial is None or other is None:
        return trial or other
    return other if other.chosen_by.mean > trial.chosen_by.mean else trial


def rank(confirmed: Confirmation) -> tuple[bool, float]:
    """Sorts confirmed trials, the winner last."""
    return confirmed.retrained is not None, confirmed.chosen_by.mean


def unbeaten(comparisons: Iterable[Comparison], baselines: Iterable[Baseline]) -> list[Comparison]:
    """Comparisons of a winner with a baseline that it is not clearly better than."""
    names = {source_of(baseline.name) for baseline in baselines}
    return [c for c in comparisons if c.other in names and c.ahead <= c.half_width]


def compared(won: str, scores: Mapping[str, Scores]) -> list[Comparison]:
    """The winner with each other model on the episodes that are reported, where both have the same."""
    if won not in scores:
        return []
    _, best_half = halves(scores[won])
    found = []
    for source, others in scores.items():
        _, half = halves(others)
        if source != won and best_half.has_same_episodes(half):
            ahead, half_width = intervals.difference(best_half, half)
            found.append(Comparison(source=won, other=source, ahead=ahead, half_width=half_width))
    return found


def _sure(trial: TrialRecord) -> float:
    assert trial.last is not None
    return trial.last.accuracy.sure


def _rank(trial: TrialRecord) -> tuple[bool, int, float]:
    assert trial.last is not None
    return trial.state == "complete", trial.last.rung, trial.last.accuracy.mean
