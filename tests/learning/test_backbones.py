"""Backbones: image sizes, numbers of weights as published, and what each is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
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
from autometa.learning.backbones.timm_model import TimmModel
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.normalization import Layout
from autometa.records import TrialConfig
from autometa.space.files import load_space
from autometa.testing import check_backbone
from autometa.trial import build
from autometa.trial.abilities import is_external
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
        (lambda s: TimmModel((2, 8, 8)), "timm: images must have 1 or 3 channels, but these have 2"),
        (lambda s: TimmModel(s, model="hf-hub:a/b"), "timm.model = 'hf-hub:a/b': it must be a name"),
        (lambda s: TimmModel(s, image_size=-1), "timm.image_size = -1: it may be 0 (the weights' own) … 1024"),
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


class TinyNet(nn.Module):
    """Stands for a model of timm: what it gives has four dimensions, or three as those of a transformer."""

    num_prefix_tokens = 1

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.output_fmt = "NHWC" if kind == "last" else "NCHW"
        self.conv, self.norm = nn.Conv2d(3, 6, 2, stride=2), nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.kind == "maps":
            return self.drop(x)
        if self.kind == "last":
            return x.permute(0, 2, 3, 1)
        return F.pad(x.flatten(2).mT, (0, 0, 1, 0))


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A package of that name whose models are `TinyNet`; gives what it was asked for."""
    asked = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append(options)
        if name not in ("maps", "last", "tokens"):
            raise RuntimeError(f"Unknown model ({name})")
        return TinyNet(name)

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    return asked


@pytest.mark.parametrize(
    ("model", "shape", "size", "maps"),
    [
        ("maps", (3, 8, 8), 8, (6, 4, 4)),
        ("maps", (1, 9, 12), 18, (6, 9, 9)),
        ("last", (1, 8, 8), 20, (6, 10, 10)),
        ("tokens", (3, 8, 12), 16, (6, 8, 8)),
        ("maps", (3, 8, 12), 0, (6, 112, 112)),
    ],
)
def test_a_timm_model_gives_maps(
    fake_timm: list[dict[str, Any]], model: str, shape: Shape, size: int, maps: Shape
) -> None:
    backbone = TimmModel(shape, model=model, weights="none", image_size=size)
    assert backbone.map_shape == maps
    assert backbone.maps(torch.randn(2, *shape)).shape == (2, *maps)
    assert backbone(torch.randn(2, *shape)).shape == (2, 6)


def test_a_timm_model_gets_the_images_that_its_weights_expect(
    fake_timm: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3), "input_size": (3, 12, 12), "interpolation": "bilinear"}
    monkeypatch.setattr(TinyNet, "pretrained_cfg", config, raising=False)
    backbone = TimmModel((1, 12, 12), model="maps", weights="none")
    backbone.normalised_by([0.25], [0.5])
    pixels = torch.rand(2, 1, 12, 12)
    found = backbone.prepared((pixels - 0.25) / 0.5)
    expected = (pixels - torch.tensor(config["mean"])[:, None, None]) / torch.tensor(config["std"])[:, None, None]
    torch.testing.assert_close(found, expected)
    assert (backbone.given.size, backbone.given.interpolation) == (12, "bilinear")


@pytest.mark.parametrize("frozen", [True, False])
def test_images_of_a_timm_model_leave_each_other_alone_in_training_too(
    fake_timm: list[dict[str, Any]], frozen: bool
) -> None:
    backbone = TimmModel((1, 8, 8), model="tokens", weights="none", frozen=frozen, image_size=8).train()
    images = torch.randn(3, 1, 8, 8)
    before = backbone(images)
    torch.testing.assert_close(backbone(torch.cat([images[:1], 5 * images[1:]]))[:1], before[:1])
    assert backbone.network.norm.num_batches_tracked == 0


def test_a_frozen_timm_model_learns_only_scale_and_shift(fake_timm: list[dict[str, Any]]) -> None:
    frozen = TimmModel((3, 8, 8), model="maps", weights="none", frozen=True, image_size=8).train()
    images = torch.randn(2, 3, 8, 8)
    assert [name for name, _ in frozen.named_parameters()] == ["scale.weight", "scale.bias"]
    assert {"network.conv.weight", "network.norm.bias"} <= set(frozen.state_dict())
    torch.testing.assert_close(frozen(images), frozen(images))  # no dropout
    learned = TimmModel((3, 8, 8), model="maps", weights="none", frozen=False, image_size=8).train()
    assert len(list(learned.parameters())) == 6
    assert not torch.allclose(learned(images), learned(images))


@pytest.mark.parametrize(("options", "external"), [({}, True), ({"timm.weights": "none"}, False)])
def test_a_backbone_says_that_its_weights_are_from_elsewhere_as_its_name_does(
    fake_timm: list[dict[str, Any]], options: dict[str, Any], external: bool
) -> None:
    values = {"backbone": "timm", "timm.model": "maps", **options}
    learner = build.candidate(TrialConfig(values=values)).build(image_shape=(3, 8, 8), way=5, train_classes=8)
    assert learner.backbone.external is is_external(values) is external
    assert not is_external({"backbone": "conv", **options})


def test_weights_of_a_timm_model_are_never_pickles(fake_timm: list[dict[str, Any]], tmp_path: Any) -> None:
    file = tmp_path / "tiny.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for weights in ("hub", "none", str(file)):
        TimmModel((3, 8, 8), model="maps", weights=weights)
    hub, none, local = fake_timm
    assert hub["pretrained_cfg_overlay"]["hf_hub_filename"].endswith(".safetensors")
    assert none["pretrained"] is False
    assert local["pretrained"]
    assert local["pretrained_cfg_overlay"] == {"file": str(file)}
    for weights, says in (("w.pth", "hub | none | a .safetensors file"), ("w.safetensors", "no such file")):
        with pytest.raises(ConfigError, match=f"timm.weights = '{weights}': .*{says.replace('|', '[|]')}"):
            TimmModel((3, 8, 8), model="maps", weights=weights)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_timm_model_keeps_what_every_backbone_promises(fake_timm: list[dict[str, Any]], frozen: bool) -> None:
    check_backbone(TimmModel, image_shape=(3, 8, 8), model="maps", weights="none", frozen=frozen, image_size=8)


def test_a_check_of_a_space_fetches_no_weights(fake_timm: list[dict[str, Any]]) -> None:
    with torch.device("meta"):
        assert TimmModel((3, 8, 8), model="maps", weights="hub").features == 6
    assert fake_timm[0]["pretrained"] is False


def test_what_timm_refuses_becomes_one_line(fake_timm: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"timm.model = 'nothing', timm.weights = 'none': Unknown model \(nothing\)"):
        TimmModel((3, 8, 8), model="nothing", weights="none")
    with pytest.raises(ConfigError, match=r"images 1 x 1: .*; timm.image_size sets another size"):
        TimmModel((3, 8, 8), model="maps", weights="none", image_size=1)


def test_without_timm_the_message_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'autometa-search\[timm\]'"):
        TimmModel((3, 8, 8))


def test_a_timm_that_cannot_be_loaded_is_told_from_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="timm is installed but cannot be loaded: operator torchvision::nms"):
        TimmModel((3, 8, 8))


def real_timm() -> ModuleType:
    try:
        import timm
    except Exception as error:
        pytest.skip(f"timm cannot be loaded here: {error}")
    return timm


@pytest.mark.parametrize("model", ["resnet10t", "test_vit", "test_convnext"])
def test_a_real_timm_model_has_second_derivatives(model: str) -> None:
    real_timm()
    backbone = TimmModel((1, 28, 28), model=model, weights="none", frozen=False, image_size=160)
    weights = list(backbone.parameters())
    first = torch.autograd.grad(backbone(torch.randn(2, 1, 28, 28)).square().mean(), weights, create_graph=True)
    assert len(torch.autograd.grad(sum(g.square().sum() for g in first), weights, allow_unused=True)) == len(weights)


def test_a_file_of_real_timm_weights_is_loaded(tmp_path: Any) -> None:
    network = real_timm().create_model("resnet10t", num_classes=7).eval()
    save_file(network.state_dict(), tmp_path / "r.safetensors")
    backbone = TimmModel((3, 64, 64), model="resnet10t", weights=str(tmp_path / "r.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    torch.testing.assert_close(backbone(images), expected, atol=1e-5, rtol=1e-4)
