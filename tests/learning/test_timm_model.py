"""Models of the package timm: real ones, its smallest, with random weights that the package itself saves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Shape
from autometa.learning.backbones.timm_model import TimmModel
from autometa.records import TrialConfig
from autometa.testing import check_backbone
from autometa.trial.abilities import is_external
from autometa.trial.build import candidate

_OPERATORS = ("nms", "qnms")


def _timm() -> Any:
    """timm, which imports torchvision. Beside a torch of another build that loads once these operators have a name.

    They find overlapping boxes, which no model here does.
    """
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("timm", reason="pip install 'autometa-search[timm]'")


timm = _timm()

# Maps; maps whose channels are last; tokens after one of the class; tokens alone.
MODELS = ["test_resnet", "test_mambaout", "test_vit", "test_vit_relpos"]
SIZE = 160  # a transformer takes images of this size alone


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


def saved(model: str, folder: Path) -> tuple[Any, Path]:
    """A model of timm, and the folder where timm saved it."""
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=7).eval()
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return network, folder


def pooled(network: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What timm says of pixels in [0, 1], without a classifier: the mean over places."""
    network.reset_classifier(0, "")
    mean, std = (torch.tensor(network.pretrained_cfg[name])[:, None, None] for name in ("mean", "std"))
    found = network((pixels - mean) / std)
    if found.ndim == 3:
        return found[:, network.num_prefix_tokens :].mean(1)
    return found.mean((1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else (2, 3))


@pytest.mark.parametrize("is_folder", [True, False])
def test_features_are_what_timm_says_of_the_same_images(model: str, tmp_path: Path, is_folder: bool) -> None:
    network, folder = saved(model, tmp_path)
    weights = folder if is_folder else folder / "model.safetensors"
    backbone = TimmModel((3, SIZE, SIZE), model=model, weights=str(weights))
    pixels = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixels), pooled(network, pixels), atol=1e-5, rtol=1e-4)
    assert backbone.given.size == SIZE
    assert backbone.given.interpolation == network.pretrained_cfg["interpolation"]
    assert backbone.external


def test_images_are_those_that_the_weights_expect(model: str) -> None:
    backbone = TimmModel((1, 12, 12), model=model, weights="none")
    backbone.normalised_by([0.25], [0.5])
    pixels = torch.rand(2, 1, 12, 12)
    found = backbone.prepared((pixels - 0.25) / 0.5)
    assert found.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(found, backbone.prepared_pixels(pixels))
    says = timm.create_model(model).pretrained_cfg
    assert (tuple(backbone.given.mean), tuple(backbone.given.std)) == (says["mean"], says["std"])


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 9, 12)], ids=str)
def test_images_of_any_shape_give_maps(model: str, shape: Shape) -> None:
    backbone = TimmModel(shape, model=model, weights="none")
    images = torch.randn(2, *shape)
    assert backbone.maps(images).shape == (2, *backbone.map_shape)
    torch.testing.assert_close(backbone.maps(images).mean((2, 3)), backbone(images))


@pytest.mark.parametrize("size", [64, 96])
def test_a_convolutional_model_takes_another_resolution(size: int) -> None:
    backbone = TimmModel((3, 32, 32), model="test_resnet", weights="none", image_size=size)
    assert backbone.prepared(torch.rand(2, 3, 32, 32)).shape == (2, 3, size, size)
    assert backbone(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("frozen", [True, False])
def test_images_leave_each_other_alone_in_training_too(frozen: bool) -> None:
    backbone = TimmModel((1, 8, 8), model="test_resnet", weights="none", frozen=frozen, image_size=32).train()
    images = torch.randn(3, 1, 8, 8)
    before = backbone(images)
    torch.testing.assert_close(backbone(torch.cat([images[:1], 5 * images[1:]]))[:1], before[:1], atol=1e-5, rtol=1e-4)
    assert backbone.network.bn1.num_batches_tracked == 0


def test_of_a_frozen_model_only_scale_and_shift_are_learned() -> None:
    frozen = TimmModel((3, 8, 8), model="test_vit", weights="none").train()
    assert [name for name, _ in frozen.named_parameters()] == ["scale.weight", "scale.bias"]
    assert "network.blocks.0.norm1.weight" in frozen.state_dict()
    learned = TimmModel((3, 8, 8), model="test_vit", weights="none", frozen=False)
    assert len(list(learned.parameters())) == 2 + len(list(timm.create_model("test_vit", num_classes=0).parameters()))


@pytest.mark.parametrize("frozen", [True, False])
def test_it_keeps_what_every_backbone_promises(frozen: bool) -> None:
    check_backbone(
        TimmModel, image_shape=(3, 16, 16), model="test_resnet", weights="none", frozen=frozen, image_size=32
    )


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_weights_have_second_derivatives(model: str) -> None:
    backbone = TimmModel((1, 28, 28), model=model, weights="none", frozen=False)
    weights = list(backbone.parameters())
    first = torch.autograd.grad(backbone(torch.randn(2, 1, 28, 28)).square().mean(), weights, create_graph=True)
    assert len(torch.autograd.grad(sum(g.square().sum() for g in first), weights, allow_unused=True)) == len(weights)


@pytest.mark.parametrize(("weights", "external"), [("mine", True), ("none", False)])
def test_it_says_that_its_weights_are_from_elsewhere_as_its_name_does(
    tmp_path: Path, weights: str, external: bool
) -> None:
    folder = str(saved("test_resnet", tmp_path)[1])
    values = {"backbone": "timm", "timm.model": "test_resnet", "timm.weights": folder if external else weights}
    learner = candidate(TrialConfig(values=values)).build(image_shape=(3, 8, 8), way=5, train_classes=8)
    assert learner.backbone.external is is_external(values) is external
    assert (folder in learner.backbone.source) is external


def test_the_features_of_a_frozen_model_are_kept_by_its_weights_and_resolution(tmp_path: Path) -> None:
    folder = str(saved("test_resnet", tmp_path)[1])
    keys = [TimmModel((3, 8, 8), model="test_resnet", weights=folder, image_size=size).key for size in (64, 64, 96)]
    assert keys[0] == keys[1] != keys[2]


def test_weights_are_never_pickles(tmp_path: Path) -> None:
    _, folder = saved("test_resnet", tmp_path)
    file = folder / "model.safetensors"

    def refused(weights: str) -> str:
        with pytest.raises(ConfigError) as caught:
            TimmModel((3, 8, 8), model="test_resnet", weights=weights)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "it may be hub | none | a .safetensors file, or a folder with model.safetensors" in refused("w.pth")
    assert "no such file" in refused("w.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    assert f"timm.weights = {str(file)!r}" in refused(str(file))
    file.unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    assert f"{str(file)!r}: no such file" in refused(str(folder))


def test_a_check_of_a_space_fetches_no_weights() -> None:
    with torch.device("meta"):
        assert TimmModel((3, 8, 8), model="test_resnet", weights="hub").features == 96


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    """In a process of its own, since the hub's package reads its settings when it is imported."""
    code = f"from {__name__} import TimmModel; TimmModel((3, 8, 8), model='test_resnet')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].startswith("autometa.errors.ConfigError: timm.model = 'test_resnet'")


def test_what_cannot_be_made_is_told_in_one_line() -> None:
    for options, says in (
        ({"model": "nothing"}, r"timm.model = 'nothing', timm.weights = 'none': Unknown model \(nothing\)"),
        ({"model": "test_vit", "image_size": 8}, r"images 8 x 8: .*; timm.image_size sets another size"),
        ({"model": "hf-hub:a/b"}, "timm.model = 'hf-hub:a/b': it must be a name of timm.list_models"),
        ({"image_size": -1}, r"timm.image_size = -1: it may be 0 \(the weights' own\) … 1024"),
    ):
        with pytest.raises(ConfigError, match=says):
            TimmModel((3, 8, 8), weights="none", **options)
    with pytest.raises(ConfigError, match="timm: images must have 1 or 3 channels, but these have 2"):
        TimmModel((2, 8, 8))


def test_without_timm_the_message_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'autometa-search\[timm\]'"):
        TimmModel((3, 8, 8))


def test_a_timm_that_cannot_be_loaded_is_told_from_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="timm is installed but cannot be loaded: operator torchvision::nms"):
        TimmModel((3, 8, 8))
