"""Intervals for new classes hold the truth as often as they say, in worlds where the truth is known."""

from __future__ import annotations

import json

import pytest
from interval_cover import FILE, WORLDS, cover


@pytest.mark.parametrize(("world", "shot", "classes"), [("ordinary", 1, 8), ("confusable", 5, 20), ("easy", 5, 8)])
def test_the_printed_interval_holds_the_accuracy_on_new_classes(world: str, shot: int, classes: int) -> None:
    rows = json.loads(FILE.read_text())["rows"]
    true = next(r["truth"] for r in rows if (r["of"], r["world"], r["shot"]) == ("classes", world, shot))
    found = cover(WORLDS[world], shot, classes, true, repeats=200, episodes=200)
    assert 0.92 <= found["cover_of_printed"] <= 0.98
    assert found["cover_over_episodes_alone"] < 0.5, "the fault: other classes are another matter than other episodes"


def test_the_committed_study_covers_at_8_and_20_classes() -> None:
    rows = [r for r in json.loads(FILE.read_text())["rows"] if r["of"] == "classes"]
    assert {r["classes"] for r in rows} >= {5, 8, 16, 20, 64}
    for found in rows:
        if found["classes"] in (8, 20):
            assert 0.92 <= found["cover_of_printed"] <= 0.98, found
