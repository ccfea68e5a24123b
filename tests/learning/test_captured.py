"""A recorded step is replayed only where it does what the step does; else training goes on as if nothing was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeBatch, EpisodeSampler, ImagePool
from autometa.errors import DivergedError
from autometa.learning import checkpoints
from autometa.learning.augment import make_augment
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.captured import CudaGraphs, Metrics, Recorder, Step
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec
from autometa.trial.build import LEARNERS

SEEN = Accuracy(mean=0.5, half_width=0.1, episodes=3, seed=0)
SETTING = Setting(way=3, train_classes=24)
SHAPE = (1, 8, 8)


def prototypical() -> Learner:
    return Prototypical(Conv(SHAPE, depth=2, width=8), SETTING)


def dropping() -> Learner:
    return Prototypical(Mlp(SHAPE, width=16, drop_rate=0.3), SETTING)


def maml() -> Learner:
    return Maml(Conv(SHAPE, depth=2, width=8, norm="per_step"), SETTING, inner_steps=2, learned_rates=True)


def training_of(digits: FewShotDataset, make: Callable[[], Learner], steps: int = 24, **options: Any) -> Training:
    torch.manual_seed(61)
    generator = torch.Generator().manual_seed(62)
    pool, spec = ImagePool(digits, "train"), EpisodeSpec(way=3, shot=1, query=2)
    augment = make_augment("crop_flip_jitter_cutout")
    return Training(
        make(),
        EpisodeSampler(pool, spec, batch=2, generator=generator, augment=augment),
        options=TrainingOptions(**options),
        budget=Budget(steps=steps, rungs=3),
        validate=lambda *_: SEEN,
        generator=generator,
    )


def trained(training: Training) -> tuple[dict[str, Tensor], list[float]]:
    """Its state in the end, and the loss of each step."""
    losses: list[float] = []
    list(training.rungs(lambda *step: losses.append(float(step[2]["loss"]))))
    return training.learner.state_dict() | {"generator": training.generator.get_state()}, losses


def assert_equal(found: tuple[dict[str, Tensor], list[float]], expected: tuple[dict[str, Tensor], list[float]]) -> None:
    assert found[1] == expected[1]
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name


class Repeating(Recorder):
    """What a CUDA graph is, where there is none: the step again."""

    def record(self, step: Step, generators: Sequence[torch.Generator]) -> Step:
        return step


class Wrong(Recorder):
    """A replay with something done before and after the step."""

    def __init__(self, before: Callable[[], Any], after: Callable[[Any], None]) -> None:
        self._before, self._after = before, after

    def record(self, step: Step, generators: Sequence[torch.Generator]) -> Step:
        def replay() -> Metrics:
            kept = self._before()
            metrics = step()
            self._after(kept)
            return metrics

        return replay


def frozen_data(training: Training) -> Recorder:
    """Each replay has the data of the first, though the generator moves on."""
    first = training.generator.get_state()

    def rewind() -> Tensor:
        here = training.generator.get_state()
        training.generator.set_state(first)
        return here

    def move_on(here: Tensor) -> None:
        training.generator.set_state(here)
        training.source.episodes()

    return Wrong(rewind, move_on)


def halting_generator(training: Training) -> Recorder:
    """A replay leaves the generator where it was, as if draws were part of the recording."""
    return Wrong(training.generator.get_state, training.generator.set_state)


def halting_dropout(training: Training) -> Recorder:
    return Wrong(torch.get_rng_state, torch.set_rng_state)


def forgotten_weights(training: Training) -> Recorder:
    """One weight tensor is not moved."""
    weight = next(training.learner.parameters())
    return Wrong(lambda: weight.detach().clone(), lambda before: weight.data.copy_(before))


def lost_average(training: Training) -> Recorder:
    average = next(b for b in training.learner.buffers() if b.numel())
    return Wrong(lambda: average.clone(), lambda before: average.copy_(before))


def raising(training: Training) -> Recorder:
    def fail() -> None:
        try:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        finally:
            raise RuntimeError("operation failed due to a previous error")  # as the end of a capture does

    return Wrong(fail, lambda _: None)


@pytest.mark.parametrize("make", [prototypical, dropping, maml])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_replayed_training_is_the_plain_one_to_the_last_bit(
    digits: FewShotDataset, make: Callable[[], Learner], optimizer: str, caplog: pytest.LogCaptureFixture
) -> None:
    replayed = training_of(digits, make, optimizer=optimizer)
    replayed.capture(Repeating())
    assert_equal(trained(replayed), trained(training_of(digits, make, optimizer=optimizer)))
    assert replayed.is_replayed
    assert not caplog.text


@pytest.mark.parametrize(
    ("make", "recorder"),
    [
        (prototypical, frozen_data),
        (prototypical, halting_generator),
        (prototypical, forgotten_weights),
        (prototypical, lost_average),
        (prototypical, raising),
        (dropping, halting_dropout),
        (maml, frozen_data),
    ],
)
def test_a_wrong_replay_is_found_out_and_leaves_no_trace(
    digits: FewShotDataset,
    make: Callable[[], Learner],
    recorder: Callable[[Training], Recorder],
    caplog: pytest.LogCaptureFixture,
) -> None:
    training = training_of(digits, make)
    training.capture(recorder(training))
    assert_equal(trained(training), trained(training_of(digits, make)))
    assert not training.is_replayed
    (record,) = caplog.records
    assert "the training step is not captured: " in record.message
    assert "\n" not in record.message
    assert ("operation not permitted" in record.message) == (recorder is raising)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_graph_is_refused_by_the_library_and_training_goes_on(digits: FewShotDataset) -> None:
    training = training_of(digits, prototypical, steps=6)
    training.capture(CudaGraphs())
    assert_equal(trained(training), trained(training_of(digits, prototypical, steps=6)))
    assert not training.is_replayed


def test_a_step_that_changes_its_ways_later_is_found_out_at_the_next_rung(digits: FewShotDataset) -> None:
    class Warming(Prototypical):
        """Ten steps in, its loss is another one: what Python decides is not in a recording."""

        taken = 0

        def loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
            loss, metrics = super().loss(episodes)
            return loss * (1 if self.taken < 10 else 3), metrics

    class AsRecorded(Recorder):
        def record(self, step: Step, generators: Sequence[torch.Generator]) -> Step:
            def replay() -> Metrics:
                now, learner.taken = learner.taken, 0
                metrics = step()
                learner.taken = now
                return metrics

            return replay

    learner = Warming(Conv(SHAPE, depth=2, width=8), SETTING)
    training = training_of(digits, lambda: learner, optimizer="sgd", clip_norm=100.0)
    training.capture(AsRecorded())
    rungs = training.rungs(lambda *_: setattr(learner, "taken", learner.taken + 1))
    next(rungs)
    assert training.is_replayed
    list(rungs)
    assert not training.is_replayed


def test_a_resumed_training_records_anew_and_is_the_same(digits: FewShotDataset, tmp_path: Path) -> None:
    straight, _ = trained(training_of(digits, dropping))
    first = training_of(digits, dropping)
    first.capture(Repeating())
    next(first.rungs())
    checkpoints.save(tmp_path, first, extra={})
    second = training_of(digits, dropping)
    checkpoints.load(tmp_path, second)
    second.capture(Repeating())
    found, _ = trained(second)
    assert_equal((found, []), (straight, []))
    assert second.is_replayed


def test_a_replayed_training_that_diverges_says_so(digits: FewShotDataset) -> None:
    training = training_of(digits, prototypical, steps=90)
    training.capture(Repeating())
    rungs = training.rungs(lambda step, *_: _blow_up(training) if step == 20 else None)
    with pytest.raises(DivergedError, match="at step 21"):
        list(rungs)


def _blow_up(training: Training) -> None:
    assert training.is_replayed
    next(training.learner.parameters()).data.fill_(torch.inf)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("maml", {"multi_step_loss": 0.5}),
        ("maml", {"first_order_share": 0.5}),
        ("maml", {"checkpoint_inner_steps": True}),
        ("pretrain", {"distillation_weight": 0.5}),
        ("reptile", {}),
        ("lstm", {}),
    ],
)
def test_a_step_that_depends_on_what_python_counts_or_draws_is_not_recorded(
    digits: FewShotDataset, name: str, options: dict[str, Any]
) -> None:
    make: Any = LEARNERS[name]
    training = training_of(digits, lambda: make(Conv(SHAPE, depth=2, width=4), SETTING, **options))
    training.capture(Repeating())
    trained(training)
    assert not training.is_replayed


class Reading(TorchDispatchMode):
    """Notes the operations after which Python waits for a device: it reads their numbers, or how many they are."""

    found: set[str]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(function) for word in ("local_scalar_dense", "nonzero", "masked_select", "unique", "equal")):
            self.found.add(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LEARNERS)
def test_what_may_be_captured_reads_no_number_in_its_step(
    digits: FewShotDataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real one looks at the range of its labels, on a CPU only.
    monkeypatch.setattr(F, "one_hot", lambda labels, way: (labels[..., None] == torch.arange(way)).long())
    make: Any = LEARNERS[name]
    training = training_of(digits, lambda: make(Conv(SHAPE, depth=2, width=4), SETTING))
    if isinstance(training.learner, TaskLearner):
        training.learner.tasks_at_once = 2  # as on a GPU
    training.learner.train()
    training._step()
    reading = Reading()
    reading.found = set()
    with reading:
        training._gradient()
    assert not (training.learner.is_capturable and reading.found)
