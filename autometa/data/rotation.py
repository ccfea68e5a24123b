"""Quarter turns of image batches, each image by its own number of turns."""

from __future__ import annotations

import torch
from torch import Tensor

from autometa.errors import DataError

TURNS = 4  # quarter turns until an image is itself again


def rotated(images: Tensor, quarter_turns: Tensor) -> Tensor:
    """Images [M, C, H, W] rotated counter-clockwise by their own number of quarter turns [M].

    Raises:
        DataError: the images are not square, so that a quarter turn would change their shape.
    """
    require_square(images.shape[-2], images.shape[-1])
    places = torch.arange(images.shape[-2] * images.shape[-1], device=images.device).view(images.shape[-2:])
    origin = torch.stack([places.rot90(turn).flatten() for turn in range(TURNS)])  # (4, H·W), where a pixel comes from
    chosen = origin[quarter_turns.to(images.device) % TURNS]  # (M, H·W)
    return images.flatten(2).gather(2, chosen[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


def require_square(height: int, width: int) -> None:
    """Raise `DataError` unless images of these sides can be rotated."""
    if height != width:
        raise DataError(f"images of {height} × {width} pixels cannot be rotated by quarter turns: they must be square")
