"""One image file as square 8-bit pixels, with a rule for each thing in which picture files differ.

- Orientation: upright by the EXIF tag.
- Depth: 16-bit grey is scaled from 0 … 65,535, floats from 0 … 1. Values outside have no known range: unreadable.
- Transparency, of a channel, a palette or one colour: laid on white.
- Palettes and CMYK become RGB by Pillow's own conversion, without colour profiles. Both count as colour.
- Several frames or pages: the first.
- Shape: the central square, resized by Lanczos.

It does not know about classes, folders or caches.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from autometa.errors import first_line

_BACKGROUND = (255, 255, 255, 255)
_GREY = {"1", "L", "LA", "La", "I", "F"}
_DEEP = {"I": 65_535.0, "F": 1.0}  # by mode, the value that becomes 255


class UnreadableError(Exception):
    """A file that is no image, is damaged or cut off, or whose values have no known range."""


@dataclass(frozen=True)
class Header:
    """What a file says of its image: whether it has no colour, and its shorter side in pixels."""

    is_grey: bool
    side: int


def header(file: Path) -> Header:
    """What can be known without decoding; raises `UnreadableError`."""
    with _complaints(), Image.open(file) as image:
        return Header(_mode(image) in _GREY, min(image.size))


def square(file: Path, size: int, *, grey: bool) -> np.ndarray:
    """The image as uint8 [1 if grey else 3, size, size]; raises `UnreadableError`."""
    with _complaints(), Image.open(file) as image:
        return _fitted(image, size, grey)


def square_of(pixels: np.ndarray, size: int, *, grey: bool) -> np.ndarray:
    """The same of pixels [height, width] or [height, width, channels], of 1, 3 or 4 channels: uint8, or in [0, 1]."""
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * pixels.astype(np.float64)).astype(np.uint8)
    return _fitted(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels), size, grey)


def _fitted(image: Image.Image, size: int, grey: bool) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    opaque = _opaque(_shallow(upright)).convert("L" if grey else "RGB")
    pixels = np.asarray(ImageOps.fit(opaque, (size, size), Image.Resampling.LANCZOS))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


class _complaints:  # noqa: N801 - reads as a statement
    """Whatever a foreign file makes Pillow raise becomes `UnreadableError`; its warnings are dropped."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._warnings.__exit__(None, None, None)
        if isinstance(error, Exception):
            raise UnreadableError(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def _mode(image: Image.Image) -> str:
    """Pillow's mode, all byte orders of 16-bit grey (`I;16`, `I;16B` …) being `I`."""
    return "I" if image.mode.startswith("I;16") else image.mode


def _shallow(image: Image.Image) -> Image.Image:
    """The image in 8 bits a channel."""
    top = _DEEP.get(_mode(image))
    if top is None:
        return image
    values = np.asarray(image).astype(np.float64)
    if not (values.min() >= 0 and values.max() <= top):  # also where there is a NaN
        raise ValueError(f"values from {values.min():g} to {values.max():g}, where 0 to {top:g} are known to mean grey")
    return Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """The image on white, where it is transparent."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, _BACKGROUND), layer)
