"""How much memory a candidate needs while it trains, found without any: on torch's meta device.

It counts weights, gradients, the optimiser's two moments, and what autograd keeps for the backward pass. It does not
see what libraries take for themselves, so whoever shares out a GPU leaves room.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Shape
from autometa.learning.training import TrainingOptions
from autometa.records import EpisodeSpec, Scalar, TrialConfig
from autometa.space.space import SearchSpace
from autometa.trial.build import Candidate, Sampling, candidate
from autometa.trial.check import telling_values

# Weights, their gradient and Adam's two moments.
_COPIES_OF_WEIGHTS = 4
# A convolution's input, output and workspace are there at once with what is kept.
_LARGEST_AT_ONCE = 3
# The caching allocator's fragments and cuDNN's workspaces; a CUDA context with its libraries. Not measured: guesses on
# the safe side, and a trial that needs more goes on in smaller parts (`learning/fitting.py`) or fails alone.
_SAFETY, _CONTEXT_BYTES = 1.5, 700 * 2**20
_MOST_TRIALS = 8
_WITHOUT_MEMORY = {"augment", *(field.name for field in fields(TrainingOptions))}


def step_bytes(tried: Candidate, *, spec: EpisodeSpec, image_shape: Shape, train_classes: int) -> int:
    """Bytes of one outer step at its peak, in float32.

    Raises:
        ConfigError: its parts do not fit together.
    """
    kept = _Kept()
    with torch.device("meta"):
        learner = tried.build(image_shape=image_shape, way=spec.way, train_classes=train_classes)
        source = _MetaSource(tried.sampling, spec, image_shape, train_classes)
        weights = sum(p.nbytes for p in learner.parameters())
        with torch.autograd.graph.saved_tensors_hooks(kept.keep, kept.give):
            try:
                for start in (0.0, *learner.phases):
                    learner.progress = start
                    learner.outer_step(source)
            except (NotImplementedError, RuntimeError):  # reads a value, of which there is none on this device
                learner.backbone(source.all_images()).sum()
    return _COPIES_OF_WEIGHTS * weights + kept.peak + _LARGEST_AT_ONCE * kept.largest


def largest_bytes(space: SearchSpace, *, spec: EpisodeSpec, image_shape: Shape, train_classes: int) -> int:
    """Bytes of the space's largest candidate, as far as a search of one parameter after the other finds it.

    About 30 steps without content: 5 s for the default space.
    """

    def size(values: dict[str, Scalar]) -> int:
        try:
            tried = candidate(TrialConfig(values=values))
            return step_bytes(tried, spec=spec, image_shape=image_shape, train_classes=train_classes)
        except ConfigError:  # parts that do not go together
            return 0

    best = _completed(space, {})
    largest = size(best)
    for parameter in space:
        if parameter.name not in best or parameter.name in _WITHOUT_MEMORY:
            continue
        for value in telling_values(parameter):
            found = _completed(space, best | {parameter.name: value})
            if found != best and (needed := size(found)) > largest:
                best, largest = found, needed
    return largest


def _completed(space: SearchSpace, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The values with, for each active parameter that is missing, the greatest number or the first word."""
    found: dict[str, Scalar] = {}
    for parameter in space:
        if parameter.is_active(found):
            found[parameter.name] = values.get(parameter.name, _greatest(telling_values(parameter)))
    return found


def _greatest(values: Sequence[Scalar]) -> Scalar:
    return values[0] if isinstance(values[0], str) else max(values)


def trials_at_once(largest: int, *, resident: int, gpu_bytes: int) -> int:
    """How many trials of at most `largest` bytes a step share a GPU; each also holds `resident` bytes of images."""
    each = _SAFETY * largest + resident + _CONTEXT_BYTES
    return max(1, min(_MOST_TRIALS, int(gpu_bytes / each)))


class _Kept:
    """What autograd keeps at once, in bytes: views of one storage count once, and what was freed does not."""

    def __init__(self) -> None:
        self.now = self.peak = self.largest = 0
        self._holders: Counter[int] = Counter()
        self._storages: dict[int, torch.UntypedStorage] = {}

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # On the meta device all addresses are zero; torch keeps one object for each storage while the object is held.
        key, size = id(self._storages.setdefault(id(storage), storage)), storage.nbytes()
        self._holders[key] += 1
        if self._holders[key] == 1:
            self.now += size
            self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        kept = tensor.detach()
        weakref.finalize(kept, self._free, key, size)
        return kept

    def give(self, kept: Tensor) -> Tensor:
        return kept

    def _free(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self.now -= size


class _MetaSource:
    """Training data of the right shapes, without content."""

    def __init__(self, how: Sampling, spec: EpisodeSpec, image_shape: Shape, train_classes: int) -> None:
        self._batch = how.episodes_per_step
        self._spec = how.episodes(spec, train_classes)
        self._shape = image_shape

    def episodes(self) -> EpisodeBatch:
        way = self._spec.way
        support, query = way * self._spec.shot, way * self._spec.query
        return EpisodeBatch(
            support_x=torch.zeros(self._batch, support, *self._shape, device="meta"),
            support_y=torch.zeros(self._batch, support, dtype=torch.int64, device="meta"),
            query_x=torch.zeros(self._batch, query, *self._shape, device="meta"),
            query_y=torch.zeros(self._batch, query, dtype=torch.int64, device="meta"),
            way=way,
        )

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, *self._shape, device="meta"), torch.zeros(count, dtype=torch.int64, device="meta")

    def all_images(self) -> Tensor:
        """All images of a step in one batch, for a learner that cannot do a step without content."""
        episodes = self.episodes()
        return torch.cat([episodes.support_x, episodes.query_x], 1).flatten(0, 1)
