"""One picture file: each thing that files differ in has its rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autometa.data.picture import UnreadableError, header, square

RAMP = np.linspace(0, 65_535, 256).astype(np.uint16).reshape(16, 16)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_does_not_saturate(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"deep.{ending}"
    Image.fromarray(RAMP).save(file)
    pixels = square(file, 16, grey=True)
    np.testing.assert_array_equal(pixels[0].ravel(), np.arange(256))
    assert header(file).is_grey
    np.testing.assert_array_equal(square(file, 16, grey=False), np.repeat(pixels, 3, axis=0))


def test_floats_are_grey_from_0_to_1_and_others_are_refused(tmp_path: Path) -> None:
    known, unknown = tmp_path / "known.tif", tmp_path / "unknown.tif"
    Image.fromarray(np.full((9, 9), 0.2, np.float32)).save(known)
    Image.fromarray(np.full((9, 9), 170.5, np.float32)).save(unknown)
    assert (square(known, 9, grey=True) == 51).all()
    with pytest.raises(UnreadableError, match=r"values from 170\.5 to 170\.5, where 0 to 1 are known"):
        square(unknown, 9, grey=True)


def transparent(kind: str) -> Image.Image:
    """Left half red or dark, right half transparent over a colour that must not show."""
    if kind == "palette":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([200, 30, 40, 0, 0, 0])
        image.paste(0, (0, 0, 4, 8))
        image.info["transparency"] = 1
        return image
    drawn, hidden = {"LA": ((90, 255), (0, 0)), "RGBA": ((200, 30, 40, 255), (0, 0, 0, 0))}[kind]
    image = Image.new(kind, (8, 8), hidden)
    image.paste(drawn, (0, 0, 4, 8))
    return image


@pytest.mark.parametrize("kind", ["LA", "RGBA", "palette"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "t.png"
    image = transparent(kind)
    image.save(file)
    pixels = square(file, 8, grey=False)
    assert (pixels[:, 3, 7] == 255).all()
    assert tuple(pixels[:, 3, 0]) == ((90, 90, 90) if kind == "LA" else (200, 30, 40))


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 255, 128)).save(tmp_path / "t.png")
    red, green, blue = square(tmp_path / "t.png", 8, grey=False)[:, 4, 4].tolist()
    assert red == green == pytest.approx(127, abs=1)
    assert blue == 255


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_cmyk_becomes_rgb(tmp_path: Path, ending: str) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 0, 51)).save(tmp_path / f"c.{ending}")
    assert not header(tmp_path / f"c.{ending}").is_grey
    cyan = square(tmp_path / f"c.{ending}", 16, grey=False)[:, 8, 8].astype(int)
    assert np.abs(cyan - [0, 204, 204]).max() <= 2


def test_a_palette_is_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 12, 200, 99])
    image.save(tmp_path / "p.png")
    assert tuple(square(tmp_path / "p.png", 8, grey=False)[:, 0, 0]) == (12, 200, 99)
    assert not header(tmp_path / "p.png").is_grey


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_stands_upright(tmp_path: Path, orientation: int) -> None:
    scene = Image.new("RGB", (24, 24), "blue")
    scene.paste("red", (0, 0, 24, 6))  # up is red
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    way = turn[orientation]
    stored = scene.transpose(way) if way is not None else scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "p.jpg", exif=exif, quality=95, subsampling=0)
    red = square(tmp_path / "p.jpg", 24, grey=False)[0]
    assert red[:5].min() > 200
    assert red[8:].max() < 60


@pytest.mark.parametrize("kind", ["foreign", "cut", "empty", "none", "folder"])
def test_what_cannot_be_read_has_a_reason_in_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    if kind == "folder":
        file = tmp_path
    elif kind == "none":
        file.unlink()
    else:
        file.write_bytes({"foreign": b"hello", "cut": file.read_bytes()[:900], "empty": b""}[kind])
    with pytest.raises(UnreadableError) as error:
        square(file, 8, grey=False)
    assert str(error.value)
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)
