"""Backbones: image sizes, numbers of weights as published, and what each is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.backbones.blocks import Blocks
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.resnet18 import ResNet18
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.normalization import Layout
from autometa.space.files import load_space
from autometa.trial.check import check_space

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 84, 84), (2, 12, 20)]
Make = Callable[..., Backbone]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def blocks_of(kind: str) -> Make:
    options: dict[str, Any] = {f"block{i}": kind for i in range(1, 5)}
    options |= {"width1": 6, "width2": 8, "width3": 16, "width4": 12, "depth2": 2, "kernel1": 5, "attention2": True}
    return lambda shape, **more: Blocks(shape, **{**options, "attention1": True, **more})


SMALL: dict[str, Make] = {
    "conv": lambda shape, **more: Conv(shape, depth=4, width=8, **more),
    "conv mean": lambda shape, **more: Conv(shape, depth=3, width=8, pooling="mean", readout="mean", **more),
    "conv R2-D2": lambda shape, **more: Conv(shape, widths="8-16-24", joined_blocks=2, **more),
    "conv relation": lambda shape, **more: Conv(shape, depth=3, width=8, pooled_blocks=2, **more),
    "resnet12": lambda shape, **more: ResNet12(shape, width=4, wide=True, drop_rate=0.2, drop_block=3, **more),
    "resnet18": lambda shape, **more: ResNet18(shape, width=4, drop_rate=0.2, **more),
    "wrn": lambda shape, **more: WideResNet(shape, depth=16, factor=1, drop_rate=0.3, **more),
    "mlp": lambda shape, **more: Mlp(shape, depth=3, width=24, drop_rate=0.1, **more),
    **{f"blocks {kind}": blocks_of(kind) for kind in ("plain", "residual", "depthwise", "convnext")},
}


def small_vit(shape: Shape, **more: Any) -> Backbone:
    patch = 4 if shape[1] < 64 else 12
    return ViT(shape, **{"patch": patch, "dim": 12, "depth": 2, "heads": 3, "mlp_ratio": 1.5, "drop_rate": 0.1, **more})


ALL = {**SMALL, "vit": small_vit}


def parameters(make: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_backbones_take_any_image_size_and_say_what_comes_out(name: str, shape: Shape) -> None:
    with torch.device("meta"):
        backbone = ALL[name](shape)
        images = torch.empty(3, *shape)
        assert backbone.maps(images).shape == (3, *backbone.map_shape)
        assert backbone(images).shape == (3, backbone.features)


@pytest.mark.parametrize(
    ("make", "published"),
    [
        (lambda: Conv((3, 32, 32), depth=4, width=64), 113e3),  # Snell et al. 2017, as counted by Chen et al. 2019
        (lambda: ResNet12((3, 32, 32)), 8.0e6),  # Tian et al. 2020
        (lambda: ResNet12((3, 84, 84), wide=True), 12.4e6),  # Lee et al. 2019
        (lambda: ResNet18((3, 32, 32)), 11.17e6),
        (lambda: ResNet18((3, 224, 224)), 11.69e6 - 513e3),  # torchvision's, less its head of 1000 classes
        (lambda: WideResNet((3, 32, 32)), 36.48e6 - 6410),  # Zagoruyko & Komodakis 2016, less its head
        (lambda: WideResNet((3, 32, 32), depth=16, factor=4), 2.75e6),  # their table 4: 2.8 M
        (lambda: Blocks((3, 32, 32)), 113e3),  # Conv4-64 is its default
    ],
)
def test_sizes_are_as_published(make: Callable[[], nn.Module], published: float) -> None:
    assert parameters(make) == pytest.approx(published, rel=2e-3)


def test_a_vision_transformer_has_the_parts_of_the_paper() -> None:
    dim, depth, hidden, patches = 192, 12, 768, 14 * 14  # ViT-Ti/16 (Touvron et al. 2021) without class token and head
    norm, linear = 2 * dim, lambda i, o: i * o + o
    layer = 2 * norm + dim * 3 * dim + linear(dim, dim) + linear(dim, hidden) + linear(hidden, dim)
    made = parameters(lambda: ViT((3, 224, 224), patch=16, dim=dim, depth=depth, heads=3, mlp_ratio=4))
    assert made == linear(3 * 16 * 16, dim) + patches * dim + depth * layer + norm


@pytest.mark.parametrize("name", SMALL)
def test_support_statistics_come_from_the_layout(name: str) -> None:
    backbone = SMALL[name]((2, 8, 8), norm="support").eval()
    images = torch.randn(5, 2, 8, 8)
    others = torch.cat([torch.randn(3, 2, 8, 8), images[3:]])
    layout = Layout(tasks=1, support=3)
    assert not torch.allclose(backbone(images, layout)[3:], backbone(others, layout)[3:])


@pytest.mark.parametrize("name", ["vit", "blocks convnext"])
def test_second_derivatives_are_right(name: str) -> None:
    shape = (1, 4, 4)
    options = {"dim": 4, "heads": 2, "depth": 1, "drop_rate": 0.0, "patch": 2} if name == "vit" else {"norm": "group"}
    backbone = ALL[name](shape, **options).double().eval()
    images = torch.randn(2, *shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: backbone(x).square().sum(), images)


@pytest.mark.parametrize("name", ["resnet12", "resnet18", "wrn", "mlp", "vit"])
def test_dropout_ends_with_training(name: str) -> None:
    backbone, images = ALL[name]((1, 8, 8)), torch.randn(4, 1, 8, 8)
    assert not torch.allclose(backbone(images), backbone(images))
    backbone.eval()
    torch.testing.assert_close(backbone(images), backbone(images))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda s: Conv(s, pooling="avg"), "conv.pooling = 'avg': it may be max | mean"),
        (lambda s: Conv(s, widths="16-x"), "conv.widths = '16-x': 1 … 8 numbers of 1 … 1024 are needed"),
        (lambda s: Conv(s, widths="16--32"), "conv.widths = '16--32': 1 … 8 numbers"),
        (lambda s: Conv(s, widths=16), "conv.widths = 16: 1 … 8 numbers"),
        (lambda s: Conv(s, growth=0.5), "conv.growth = 0.5: it may be 1 … 4"),
        (
            lambda s: Conv(s, width=512, depth=8, growth=2),
            "conv.growth = 2: the last of 8 blocks would have 65536 channels",
        ),
        (lambda s: Conv(s, widths="8-8", joined_blocks=3), "conv.joined_blocks = 3: it may be 1 … 2, the blocks"),
        (lambda s: Conv(s, pooled_blocks=5), "conv.pooled_blocks = 5: it may be 0 … 4, the blocks there are"),
        (lambda s: ResNet18(s, width=0), "resnet18.width = 0: it may be 1 … 512"),
        (lambda s: ResNet18(s, drop_rate=1.0), "resnet18.drop_rate = 1.0: it must be in [0, 1)"),
        (lambda s: WideResNet(s, depth=27), "wrn.depth = 27: it must be 6n + 4"),
        (lambda s: WideResNet(s, depth=4), "wrn.depth = 4: it must be 6n + 4"),
        (lambda s: WideResNet(s, factor=17), "wrn.factor = 17: it may be 1 … 16"),
        (lambda s: ViT(s, patch=16), "vit.patch = 16: must divide the image's sides (8 x 8)"),
        (lambda s: ViT((1, 64, 64), patch=2), "vit.patch = 2: makes 1024 tokens of 64 x 64, more than 256"),
        (lambda s: ViT(s, dim=50, heads=4), "vit.heads = 4: it must divide vit.dim = 50"),
        (lambda s: ViT(s, mlp_ratio=0), "vit.mlp_ratio = 0: it must be in (0, 8]"),
        (lambda s: Mlp(s, depth=0), "mlp.depth = 0: it may be 1 … 16"),
        (lambda s: Mlp(s, drop_rate=-0.1), "mlp.drop_rate = -0.1: it must be in [0, 1)"),
        (lambda s: Blocks(s, stages=5), "blocks.stages = 5: it may be 1 … 4"),
        (lambda s: Blocks(s, width3=0), "blocks.width3 = 0: it may be 1 … 1024"),
        (lambda s: Blocks(s, kernel2=4), "blocks.kernel2 = 4: it may be 3 | 5"),
        (lambda s: Blocks(s, block4="dense"), "blocks.block4 = 'dense': it may be plain | residual | depthwise"),
        (lambda s: Blocks(s, depth1=9), "blocks.depth1 = 9: it may be 1 … 8"),
        (lambda s: Blocks(s, pooling="none"), "blocks.pooling = 'none': it may be max | mean"),
    ],
)
def test_an_option_out_of_range_is_named(make: Make, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make((1, 8, 8))
    assert str(caught.value).startswith(says)


def conv_by_hand(conv: Conv, images: Tensor, halving: int) -> list[Tensor]:
    """The maps of every block, of torch's own layers, of which the first `halving` pool."""
    maps = []
    for number, block in enumerate(conv.blocks):
        images = F.conv2d(images, block.conv.weight, padding=1)
        images = F.relu(F.batch_norm(images, None, None, block.norm.weight, block.norm.bias, training=True))
        images = F.max_pool2d(images, 2) if number < halving else images
        maps.append(images)
    return maps


@pytest.mark.parametrize("width", [6, 16])  # those of sixteen take the compiled kernels where there are any
def test_the_features_of_r2d2_are_those_of_the_last_two_blocks(width: int) -> None:
    conv = Conv((3, 32, 32), widths=f"{width}-{2 * width}-{4 * width}-{5 * width}", joined_blocks=2)
    images = torch.randn(4, 3, 32, 32)
    _, _, third, fourth = conv_by_hand(conv, images, 4)
    assert third.shape[1:] == (4 * width, 4, 4)
    features = conv(images)
    torch.testing.assert_close(features, torch.cat([third.flatten(1), fourth.flatten(1)], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conv.maps(images), fourth, rtol=1e-4, atol=1e-5)
    mean = Conv((3, 32, 32), widths="4-6", joined_blocks=2, readout="mean")
    assert mean(images).shape == (4, 10)


def test_channels_grow_from_block_to_block() -> None:
    torch.manual_seed(0)
    grown = Conv((3, 32, 32), depth=3, width=8, growth=2, readout="mean")
    torch.manual_seed(0)
    written_out = Conv((3, 32, 32), widths="8-16-32", readout="mean")
    images = torch.randn(4, 3, 32, 32)
    assert grown.features == 32
    torch.testing.assert_close(grown(images), written_out(images))


@pytest.mark.parametrize("width", [6, 16])
def test_a_relation_networks_maps_are_halved_twice(width: int) -> None:
    conv = Conv((3, 32, 32), depth=4, width=width, pooled_blocks=2)
    images = torch.randn(4, 3, 32, 32)
    assert conv.map_shape == (width, 8, 8)
    torch.testing.assert_close(conv.maps(images), conv_by_hand(conv, images, 2)[-1], rtol=1e-4, atol=1e-5)


def test_r2d2s_network_has_the_channels_of_the_paper() -> None:
    """Bertinetto et al. 2019: 96, 192, 384 and 512 filters, the last two blocks flattened and put together."""
    with torch.device("meta"):
        conv = Conv((1, 28, 28), widths="96-192-384-512", joined_blocks=2)
    assert [block.conv.out_channels for block in conv.blocks] == [96, 192, 384, 512]
    assert conv.features == 384 * 3 * 3 + 512 * 1 * 1


def test_mean_pooling_comes_after_relu() -> None:
    conv = Conv((3, 6, 6), depth=1, width=5, pooling="mean", norm="none")
    images = torch.randn(2, 3, 6, 6)
    block = conv.blocks[0]
    expected = F.relu(block.norm(block.conv(images))).unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    torch.testing.assert_close(conv.maps(images), expected)


def test_resnet18_halves_large_images_twice_more() -> None:
    with torch.device("meta"):
        sides = {side: ResNet18((3, side, side), width=2).map_shape[1:] for side in (32, 48, 49, 84, 224)}
    assert sides == {32: (4, 4), 48: (6, 6), 49: (2, 2), 84: (3, 3), 224: (7, 7)}


def test_a_vision_transformer_knows_patches_by_their_positions_alone() -> None:
    vit = small_vit((2, 8, 12), drop_rate=0.0).eval()
    order = torch.randperm(6)
    patches = F.unfold(torch.randn(3, 2, 8, 12), 4, stride=4)  # (M, C · 4 · 4, T)
    images, shuffled = (F.fold(p, (8, 12), 4, stride=4) for p in (patches, patches[..., order]))
    maps = vit.maps(images).flatten(2)
    moved = vit.maps(shuffled).flatten(2)
    assert not torch.allclose(moved, maps[..., order], atol=1e-4)
    weights = {"positions": vit.positions[order]}
    with_positions = functional_call(vit, weights, (shuffled,))
    torch.testing.assert_close(with_positions, vit(images))


def test_the_attention_of_a_vision_transformer_is_that_of_torch() -> None:
    layer = small_vit((2, 8, 8)).layers[0]
    tokens = torch.randn(2, 5, 12)
    query, key, value = (p.unflatten(2, (3, 4)).transpose(1, 2) for p in layer.query_key_value(tokens).chunk(3, -1))
    expected = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer._attended(tokens), expected)


def test_a_vision_transformer_is_the_same_with_and_without_gradients() -> None:
    vit, images = small_vit((2, 12, 20)).eval(), torch.randn(3, 2, 12, 20)
    with torch.no_grad():
        fused = vit(images)
    torch.testing.assert_close(vit(images), fused)


def test_images_of_a_vision_transformer_leave_each_other_alone() -> None:
    vit, images = small_vit((1, 8, 8), drop_rate=0.0), torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(vit(images)[1:2], vit(images[1:2]))


def test_the_default_blocks_compute_conv4() -> None:
    conv, blocks = Conv((3, 16, 16), width=64), Blocks((3, 16, 16))
    blocks.load_state_dict(dict(zip(blocks.state_dict(), conv.state_dict().values(), strict=True)))
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(blocks(images), conv(images))


def test_a_convnext_block_without_its_scale_passes_images_through() -> None:
    backbone = blocks_of("convnext")((1, 8, 8), stages=1)
    block = backbone.stages[0][0]
    maps = torch.randn(2, 6, 8, 8)
    assert not torch.allclose(block(maps, None), maps)
    nn.init.zeros_(block.scale)
    torch.testing.assert_close(block(maps, None), maps)


def test_attention_weighs_channels_between_zero_and_one() -> None:
    attention = blocks_of("plain")((1, 8, 8), stages=1).stages[0][0].attention
    maps = torch.rand(3, 6, 5, 5) + 0.1
    weights = attention(maps) / maps
    assert ((weights > 0) & (weights < 1)).all()
    torch.testing.assert_close(weights.std((2, 3)), torch.zeros(3, 6))


def test_later_stages_play_no_part() -> None:
    assert parameters(lambda: Blocks((1, 8, 8), stages=2, block3="residual", width4=0)) == parameters(
        lambda: Blocks((1, 8, 8), stages=2)
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)], ids=str)
def test_the_space_of_architectures_fits_images_of_any_size(shape: Shape) -> None:
    check_space(load_space("architecture"), shape)
