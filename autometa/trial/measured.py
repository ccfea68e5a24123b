"""What a trained model showed on one split, and what several of one recipe show together; it loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autometa import looks
from autometa.learning import intervals
from autometa.learning.checkpoint_facts import exists
from autometa.learning.scores import Scores
from autometa.records import Accuracy, Look


@dataclass(frozen=True)
class Measured:
    """Answers of one model, of episodes drawn with `seed`. `look` says what to note where they are of test classes."""

    scores: Scores
    seed: int
    look: Look | None

    def noted(self, what: str | None = None, **how: Any) -> Measured:
        """With its look, if it is one, written down and numbered (`looks.note`); `what` says what it was made for."""
        if self.look is None:
            return self
        return replace(self, look=looks.note(self.look.model_copy(update={"what": what} if what else {}), **how))


def together(models: Sequence[Measured]) -> Accuracy:
    """What one model, or several of one recipe on the same episodes, show; the number is that of the last look."""
    found = intervals.accuracy_of_seeds([model.scores for model in models], models[0].seed)
    numbers = [model.look.number for model in models if model.look and model.look.number]
    return found.model_copy(update={"look": max(numbers, default=None)})


def seed_folder(folder: Path, seed: int) -> Path:
    """Where `autometa train --seeds` trains one seed of a recipe."""
    return folder / f"seed-{seed}"


def models_in(folder: Path) -> list[Path]:
    """The folder itself, or those of its seeds where `autometa train --seeds` made it, in their order."""
    seeds = [path for path in folder.glob("seed-*") if exists(path)]
    if exists(folder) or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: (len(path.name), path.name))
