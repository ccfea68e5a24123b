"""What a model answered, episode by episode: all that its intervals and comparisons are computed from.

Symbols: E episodes, N way, C classes of the split. It is plain NumPy, for drivers that load no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from autometa.errors import StudyError

_COUNTS = np.uint16  # images a class and episode


@dataclass(frozen=True)
class Scores:
    """One model's answers on a list of episodes.

    Attributes:
        classes: int64 [E, N], which classes of the split each episode has.
        answers: [E, N, N], how many query images of class n were taken for class m; counts, or differences and
            means of counts.
        families: int64 [C], which classes belong together: quarter turns of one class do.
        images: int64 [C], how many images each class has to draw from, where the classes are the task's own; None where
            they stand for new ones.
    """

    classes: np.ndarray
    answers: np.ndarray
    families: np.ndarray
    images: np.ndarray | None = None

    @property
    def accuracies(self) -> np.ndarray:
        """[E], share of each episode's query images that were taken for what they are."""
        return np.trace(self.answers, axis1=1, axis2=2) / self.answers.sum((1, 2))

    def __len__(self) -> int:
        return len(self.classes)

    def part(self, episodes: slice) -> Scores:
        """Some of the episodes."""
        return replace(self, classes=self.classes[episodes], answers=self.answers[episodes])

    def has_same_episodes(self, other: Scores) -> bool:
        """Whether both are of episodes of the same classes in the same order."""
        return np.array_equal(self.classes, other.classes)


def mean_of(several: Sequence[Scores]) -> Scores:
    """What several models answer on average on the same episodes."""
    first = several[0]
    assert all(first.has_same_episodes(other) for other in several)
    return replace(first, answers=np.mean([scores.answers for scores in several], axis=0))


def write(file: Path, scores: Scores) -> None:
    """Keep counted answers: 600 episodes of 5 classes take 36 kB."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    classes, families = (np.ascontiguousarray(a, np.int32) for a in (scores.classes, scores.families))
    answers = np.ascontiguousarray(scores.answers, _COUNTS)
    known = {"classes": classes, "answers": answers, "families": families}
    known |= {} if scores.images is None else {"images": np.ascontiguousarray(scores.images, np.int32)}
    draft.write_bytes(save(known))
    draft.replace(file)


def read(file: Path) -> Scores:
    """What `write` kept; raises `StudyError` where it is damaged or missing."""
    try:
        kept = {name: values.astype(np.int64) for name, values in load(file.read_bytes()).items()}
        return Scores(kept["classes"], kept["answers"], kept["families"], kept.get("images"))
    except (OSError, SafetensorError, KeyError) as error:
        raise StudyError(f"{file}: damaged or missing: {error}") from None
