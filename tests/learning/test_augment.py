"""Augmentation and mixing: what each image becomes, and that the generator alone decides it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.augment import color_jitter, crop, crop_flip, cutout, flip, make_augment
from autometa.learning.mixing import cutmix, mixed_loss, mixup

NAMES = [
    "crop",
    "flip",
    "crop_flip",
    "crop_jitter",
    "crop_cutout",
    "crop_flip_jitter",
    "crop_flip_cutout",
    "crop_flip_jitter_cutout",
]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides_and_shape_and_dtype_stay(name: str, channels: int, dtype: torch.dtype) -> None:
    augment, images = make_augment(name), torch.randn(24, channels, 16, 16, dtype=dtype)
    assert augment is not None
    kept = images.clone()
    torch.manual_seed(1)
    one = augment(images, seeded())
    torch.manual_seed(2)
    two = augment(images, seeded())
    assert torch.equal(one, two)
    assert (one.shape, one.dtype) == (images.shape, dtype)
    assert not torch.equal(one, augment(images, seeded(4)))
    assert torch.equal(images, kept)  # the data set is not written to


def test_a_name_is_its_parts_one_after_the_other() -> None:
    images, named, by_hand = torch.randn(6, 3, 16, 16), seeded(), seeded()
    augment = make_augment("crop_flip_jitter_cutout")
    assert augment is not None
    expected = images
    for step in (crop, flip, color_jitter, cutout):
        expected = step(expected, by_hand)
    assert torch.equal(augment(images, named), expected)
    by_hand = seeded()
    assert torch.equal(crop_flip(images, seeded()), flip(crop(images, by_hand), by_hand))
    assert make_augment("none") is None


def test_an_unknown_augmentation_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="did you mean 'crop_flip'"):
        make_augment("crop_flp")


def test_jitter_leaves_the_mean_of_many_images_about_where_it_was() -> None:
    images = torch.randn(1, 3, 16, 16).expand(4000, -1, -1, -1)
    changed = color_jitter(images, seeded())
    torch.testing.assert_close(changed.mean(0), images[0], atol=0.08, rtol=0)
    means = changed.mean((1, 2, 3))
    assert means.std() > 0.3  # brightness: two deviations times 0.4, uniform
    assert means.sub(means.mean()).abs().max() < 0.4 * (2 + float(images[0].mean().abs())) + 0.05


def test_jitter_is_what_it_is_on_pixels_whose_black_is_two_deviations_below_the_mean() -> None:
    pixels = torch.rand(5, 3, 8, 8, dtype=torch.float64)
    changed = color_jitter((pixels - 0.5) / 0.25, seeded()) * 0.25 + 0.5
    factors = 1 + 0.4 * (2 * torch.rand((3, 5, 1, 1, 1), generator=seeded()).double() - 1)
    for image, brightness, contrast, saturation, ours in zip(pixels, *factors, changed, strict=True):
        bright = image * brightness
        contrasted = contrast * bright + (1 - contrast) * bright.mean()
        expected = saturation * contrasted + (1 - saturation) * contrasted.mean(0)
        torch.testing.assert_close(ours, expected)


def test_cutout_leaves_a_square_of_mean_colour_cut_at_the_borders() -> None:
    images = torch.rand(300, 2, 12, 12) + 1
    changed = cutout(images, seeded())
    gone = (changed == 0).all(1)  # (300, 12, 12)
    assert torch.equal(changed, images * ~gone[:, None])
    heights, widths = gone.any(2).sum(1), gone.any(1).sum(1)
    assert torch.equal(gone.sum((1, 2)), heights * widths)  # a full rectangle
    assert heights.max() == widths.max() == 6
    assert heights.min() == widths.min() == 3  # centred at a border
    assert (heights == 6).float().mean() == pytest.approx(7 / 12, abs=0.1)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_mixing_takes_its_draws_from_the_generator_and_keeps_the_shape(mix: Any) -> None:
    images = torch.randn(33, 3, 10, 14)
    one, two = mix(images, seeded(), 0.7), mix(images, seeded(), 0.7)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    mixed, partner, share = one
    assert (mixed.shape, mixed.dtype, share.dtype) == (images.shape, images.dtype, images.dtype)
    assert sorted(partner.tolist()) == list(range(33))
    assert share.min() >= 0
    assert share.max() <= 1
    assert len(set(share.tolist())) > 10  # each image has its own
    with pytest.raises(ConfigError, match="alpha = 0"):
        mix(images, seeded(), 0)


def test_mixup_is_the_weighted_mean_of_an_image_and_its_partner() -> None:
    images = torch.randn(7, 2, 4, 4, dtype=torch.float64)
    mixed, partner, share = mixup(images, seeded(), 0.4)
    for i in range(7):
        torch.testing.assert_close(mixed[i], share[i] * images[i] + (1 - share[i]) * images[partner[i]])


@pytest.mark.parametrize("alpha", [0.1, 0.4, 2.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha: float) -> None:
    _, _, share = mixup(torch.zeros(20000, 1, 1, 1), seeded(), alpha)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(share.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


def test_the_share_of_cutmix_is_exactly_the_share_of_pixels_that_stay() -> None:
    images = torch.arange(40.0)[:, None, None, None].expand(-1, 2, 8, 6)
    mixed, partner, share = cutmix(images, seeded(), 1.0)
    strangers = partner != torch.arange(40)
    for i in strangers.nonzero().flatten().tolist():
        pasted = (mixed[i, 0] == partner[i]).float()
        assert torch.equal(share[i], 1 - pasted.sum() / 48)
        assert torch.equal(mixed[i, 0], mixed[i, 1])
        assert pasted.sum() == pasted.amax(1).sum() * pasted.amax(0).sum()  # a box
    assert share.std() > 0.1


def test_the_loss_of_a_mixed_batch_weighs_the_losses_of_both_labels() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([3, 0, 1, 1, 2])
    partner, share = torch.tensor([1, 2, 0, 4, 3]), torch.tensor([0.1, 1.0, 0.0, 0.6, 0.5])
    expected = sum(
        share[i] * F.cross_entropy(logits[i], labels[i], label_smoothing=0.1)
        + (1 - share[i]) * F.cross_entropy(logits[i], labels[partner[i]], label_smoothing=0.1)
        for i in range(5)
    )
    torch.testing.assert_close(mixed_loss(logits, labels, partner, share, label_smoothing=0.1), expected / 5)
