"""How maps lie in memory."""

from __future__ import annotations

import torch

from autometa.learning.ops.memory_format import channels_last


def test_one_channel_has_strides_of_channels_last() -> None:
    images = torch.randn(4, 1, 6, 5)
    same = channels_last(images)
    assert torch.equal(same, images)
    assert same.stride() == (30, 1, 5, 1)
