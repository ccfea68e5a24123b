"""`autometa search --seeds N`: the same search several times, and how far apart their results are.

Replicates do not see each other: a search learns nothing from studies of the same images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autometa.records import Accuracy
    from autometa.study.search import SearchResult
    from autometa.study.search_settings import SearchSettings


def replicates(settings: SearchSettings, count: int) -> list[SearchSettings]:
    """The settings of so many searches, with seeds one after the other; a name that was given is the first one's."""
    seeds = [settings.seed + number for number in range(count)]
    names = [settings.study and f"{settings.study}-seed{seed}" for seed in seeds[1:]]
    return [settings, *(replace(settings, seed=seed, study=name) for seed, name in zip(seeds[1:], names, strict=True))]


def spread(results: Sequence[SearchResult]) -> dict[str, Any]:
    """The accuracies of all winners, with the mean, standard deviation and 95 % half-width of Student's t.

    It is how much luck is in one search, on the same test classes: other classes are not part of it.
    """
    kind, found = _accuracies(results)
    means = [accuracy.mean for accuracy in found]
    facts: dict[str, Any] = {"of": kind, "searches": len(results), "winners": len(found), "accuracies": means}
    if len(means) > 1:
        from autometa.learning.intervals import student_t

        deviation = statistics.stdev(means)
        half_width = student_t(len(means) - 1) * deviation / math.sqrt(len(means))
        facts |= {"mean": statistics.fmean(means), "deviation": deviation, "half_width": half_width}
    return facts


def print_spread(results: Sequence[SearchResult]) -> None:
    """A line for each search, and one for all."""
    from autometa.cli.tables import new_table, print_table
    from autometa.cli.words import for_new_classes

    table = new_table("study", "winner", "validation", "meta-test")
    for result in results:
        won = result.winner
        test = for_new_classes(won.test) if won and won.test else "–"
        cells = (won.source, for_new_classes(won.validation), test) if won else ("none", "–", "–")
        table.add_row(result.study.name, *cells)
    print()
    print_table(table)
    facts = spread(results)
    if "mean" in facts:
        mean, half_width, deviation = (100 * facts[name] for name in ("mean", "half_width", "deviation"))
        print(f"{facts['of']} over {facts['winners']} searches: {mean:.1f} ± {half_width:.1f} %", end="")
        print(f" (standard deviation {deviation:.1f}; the same classes)")


def _accuracies(results: Sequence[SearchResult]) -> tuple[str, list[Accuracy]]:
    """Of meta-test, or of validation where a winner was not tested."""
    winners = [result.winner for result in results if result.winner]
    tested = [won.test for won in winners if won.test]
    if len(tested) == len(winners):
        return "meta-test", tested
    return "validation", [won.validation for won in winners]
