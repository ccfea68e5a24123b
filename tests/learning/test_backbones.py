"""Backbones: shapes and options."""

from __future__ import annotations

import pytest
import torch

from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 84, 84)])
def test_backbones_take_any_image_size_and_say_how_many_features(shape: tuple[int, int, int]) -> None:
    for backbone in (Conv(shape, depth=4, width=8), ResNet12(shape, width=4, wide=True, drop_rate=0.2, drop_block=3)):
        assert backbone(torch.randn(3, *shape)).shape == (3, backbone.features)
