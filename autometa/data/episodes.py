"""Episodes: N-way K-shot tasks gathered on the device by index, without a DataLoader or a loop over images.

Symbols: B episodes, N way, K shot, Q query images a class, M images, C H W of an image. It does not know
what is learned from them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.image_pool import ImagePool
from autometa.data.rotation import TURNS, require_square, rotated
from autometa.records import EpisodeSpec

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class KnownRows:
    """What frozen networks say of the images of episodes, without another look at them.

    Attributes:
        support_x, query_x: the very tensors of images that it is said of.
        rows: support [B, N·K, W] and query [B, N·Q, W] by a network's key.
    """

    support_x: Tensor
    query_x: Tensor
    rows: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes of one shape. Class-major: support image i of an episode is of class i // K.

    `classes` says which classes of their split the N are, where that is known. `shots` is the number of
    support images of each class where it differs between classes: the first `shots[0]` are of class 0, and so on.
    Query images may then be of any number.
    """

    support_x: Tensor  # (B, N·K, C, H, W), normalised
    support_y: Tensor  # (B, N·K), 0 … N-1
    query_x: Tensor  # (B, N·Q, C, H, W)
    query_y: Tensor  # (B, N·Q)
    way: int
    classes: Tensor | None = None  # (B, N)
    shots: tuple[int, ...] | None = None  # N numbers of at least 1
    known: KnownRows | None = None

    def rows_of(self, network: str) -> tuple[Tensor, Tensor] | None:
        """What a frozen network says of support [B, N·K, W] and query images [B, N·Q, W], where that is known.

        Of images that were changed since they were drawn, nothing is known.

        Args:
            network: its key.
        """
        known = self.known
        if known is None or known.support_x is not self.support_x or known.query_x is not self.query_x:
            return None
        return known.rows.get(network)

    @property
    def batch(self) -> int:
        """B."""
        return self.support_x.shape[0]

    @property
    def shot(self) -> int:
        """K, which is the same for all classes."""
        assert self.shots is None
        return self.support_x.shape[1] // self.way

    @property
    def query(self) -> int:
        """Q."""
        return self.query_x.shape[1] // self.way

    def episode(self, index: int) -> EpisodeBatch:
        """Episode `index` alone, B = 1."""
        return self._part(slice(index, index + 1))

    def split(self, most: int) -> Iterator[EpisodeBatch]:
        """The episodes in their order, `most` at a time."""
        if most >= self.batch:
            yield self
            return
        for start in range(0, self.batch, most):
            yield self._part(slice(start, start + most))

    def _part(self, part: slice) -> EpisodeBatch:
        support_x, query_x = self.support_x[part], self.query_x[part]
        names = self.known.rows if self.known else ()
        known = {name: rows for name in names if (rows := self.rows_of(name))}
        return EpisodeBatch(
            support_x,
            self.support_y[part],
            query_x,
            self.query_y[part],
            self.way,
            self.classes[part] if self.classes is not None else None,
            self.shots,
            KnownRows(support_x, query_x, {n: (s[part], q[part]) for n, (s, q) in known.items()}) if known else None,
        )

    def of_images(self, support: Tensor, query: Tensor, **changes: Any) -> EpisodeBatch:
        """Episodes of some of the images, with what is known of them.

        Args:
            support, query: places of the images in this batch's episodes, [N·K] and [N·Q] of the new one.
            changes: its other fields that differ.
        """
        chosen = replace(self, support_x=self.support_x[:, support], query_x=self.query_x[:, query], **changes)
        names = self.known.rows if self.known else ()
        rows = {name: (of[0][:, support], of[1][:, query]) for name in names if (of := self.rows_of(name))}
        return replace(chosen, known=KnownRows(chosen.support_x, chosen.query_x, rows) if rows else None)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> EpisodeBatch:
        """The same episodes elsewhere, images in `dtype` if given."""
        return EpisodeBatch(
            self.support_x.to(device, dtype),
            self.support_y.to(device),
            self.query_x.to(device, dtype),
            self.query_y.to(device),
            self.way,
            self.classes,
            self.shots,
        )


class EpisodeSampler:
    """An endless stream of training episodes, and of plain training images, from one split.

    Args:
        spec: way, shot and query of each episode.
        batch: B.
        generator: draws classes and images where it is, and augments, so its state is all there is to save.
        augment: changes images [M, C, H, W] after they are gathered.
        rotations: a class turned by 90, 180 or 270 degrees is a class of its own, in episodes and in plain
            images, as Santoro et al. 2016 did with Omniglot. Images are turned after they are augmented. It is not
            for data sets whose classes already are rotations of each other, as our Omniglot and digits.

    Raises:
        DataError: the split has too few classes, or too few images in one, or `rotations` are asked of images
            that are not square.
    """

    def __init__(
        self,
        pool: ImagePool,
        spec: EpisodeSpec,
        *,
        batch: int,
        generator: torch.Generator,
        augment: Augment | None = None,
        rotations: bool = False,
    ) -> None:
        pool.dataset.require(pool.split, spec)
        if rotations:
            require_square(*pool.dataset.image_shape[1:])
        self.pool = pool
        self._spec = spec
        self._batch = batch
        self._generator = generator
        self._augment = augment
        self._turns = TURNS if rotations else 1
        self._images = int(pool.counts.sum())

    @property
    def dataset(self) -> FewShotDataset:
        """The data that it draws from."""
        return self.pool.dataset

    @property
    def feature_seconds(self) -> float:
        """As of its pool."""
        return self.pool.feature_seconds

    @property
    def images_of_a_step(self) -> int:
        """Images of the episodes of one outer step."""
        return self._batch * self._spec.way * (self._spec.shot + self._spec.query)

    @property
    def classes(self) -> int:
        """How many classes `images` draws from: those of the split, four times as many with rotations."""
        return self.pool.classes * self._turns

    def episodes(self) -> EpisodeBatch:
        """The next B episodes."""
        index, turns, classes = self._draw_episodes()
        changed = None
        if self._augment or self._turns > 1:
            changed = functools.partial(self._changed, turns=turns)
        return replace(_gathered(self.pool, self._spec, index, changed), classes=classes)

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` images [count, C, H, W] of any classes, each image equally likely, and their classes [count].

        With rotations, class c of the split turned by t quarter turns is class 4·c + t.
        """
        index, turns, classes = self._draw_plain(count)
        return self._changed(self.pool.gather(index), turns), classes.to(self.pool.device)

    def draws_like(self, other: EpisodeSampler) -> bool:
        """Whether both draw batches of one shape from the same images, so that they may draw together."""
        pools = [(s.pool.dataset.fingerprint, s.pool.split, s.pool.device) for s in (self, other)]
        return pools[0] == pools[1] and (self._spec, self._batch) == (other._spec, other._batch)

    def _draw_episodes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of images [B, N, K + Q], their quarter turns [B·N·(K + Q)], and the classes [B, N]."""
        classes = _draw_classes(self.classes, self._spec.way, self._batch, self._generator)  # (B, N)
        index = _draw_images(self.pool, self._spec, classes // self._turns, self._generator)
        return index, (classes % self._turns)[..., None].expand_as(index).flatten(), classes

    def _draw_plain(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Indices of images [count], their quarter turns and their classes."""
        flat = self._drawn(self._images, count)
        counts, table = self.pool.tables(flat.device)
        ends = counts.cumsum(0)
        classes = torch.searchsorted(ends, flat, right=True)
        index = table[classes, flat - (ends - counts)[classes]]
        turns = self._drawn(self._turns, count) if self._turns > 1 else torch.zeros_like(classes)
        return index, turns, classes * self._turns + turns

    def _drawn(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator, device=self._generator.device)

    def _changed(self, images: Tensor, turns: Tensor) -> Tensor:
        """Images [M, C, H, W] augmented, then rotated by their quarter turns [M]."""
        images = self._augment(images, self._generator) if self._augment else images
        return rotated(images, turns) if self._turns > 1 else images


def episodes_together(samplers: Sequence[EpisodeSampler]) -> EpisodeBatch:
    """What each sampler's next B episodes are, one sampler after the other, gathered at once.

    They must draw alike (`draws_like`); each uses its own generator.
    """
    drawn = [sampler._draw_episodes() for sampler in samplers]
    index = torch.cat([index for index, _, _ in drawn])
    turns = [turns for _, turns, _ in drawn]
    first = samplers[0]
    return _gathered(first.pool, first._spec, index, lambda images: _changed_by_each(samplers, images, turns))


def images_together(samplers: Sequence[EpisodeSampler], count: int) -> tuple[Tensor, Tensor]:
    """What each sampler's next `count` images are, and their classes, as `episodes_together`."""
    drawn = [sampler._draw_plain(count) for sampler in samplers]
    index, turns, classes = ([one[part] for one in drawn] for part in range(3))
    pool = samplers[0].pool
    images = _changed_by_each(samplers, pool.gather(torch.cat(index)), turns)
    return images, torch.cat(classes).to(pool.device)


def _changed_by_each(samplers: Sequence[EpisodeSampler], images: Tensor, turns: Sequence[Tensor]) -> Tensor:
    parts = images.chunk(len(samplers))
    changed = [sampler._changed(part, of_part) for sampler, part, of_part in zip(samplers, parts, turns, strict=True)]
    if all(new is part for new, part in zip(changed, parts, strict=True)):
        return images
    return torch.cat(changed)


def fixed_episodes(
    pool: ImagePool, spec: EpisodeSpec, *, count: int, seed: int, batch: int, first: int | None = None
) -> Iterator[EpisodeBatch]:
    """The same `count` episodes for the same seed, on every device and for every `batch`; or the `first` of them.

    Raises:
        DataError: the split has too few classes, or too few images in one.
    """
    index, classes = fixed_indices(pool, spec, count=count, seed=seed)
    for part, of_part in zip(index[:first].split(batch), classes[:first].split(batch), strict=True):
        yield replace(_gathered(pool, spec, part, None), classes=of_part)


def fixed_indices(pool: ImagePool, spec: EpisodeSpec, *, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images [count, N, K + Q] and classes [count, N] of `fixed_episodes`, by number.

    Raises:
        DataError: the split has too few classes, or too few images in one.
    """
    pool.dataset.require(pool.split, spec)
    generator = torch.Generator().manual_seed(seed)
    classes = _draw_classes(pool.classes, spec.way, count, generator)
    return _draw_images(pool, spec, classes, generator), classes


def draw_episodes(pool: ImagePool, spec: EpisodeSpec, count: int, generator: torch.Generator) -> Tensor:
    """Indices of images [count, N, K + Q]: classes without repetition, images of a class likewise."""
    return _draw_images(pool, spec, _draw_classes(pool.classes, spec.way, count, generator), generator)


def _draw_classes(classes: int, way: int, count: int, generator: torch.Generator) -> Tensor:
    """Classes [count, N], without repetition in a row."""
    return torch.rand(count, classes, generator=generator, device=generator.device).topk(way).indices


def _draw_images(pool: ImagePool, spec: EpisodeSpec, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of images [count, N, K + Q] of classes [count, N], without repetition in a row."""
    tables, labelled = pool.tables(classes.device), pool.tables_of_labelled(classes.device)
    if labelled is None:
        return _draw_of(tables, spec.shot + spec.query, classes, generator)
    support = _draw_of(labelled, spec.shot, classes, generator)
    return torch.cat([support, _draw_of(tables, spec.query, classes, generator)], -1)


def _draw_of(tables: tuple[Tensor, Tensor], number: int, classes: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of so many images [count, N, number] of classes [count, N].

    They recur only where a class has fewer, and there about equally often.
    """
    counts, table = tables
    have = counts[classes][..., None]
    width = max(number, table.shape[1])
    drawn = torch.rand((*classes.shape, width), generator=generator, device=classes.device)
    padding = torch.arange(width, device=classes.device) >= have.clamp(min=number)
    place = drawn.masked_fill_(padding, -1).topk(number, dim=-1).indices
    return table[classes[..., None], place % have]


def _gathered(
    pool: ImagePool, spec: EpisodeSpec, index: Tensor, change: Callable[[Tensor], Tensor] | None
) -> EpisodeBatch:
    """Episodes of images [B, N, K + Q], changed if asked; of images as they are the pool's features come along."""
    batch, way, _ = index.shape
    flat = index.reshape(-1)
    images = pool.gather(flat)
    split = (change(images) if change else images).unflatten(0, index.shape)
    labels = torch.arange(way, device=pool.device)
    support_x, query_x = _support_and_query(split, spec)
    rows = {} if change else pool.rows(flat)
    known = {key: _support_and_query(found.unflatten(0, index.shape), spec) for key, found in rows.items()}
    return EpisodeBatch(
        support_x=support_x,
        support_y=labels.repeat_interleave(spec.shot).expand(batch, -1),
        query_x=query_x,
        query_y=labels.repeat_interleave(spec.query).expand(batch, -1),
        way=way,
        known=KnownRows(support_x, query_x, known) if known else None,
    )


def _support_and_query(of_images: Tensor, spec: EpisodeSpec) -> tuple[Tensor, Tensor]:
    """Of [B, N, K + Q, ...] the parts [B, N·K, ...] and [B, N·Q, ...]."""
    return of_images[:, :, : spec.shot].flatten(1, 2), of_images[:, :, spec.shot :].flatten(1, 2)
