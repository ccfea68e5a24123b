"""Training: rungs, budgets, divergence, and a resume that changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.errors import CheckpointError, ConfigError, DivergedError
from autometa.learning import checkpoints
from autometa.learning.augment import crop_flip
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.checkpoint_facts import FACTS
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec

SEEN = Accuracy(mean=0.5, half_width=0.1, episodes=3, seed=0)


def make_training(digits: FewShotDataset, budget: Budget, *, kind: str = "conv", **options: Any) -> Training:
    torch.manual_seed(11)
    generator = torch.Generator().manual_seed(12)
    shape = digits.image_shape
    setting = Setting(way=3, train_classes=24)
    learners: dict[str, Any] = {
        "conv": lambda: Prototypical(Conv(shape, depth=2, width=8), setting),
        "resnet12": lambda: Prototypical(ResNet12(shape, width=4, drop_rate=0.3, drop_block=2), setting),
        "maml": lambda: Maml(Conv(shape, depth=2, width=8, norm="support"), setting, inner_steps=1),
    }
    learner: Learner = learners[kind]()
    pool = ImagePool(digits, "train")
    spec = EpisodeSpec(way=3, shot=1, query=2)
    return Training(
        learner,
        EpisodeSampler(pool, spec, batch=2, generator=generator, augment=crop_flip),
        options=TrainingOptions(**options),
        budget=budget,
        validate=lambda *_: SEEN,
        generator=generator,
    )


def test_rungs_are_spaced_evenly_over_the_steps(digits: FewShotDataset) -> None:
    training = make_training(digits, Budget(steps=20, rungs=4))
    assert [(r.rung, r.steps) for r in training.rungs()] == [(1, 5), (2, 10), (3, 15), (4, 20)]
    assert list(training.rungs()) == []


def test_a_step_that_crosses_several_rungs_is_reported_once(digits: FewShotDataset) -> None:
    training = make_training(digits, Budget(seconds=1e-6, rungs=9))
    assert [(r.rung, r.steps) for r in training.rungs()] == [(9, 1)]


def test_a_budget_in_operations_ends_large_networks_earlier(digits: FewShotDataset) -> None:
    small, large = (
        make_training(digits, Budget(steps=500, teraflops=1e-4, rungs=2), kind=k) for k in ("conv", "resnet12")
    )
    ends = [[r.steps for r in t.rungs()][-1] for t in (small, large)]
    assert 2 <= ends[1] < ends[0] < 500
    again = make_training(digits, Budget(steps=500, teraflops=1e-4, rungs=2), kind="conv")
    assert [r.steps for r in again.rungs()][-1] == ends[0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [("conv", {}), ("resnet12", {"optimizer": "sgd", "outer_lr": 0.05}), ("maml", {"optimizer": "adamw"})],
)
def test_a_resumed_training_is_the_same_to_the_last_bit(
    digits: FewShotDataset, tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    budget = Budget(steps=12, rungs=3)
    straight = make_training(digits, budget, kind=kind, **options)
    list(straight.rungs())

    first = make_training(digits, budget, kind=kind, **options)
    next(first.rungs())
    checkpoints.save(tmp_path, first, extra={"job": 1})
    second = make_training(digits, budget, kind=kind, **options)
    torch.manual_seed(999)
    checkpoints.load(tmp_path, second)
    assert second.curve == first.curve
    list(second.rungs())

    assert second.steps == straight.steps
    for name, tensor in straight.learner.state_dict().items():
        assert torch.equal(tensor, second.learner.state_dict()[name]), name


def test_a_diverging_training_says_when(digits: FewShotDataset) -> None:
    training = make_training(digits, Budget(steps=200, rungs=2), optimizer="sgd", outer_lr=1e30, clip_norm=1e30)
    with pytest.raises(DivergedError, match=r"loss is \S+ .* at step \d+"):
        list(training.rungs())


def test_a_checkpoint_killed_between_its_files_is_the_old_one(
    digits: FewShotDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = make_training(digits, Budget(steps=9, rungs=3))
    rungs = training.rungs()
    next(rungs)
    checkpoints.save(tmp_path, training, extra={})
    next(rungs)
    replace = os.replace

    def die_before_the_facts(draft: Path, file: Path) -> None:
        if file.name == FACTS:
            raise KeyboardInterrupt
        replace(draft, file)

    monkeypatch.setattr(os, "replace", die_before_the_facts)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(tmp_path, training, extra={})
    monkeypatch.undo()
    again = make_training(digits, Budget(steps=9, rungs=3))
    checkpoints.load(tmp_path, again)
    assert again.steps == 3

    checkpoints.save(tmp_path, training, extra={})
    names = sorted(file.name for file in tmp_path.iterdir())
    assert len(names) == 2, "what the crash left half written is removed"


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "foreign", "incomplete"])
def test_a_damaged_checkpoint_gets_one_clear_line(digits: FewShotDataset, tmp_path: Path, damage: str) -> None:
    training = make_training(digits, Budget(steps=2, rungs=1))
    list(training.rungs())
    checkpoints.save(tmp_path, training, extra={})
    (tensors,) = tmp_path.glob("*.safetensors")
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:200])
    elif damage == "flipped":
        data = bytearray(tensors.read_bytes())
        data[-9] ^= 1
        tensors.write_bytes(data)
    elif damage == "incomplete":
        facts = json.loads((tmp_path / FACTS).read_text())
        del facts["steps"]
        (tmp_path / FACTS).write_text(json.dumps(facts))
    elif damage == "missing":
        tensors.unlink()
    else:
        (tmp_path / "checkpoint.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(tmp_path, make_training(digits, Budget(steps=2, rungs=1)))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_model_is_refused(digits: FewShotDataset, tmp_path: Path) -> None:
    training = make_training(digits, Budget(steps=2, rungs=1))
    list(training.rungs())
    checkpoints.save(tmp_path, training, extra={})
    with pytest.raises(CheckpointError, match="holds another model"):
        checkpoints.load(tmp_path, make_training(digits, Budget(steps=2, rungs=1), kind="resnet12"))


def test_a_folder_that_cannot_be_written_gets_one_clear_line(digits: FewShotDataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    training = make_training(digits, Budget(steps=2, rungs=1))
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoints.save(tmp_path / "file", training, extra={})


def test_on_another_kind_of_device_training_goes_on_with_a_new_stream(digits: FewShotDataset, tmp_path: Path) -> None:
    training = make_training(digits, Budget(steps=4, rungs=2))
    next(training.rungs())
    checkpoints.save(tmp_path, training, extra={})
    facts = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps(facts | {"device": "cuda"}))
    again = make_training(digits, Budget(steps=4, rungs=2))
    checkpoints.load(tmp_path, again)
    assert [r.steps for r in again.rungs()] == [4]


def test_counting_operations_changes_nothing_else(digits: FewShotDataset) -> None:
    plain = make_training(digits, Budget(steps=3, rungs=1), kind="maml")
    counted = make_training(digits, Budget(steps=3, teraflops=1e3, rungs=1), kind="maml")
    for training in (plain, counted):
        list(training.rungs())
    for name, tensor in plain.learner.state_dict().items():
        assert torch.equal(tensor, counted.learner.state_dict()[name]), name


def test_a_gradient_may_not_be_clipped_to_nothing(digits: FewShotDataset) -> None:
    with pytest.raises(ConfigError, match="clip_norm = 0"):
        make_training(digits, Budget(steps=2, rungs=1), clip_norm=0.0)
