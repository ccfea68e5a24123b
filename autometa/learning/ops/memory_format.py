"""How maps [M, C, H, W] lie in memory: channels innermost, as kernels and tensor cores want them."""

from __future__ import annotations

import torch
from torch import Tensor

from autometa.learning.ops.torch_private import is_transformed


def channels_last(images: Tensor) -> Tensor:
    """The same images [M, C, H, W] with channels innermost, and strides that say so where there is one channel.

    As they are under `torch.func`, which cannot ask for it.
    """
    if is_transformed(images):
        return images
    if images.shape[1] > 1:
        return images.contiguous(memory_format=torch.channels_last)
    count, _, height, width = images.shape
    return images.reshape(count, height, width, 1).contiguous().permute(0, 3, 1, 2)  # they may be turned


def rows_of(maps: Tensor) -> Tensor:
    """Maps [M, C, H, W] as [M, H, W, C], contiguous."""
    return maps.permute(0, 2, 3, 1).contiguous()


def empty_like(maps: Tensor) -> Tensor:
    """Uninitialised maps of this shape, channels last."""
    count, channels, height, width = maps.shape
    return maps.new_empty(count, height, width, channels).permute(0, 3, 1, 2)
