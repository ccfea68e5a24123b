"""A task as it is deployed: classes by their labelled images, a learner that tells them apart, images to name."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch, KnownRows
from autometa.data.image_pool import Normaliser
from autometa.deployment.calibration import shots_of
from autometa.errors import ConfigError
from autometa.learning.device import is_out_of_memory
from autometa.learning.features import rows_of_images
from autometa.learning.learner import Learner

# Query images that are scored with the support set at once, or as many as that has.
_AT_ONCE = 256


class Task:
    """N classes with M labelled images in all.

    Args:
        support: uint8 [M, C, H, W], class by class.
        shots: of each class, N numbers of at least 1.
        normalise: as the learner was trained.
        rows: what frozen networks say of the labelled images, [M, W] by key, where that is known.
    """

    def __init__(
        self,
        learner: Learner,
        support: Tensor,
        shots: Sequence[int],
        normalise: Normaliser,
        device: torch.device,
        rows: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.learner = learner
        self._shots = list(shots)
        self._normalise = normalise
        self._device = device
        self._known_rows = rows
        self._support = normalise(support.to(device))[None]
        self._labels = torch.arange(len(self._shots)).repeat_interleave(torch.tensor(self._shots)).to(device)[None]

    @functools.cached_property
    def _support_rows(self) -> Mapping[str, Tensor]:
        return rows_of_images(self.learner, self._support[0]) if self._known_rows is None else self._known_rows

    @property
    def at_once(self) -> int:
        """How many images to name at a time."""
        return max(_AT_ONCE, self._support.shape[1])

    def episode(self, images: Tensor, rows: Mapping[str, Tensor] | None = None) -> EpisodeBatch:
        """One episode with uint8 images [Q, C, H, W] to name, whose labels are not known; `rows` as of the others."""
        query = self._normalise(images.to(self._device))[None]
        found = rows_of_images(self.learner, query[0]) if rows is None else rows
        known = {key: (of[None], found[key][None]) for key, of in self._support_rows.items()}
        return EpisodeBatch(
            support_x=self._support,
            support_y=self._labels,
            query_x=query,
            query_y=torch.zeros(1, len(images), dtype=torch.int64, device=self._device),
            way=len(self._shots),
            shots=shots_of(self._shots),
            known=KnownRows(self._support, query, known) if known else None,
        )

    @torch.no_grad()
    def logits(self, episode: EpisodeBatch) -> Tensor:
        """Scores of its query images, [Q, N].

        Raises:
            ConfigError: the labelled images do not fit the memory, or the learner cannot take so many classes.
        """
        try:
            return self.learner.query_logits(episode)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        raise ConfigError(
            f"{self._support.shape[1]} labelled images do not fit the memory with this model: give fewer per class"
        )
