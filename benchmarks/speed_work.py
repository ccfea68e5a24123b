"""One method of the speed benchmark in a process of its own: told when to work, it says how much it got done.

Processes keep allocators, threads and peak memory apart; only one works at a time.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import speed_peers
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.device import pick_device
from autometa.learning.evaluation import evaluate
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.ops.block import every_operation_visible
from autometa.learning.optimization import make_optimizer, take_step

WAY, SHOT, QUERY = 5, 5, 15
PRETRAIN_BATCH, PRETRAIN_CLASSES = 64, 64
EVALUATED = 600


class Case(NamedTuple):
    """What is done: images of channels × side × side, by a method, in so many threads."""

    what: str  # maml, prototypical, evaluation, pretraining, or peak
    method: str
    channels: int
    side: int
    batch: int  # episodes a step; images for pre-training
    inner_steps: int = 0
    width: int = 32
    threads: int = 2


class Work(NamedTuple):
    """Units (tasks, episodes, images; operations for the peak) done, and the seconds they took."""

    units: int
    seconds: float


class Worker:
    """A process that has one case set up and warm."""

    def __init__(self, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(case, theirs), daemon=True)
        self._process.start()
        self.first_seconds: float = self._pipe.recv()

    def start(self, seconds: float) -> None:
        """Have it work for about so long."""
        self._pipe.send(seconds)

    def result(self) -> Work:
        """Wait for what it got done."""
        return Work(*self._pipe.recv())

    def end(self) -> tuple[float, int]:
        """Stop it.

        Returns:
            Its peak memory in MiB beyond what it had before its first step, and how many floating-point operations
            the convolutions and products of a step are (0 but for autometa's methods).
        """
        self._pipe.send(None)
        peak, operations = self._pipe.recv()
        self._process.join()
        return peak, operations


def _serve(case: Case, pipe: Connection) -> None:
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    step = made(case)
    units = {"evaluation": EVALUATED, "peak": _operations(step) if case.what == "peak" else 0}.get(
        case.what, case.batch
    )
    before = _peak()
    started = time.perf_counter()
    step()
    pipe.send(time.perf_counter() - started)
    while (seconds := pipe.recv()) is not None:
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds or not steps:
            step()
            steps += 1
        pipe.send(Work(steps * units, time.perf_counter() - started))
    peak = _peak() - before
    pipe.send((peak, _operations(step) if case.method == "autometa" else 0))  # counting takes memory of its own


def _operations(step: Callable[[], Any]) -> int:
    with every_operation_visible(), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def made(case: Case) -> Callable[[], Any]:
    """One step of this case, on random episodes."""
    if case.what == "pretraining":
        return _pretraining(case)
    if case.what == "peak":
        return _fastest_convolution(case)
    if case.what == "evaluation":
        return _evaluation(case)
    episodes = random_episodes(case.batch, case.channels, case.side)
    if case.method == "autometa":
        return _ours(case, episodes)
    net = speed_peers.Conv4(case.channels, case.side, case.width, WAY if case.what == "maml" else 0)
    step = {
        ("maml", "plain loop"): lambda: speed_peers.plain_maml(net, case.inner_steps),
        ("maml", "higher"): lambda: speed_peers.higher_maml(net, case.inner_steps),
        ("prototypical", "easyfsl"): lambda: speed_peers.easyfsl_training(net),
    }[case.what, case.method]()
    return lambda: step(episodes)


def _ours(case: Case, episodes: EpisodeBatch) -> Callable[[], Any]:
    pick_device()  # as every trial does first
    backbone = Conv((case.channels, case.side, case.side), width=case.width)
    setting = Setting(WAY, PRETRAIN_CLASSES)
    if case.what == "maml":
        maml = Maml(backbone, setting, inner_lr=speed_peers.INNER_LR, inner_steps=case.inner_steps)
        return _outer_step(maml, Fixed(episodes))
    learner = Prototypical(backbone, setting)
    return _outer_step(learner, Fixed(episodes), optimizer="adam")


def _evaluation(case: Case) -> Callable[[], Any]:
    """EVALUATED episodes, all different, in batches."""
    count, left = divmod(EVALUATED, case.batch)
    sizes = [case.batch] * count + [left] * bool(left)
    batches = [random_episodes(size, case.channels, case.side) for size in sizes]
    if case.method == "autometa":
        pick_device()
        learner = Prototypical(Conv((case.channels, case.side, case.side), width=case.width), Setting(WAY, 0))
        return lambda: evaluate(learner, batches, seed=0)
    theirs = speed_peers.easyfsl_evaluation(speed_peers.Conv4(case.channels, case.side, case.width, 0))

    def step() -> None:
        for batch in batches:
            theirs(batch)

    return step


def _pretraining(case: Case) -> Callable[[], Any]:
    """A learner's step; or `convolutions`, the same ones alone, forward and backward: the peak it could reach."""
    images = torch.randn(case.batch, case.channels, case.side, case.side)
    labels = torch.randint(PRETRAIN_CLASSES, (case.batch,))
    pick_device()
    if case.method == "convolutions":
        return _convolutions(case)
    backbone = Conv((case.channels, case.side, case.side), width=case.width)
    learner = Pretrain(backbone, Setting(WAY, PRETRAIN_CLASSES), batch_size=case.batch)
    return _outer_step(learner, Fixed(images=(images, labels)), optimizer="sgd")


def _convolutions(case: Case) -> Callable[[], Any]:
    sides = [case.side >> depth for depth in range(4)]
    inputs = [case.channels, case.width, case.width, case.width]
    layers = []
    for depth, (side, channels) in enumerate(zip(sides, inputs, strict=True)):
        conv = nn.Conv2d(channels, case.width, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(case.batch, channels, side, side).to(memory_format=torch.channels_last)
        layers.append((conv, x.requires_grad_(depth > 0)))

    def step() -> None:
        for conv, x in layers:
            y = F.conv2d(x, conv.weight, padding=1)
            torch.autograd.grad(y, [conv.weight, x] if x.requires_grad else [conv.weight], torch.ones_like(y))

    return step


def _fastest_convolution(case: Case) -> Callable[[], Any]:
    """The network's largest convolution alone, forward and hot: the rate against which the rest is measured."""
    side = case.side // 2
    x = torch.randn(PRETRAIN_BATCH, case.width, side, side).to(memory_format=torch.channels_last)
    weight = torch.randn(case.width, case.width, 3, 3).to(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, padding=1)


def _outer_step(learner: Learner, source: Fixed, *, optimizer: str | None = None) -> Callable[[], Any]:
    """A learner's outer step, with the optimiser's if there is one, as in a trial."""
    options = {"outer_lr": speed_peers.OUTER_LR, "weight_decay": 0.0}
    outer = make_optimizer(learner.parameters(), optimizer=optimizer, **options) if optimizer else None

    def step() -> None:
        (outer or learner).zero_grad(set_to_none=True)
        learner.outer_step(source)
        if outer:
            take_step(outer)

    return step


class Fixed:
    """A training source that always gives the same."""

    def __init__(
        self, episodes: EpisodeBatch | None = None, images: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        self._episodes, self._images = episodes, images

    def episodes(self) -> EpisodeBatch:
        assert self._episodes is not None
        return self._episodes

    def images(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._images is not None
        return self._images


def random_episodes(batch: int, channels: int, side: int) -> EpisodeBatch:
    """5-way 5-shot with 15 queries a class."""
    labels = torch.arange(WAY)
    return EpisodeBatch(
        support_x=torch.randn(batch, WAY * SHOT, channels, side, side),
        support_y=labels.repeat_interleave(SHOT).expand(batch, -1),
        query_x=torch.randn(batch, WAY * QUERY, channels, side, side),
        query_y=labels.repeat_interleave(QUERY).expand(batch, -1),
        way=WAY,
    )
