"""Omniglot as it comes with autometa: every drawing without loss, one bit per pixel, in one xz file.

`embedded/omniglot/README.md` describes the two files. It does not know about splits, sizes or rotations.
"""

from __future__ import annotations

import itertools
import lzma
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

import numpy as np
from PIL import Image

from autometa.errors import DataError

FOLDER = resources.files("autometa.data") / "embedded" / "omniglot"
ALPHABETS, DRAWINGS = "alphabets.txt", "drawings.xz"
_DRAWERS = 20  # people; each drew every character once
_SIDE = 105
_STRIPS = 14  # of eight rows each; the last seven rows are empty
_BYTES = _DRAWERS * _STRIPS * _SIDE  # of a character


def characters() -> list[str]:
    """`set/alphabet/nn` of each character, in order."""
    lines = (FOLDER / ALPHABETS).read_text(encoding="utf-8").splitlines()
    counts = (line.rsplit(" ", 1) for line in lines)
    return [f"{alphabet}/{n:02d}" for alphabet, count in counts for n in range(1, int(count) + 1)]


def read() -> tuple[list[str], Iterator[Image.Image]]:
    """The character of each drawing; and the drawings, 105 × 105 greys with ink as 255, read one by one."""
    found = characters()
    return [character for character in found for _ in range(_DRAWERS)], _drawings(len(found))


def packed(labels: Sequence[str], drawings: Iterable[Image.Image]) -> tuple[str, bytes]:
    """The text of `alphabets.txt`, and what `drawings.xz` holds before compression, of what `read` returns."""
    numbered = itertools.groupby(labels[::_DRAWERS], key=lambda character: character.rsplit("/", 1)[0])
    alphabets = "".join(f"{alphabet} {len(list(group))}\n" for alphabet, group in numbered)
    return alphabets, b"".join(map(_strips, drawings))


def unpacked(strips: bytes) -> list[Image.Image]:
    """The twenty drawings of one character, of the bytes that `packed` joins."""
    ink = np.unpackbits(np.frombuffer(strips, np.uint8).reshape(_DRAWERS, _STRIPS, 1, _SIDE), axis=2)
    rows = 255 * ink.reshape(_DRAWERS, -1, _SIDE)[:, :_SIDE]
    return [Image.frombytes("L", (_SIDE, _SIDE), drawing.tobytes()) for drawing in rows]


def _strips(drawing: Image.Image) -> bytes:
    ink = np.zeros((8 * _STRIPS, _SIDE), bool)
    ink[:_SIDE] = np.asarray(drawing)
    return np.packbits(ink.reshape(_STRIPS, 8, _SIDE), axis=1).tobytes()


def _drawings(characters: int) -> Iterator[Image.Image]:
    file = FOLDER / DRAWINGS
    try:
        with file.open("rb") as stream, lzma.open(stream) as strips:
            for _ in range(characters):
                yield from unpacked(strips.read(_BYTES))
    except (lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{file} is damaged ({error}); install autometa again") from None
