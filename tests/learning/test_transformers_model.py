"""Vision models of the package transformers: real ones, small and with random weights that the package itself saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.errors import ConfigError
from autometa.learning.backbones.transformers_model import TransformersModel
from autometa.records import TrialConfig
from autometa.testing import check_backbone
from autometa.trial.abilities import is_external
from autometa.trial.build import candidate

transformers = pytest.importorskip("transformers", reason="pip install 'autometa-search[transformers]'")

SIZE, PATCH = 32, 8
VISION = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION |= {"image_size": SIZE, "patch_size": PATCH}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
MAPS = {"hidden_sizes": [8, 16], "depths": [1, 1]}
# Name of the configuration, its options, and class and register tokens before those of patches.
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "dinov2": ("Dinov2Config", VISION, 1),
    "dinov2 with registers": ("Dinov2WithRegistersConfig", VISION | {"num_register_tokens": 3}, 4),
    "dinov3": ("DINOv3ViTConfig", VISION, 1),
    "vit": ("ViTConfig", VISION, 1),
    "siglip": ("SiglipConfig", {"vision_config": VISION, "text_config": TEXT}, 0),
    "resnet": ("ResNetConfig", MAPS | {"embedding_size": 8}, 0),
    "convnext": ("ConvNextV2Config", MAPS | {"num_stages": 2}, 0),
}
SAYS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 2}

Save = Callable[[str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a model of a kind, with what its preprocessing says, and returns the folder."""

    def saved(kind: str) -> Path:
        name, options, _ = KINDS[kind]
        torch.manual_seed(0)
        network = transformers.AutoModel.from_config(getattr(transformers, name)(**options))
        network.save_pretrained(tmp_path / kind)
        (tmp_path / kind / "preprocessor_config.json").write_text(json.dumps(SAYS | {"size": {"height": SIZE}}))
        return tmp_path / kind

    return saved


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_what_the_package_says_of_the_same_images(save: Save, kind: str) -> None:
    folder = save(kind)
    images = torch.rand(3, 3, SIZE, SIZE)
    pixels = (images - torch.tensor(SAYS["image_mean"])[:, None, None]) / torch.tensor(SAYS["image_std"])[:, None, None]
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        says = getattr(whole, "vision_model", whole)(pixel_values=pixels)
        last = says.last_hidden_state
        mean = last.mean((2, 3)) if last.ndim == 4 else last[:, KINDS[kind][2] :].mean(1)
        expected = {"pooled": says.pooler_output.flatten(1), "mean": mean}
        expected["both"] = torch.cat([expected["pooled"], mean], 1)
        for layer, features in expected.items():
            backbone = TransformersModel((3, SIZE, SIZE), model=str(folder), layer=layer)
            torch.testing.assert_close(backbone(images), features)
            assert backbone.features == features.shape[1]


@pytest.mark.parametrize("kind", ["dinov2", "vit", "siglip", "resnet"])
def test_images_of_another_size_and_of_one_channel_are_taken(save: Save, kind: str) -> None:
    backbone = TransformersModel((1, 20, 20), model=str(save(kind)), image_size=48)
    assert backbone.prepared(torch.rand(2, 1, 20, 20)).shape == (2, 3, 48, 48)
    assert backbone(torch.rand(2, 1, 20, 20)).isfinite().all()


@pytest.mark.parametrize("frozen", [True, False])
def test_it_keeps_what_every_backbone_promises(save: Save, frozen: bool) -> None:
    folder = save("dinov2")
    check_backbone(TransformersModel, image_shape=(3, 16, 16), model=str(folder), weights="none", frozen=frozen)


def test_weights_from_elsewhere_are_external_and_named(save: Save) -> None:
    folder = str(save("dinov2"))
    values = {"learner": "frozen", "backbone": "transformers", "transformers.model": folder}
    learner = candidate(TrialConfig(values=values)).build(image_shape=(3, 16, 16), way=5, train_classes=5)
    assert learner.backbone.external
    assert folder in learner.backbone.source
    assert is_external(values)
    assert not is_external(values | {"transformers.weights": "none"})
    assert learner.backbone.key == TransformersModel((3, 16, 16), model=folder).key


def test_a_pooler_without_weights_is_not_used(save: Save) -> None:
    """Many checkpoints of ViT have none, and the package would give it random ones."""
    from safetensors.torch import load_file, save_file

    file = save("vit") / "model.safetensors"
    state = load_file(file)
    save_file({name: w for name, w in state.items() if "pooler" not in name}, file, metadata={"format": "pt"})
    images = torch.rand(2, 3, SIZE, SIZE)
    first, again = (TransformersModel((3, SIZE, SIZE), model=str(file.parent))(images) for _ in range(2))
    torch.testing.assert_close(first, again)
    save_file({name: w for name, w in state.items() if "layer" not in name}, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="its file lacks weights"):
        TransformersModel((3, SIZE, SIZE), model=str(file.parent))


def test_what_cannot_be_loaded_is_told_in_one_line(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save("dinov2")
    file = folder / "model.safetensors"
    weights = file.read_bytes()

    def refused(model: Path | str, **options: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            TransformersModel((3, 16, 16), model=str(model), **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "layer = 'last': it may be pooled | mean | both" in refused(folder, layer="last")
    assert "image_size = 3: it may be" in refused(folder, image_size=3)
    file.write_bytes(weights[:1000])
    assert f"transformers.model = {str(folder)!r}" in refused(folder)
    file.unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")  # a pickle is not read
    assert "model.safetensors" in refused(folder)
    assert "transformers.model = " in refused(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(folder) == (
        "backbone transformers needs the package transformers: pip install 'autometa-search[transformers]'"
    )


def test_nothing_is_printed(save: Save, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save("vit")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TransformersModel((3, 16, 16), model=str(folder))
    assert capfd.readouterr() == ("", "")


def test_a_hub_that_cannot_be_reached_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    space = '[parameters.learner]\nchoices = ["frozen"]\n[parameters.backbone]\nchoices = ["transformers"]\n'
    (tmp_path / "mine.toml").write_text('name = "mine"\n' + space)
    command = [sys.executable, "-m", "autometa", "search", "--dataset", "digits", "--space", "mine.toml", "--external"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "COLUMNS": "400"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "transformers.model = 'facebook/dinov2-small'" in line
    assert not (tmp_path / "runs").exists()
