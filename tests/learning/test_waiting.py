"""No training step reads a number of a tensor: on a GPU Python would wait there for all work queued before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode  # documented in torch's "Extending PyTorch"

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.learning.backbones.conv import Conv
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learner import Setting
from autometa.records import EpisodeSpec
from autometa.trial.build import LEARNERS


class Reading(TorchDispatchMode):
    """Notes the operations after which Python waits for a device: it reads their numbers, or how many they are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(function) for word in ("local_scalar_dense", "nonzero", "masked_select", "unique", "equal")):
            self.found.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_step_reads_no_number(digits: FewShotDataset, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The real one looks at the range of its labels, on a CPU only.
    monkeypatch.setattr(F, "one_hot", lambda labels, way: (labels[..., None] == torch.arange(way)).long())
    torch.manual_seed(61)
    make: Any = LEARNERS[name]
    learner = make(Conv((1, 8, 8), depth=2, width=4), Setting(way=3, train_classes=24)).train()
    if isinstance(learner, TaskLearner):
        learner.tasks_at_once = 2  # as on a GPU
    generator = torch.Generator().manual_seed(62)
    source = EpisodeSampler(
        ImagePool(digits, "train"), EpisodeSpec(way=3, shot=1, query=2), batch=2, generator=generator
    )
    learner.outer_step(source)
    with Reading() as reading:
        learner.outer_step(source)
    assert not reading.found
