"""A training step recorded once as a CUDA graph and then replayed: one launch in place of some thousand.

A graph repeats addresses and numbers of the step it was recorded from. What Python decides or draws is frozen in it, so
it is checked against the step itself before it is used: from the same state, twice, with the random numbers that
each draws. Whatever raises or disagrees is trained step by step. Not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autometa.learning.device import give_back_memory

Metrics = dict[str, Tensor]
Step = Callable[[], Metrics]
Follow = Callable[[Step], list["_State"]]

# Steps that are taken as they are first: libraries choose their algorithms, moments leave zero.
_WARM_UP = 3
_COMPARED = 2
# How far a replay may be from the step, as a part of what the step changes: this, or so many times as far as the step
# is from itself (kernels add up in any order); where the step itself is further off nothing can be told.
_NEAR, _TIMES_NOISE, _MOST_NOISE = 1e-2, 5, 0.1
_log = logging.getLogger(__name__)


class Recorder(ABC):
    """Makes of a step something that does the same again."""

    @abstractmethod
    def record(self, step: Step, generators: Sequence[torch.Generator]) -> Step:
        """The step's replay, which draws its random numbers from these generators and moves them on.

        May raise anything. The step's Python code runs once here, if at all; what it changes is put back by the caller.
        """

    def beside(self) -> contextlib.AbstractContextManager[None]:
        """Where steps must be taken before one of them is recorded."""
        return contextlib.nullcontext()


class CudaGraphs(Recorder):
    """Records what a step launches on the current GPU."""

    def record(self, step: Step, generators: Sequence[torch.Generator]) -> Step:
        graph = torch.cuda.CUDAGraph()
        there = [generator for generator in generators if generator.device.type == "cuda"]
        for generator in there:  # what others draw would be frozen, and is found out
            graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                written = step()
        except Exception:
            # What fails inside leaves its stream the current one, and generators refusing to draw (torch 2.13).
            torch.cuda.set_stream(stream)
            torch.cuda.synchronize()
            for generator in there:
                generator.graphsafe_set_state(torch.Generator(generator.device))
            raise

        def replay() -> Metrics:
            graph.replay()
            return {name: value.clone() for name, value in written.items()}  # the next replay writes over it

        return replay

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)


class Captured:
    """A step that is taken as it is a few times, then recorded, checked, and replayed.

    Args:
        step: changes the tensors of `changing` in place, and nothing else that lasts but generators.
        changing: these tensors by kind, asked for when they are all there.
        generators: all that the step may draw from.
    """

    def __init__(
        self,
        step: Step,
        changing: Callable[[], Mapping[str, Sequence[Tensor]]],
        generators: Sequence[torch.Generator],
        recorder: Recorder,
    ) -> None:
        self._step = step
        self._changing = changing
        self._generators = list(generators)
        self._recorder = recorder
        self._taken = 0
        self._replay: Step | None = None
        self._allowed = _NEAR

    @property
    def is_replayed(self) -> bool:
        """Whether the next step is a replay."""
        return self._replay is not None

    def __call__(self) -> Metrics:
        """Take a step."""
        if self._taken == _WARM_UP:
            self._try()
        self._taken += 1
        return self._replay() if self._replay is not None else self._step()

    def check(self) -> None:
        """Look again whether a replay still does what the step does, which may have changed its ways since."""
        if self._replay is not None:
            self._or_give_up(self._compare)

    def _try(self) -> None:
        """Replay from now on, if that can be done."""
        self._or_give_up(self._record)

    def _or_give_up(self, look: Callable[[Follow], str]) -> None:
        """Take steps as they are from now on if a look at where they lead finds a reason, or raises anything."""
        try:
            with self._state_kept() as followed:
                reason = look(followed)
        except Exception as error:  # whatever libraries have against it, memory included
            reason = _first_line(error)
        if reason:
            _log.warning("the training step is not captured: %s", reason)
            self._replay = None
            give_back_memory()

    def _record(self, followed: Follow) -> str:
        with self._recorder.beside():
            expected = followed(self._step)
            noise = _apart(followed(self._step), expected)
        if not noise <= _MOST_NOISE:
            return f"two runs of the same step differ by {noise:.2g} of what it changes"
        self._allowed = max(_NEAR, _TIMES_NOISE * noise)
        self._replay = self._recorder.record(self._step, self._generators)
        return self._difference(followed(self._replay), expected)

    def _compare(self, followed: Follow) -> str:
        assert self._replay is not None
        return self._difference(followed(self._replay), followed(self._step))

    def _difference(self, found: Sequence[_State], expected: Sequence[_State]) -> str:
        apart = _apart(found, expected)
        return "" if apart <= self._allowed else f"its replay differs from it by {apart:.2g} of what it changes"

    @contextlib.contextmanager
    def _state_kept(self) -> Iterator[Follow]:
        """Gives what says where a step leads, several times over, and puts everything back in the end."""
        tensors = self._changing()
        before = _State.of(tensors, self._generators, {})

        def followed(step: Step) -> list[_State]:
            """The states after each of a few steps, the one before first."""
            before.restore(tensors, self._generators)
            after = [_State.of(tensors, self._generators, step()) for _ in range(_COMPARED)]
            return [before, *after]

        try:
            yield followed
        finally:
            before.restore(tensors, self._generators)


def _first_line(error: BaseException) -> str:
    """Of what went wrong first: ending a recording in which something failed is an error of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True)
class _State:
    """Copies of what steps change, by kind, the states of generators, and what a step reported."""

    tensors: Mapping[str, Sequence[Tensor]]
    generators: Sequence[Tensor]
    metrics: Metrics

    @classmethod
    def of(
        cls, tensors: Mapping[str, Sequence[Tensor]], generators: Sequence[torch.Generator], metrics: Metrics
    ) -> _State:
        return cls(
            {kind: [tensor.detach().clone() for tensor in of_kind] for kind, of_kind in tensors.items()},
            [generator.get_state() for generator in generators],
            {name: value.detach().clone() for name, value in metrics.items()},
        )

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Sequence[Tensor]], generators: Sequence[torch.Generator]) -> None:
        for kind, of_kind in tensors.items():
            for tensor, copy in zip(of_kind, self.tensors[kind], strict=True):
                tensor.copy_(copy)
        for generator, state in zip(generators, self.generators, strict=True):
            generator.set_state(state)


def _apart(found: Sequence[_State], expected: Sequence[_State]) -> float:
    """How far found states are from expected ones, as a part of what the steps changed, in the worst step and kind.

    Infinite where generators stand elsewhere, or numbers that are counted differ.
    """
    before, *after = expected
    parts = [_distance(a, b, before) for a, b in zip(found[1:], after, strict=True)]
    return max(part if part == part else torch.inf for part in parts)  # NaN is as far as can be


def _distance(found: _State, expected: _State, before: _State) -> float:
    same = all(torch.equal(a, b) for a, b in zip(found.generators, expected.generators, strict=True))
    if not same or found.metrics.keys() != expected.metrics.keys():
        return torch.inf
    parts = [_share(of_kind, expected.tensors[kind], before.tensors[kind]) for kind, of_kind in found.tensors.items()]
    for name, value in expected.metrics.items():
        parts.append(_share([found.metrics[name]], [value], [torch.zeros_like(value)]))
    return max(part if part == part else torch.inf for part in parts)


def _share(found: Sequence[Tensor], expected: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The length of found - expected over that of expected - before."""
    counted = [(a, b) for a, b in zip(found, expected, strict=True) if not a.is_floating_point()]
    if any(not torch.equal(a, b) for a, b in counted):
        return torch.inf
    apart = moved = 0.0
    for a, b, c in zip(found, expected, before, strict=True):
        if a.is_floating_point():
            apart += float((a - b).double().square().sum())
            moved += float((b - c).double().square().sum())
    if apart == 0:
        return 0.0
    return (apart / moved) ** 0.5 if moved else torch.inf
