"""Omniglot's two zips as the files that come with autometa: made again, they are the same to the bit.

    python benchmarks/pack_omniglot.py ../shared/data/omniglot

The zips are those of github.com/brendenlake/omniglot. Another liblzma may compress to other bytes of the same content.
"""

from __future__ import annotations

import argparse
import lzma
from pathlib import Path

from autometa.data import catalog, packed_omniglot, readers

# A byte is foretold by the one before it, and not by its place in a word of four. Unpacking takes 8 MiB.
FILTER = {"id": lzma.FILTER_LZMA2, "preset": 6 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zips", type=Path, help="folder of images_background.zip and images_evaluation.zip")
    parser.add_argument("-o", "--output", type=Path, default=Path(str(packed_omniglot.FOLDER)))
    arguments = parser.parse_args()
    files = [arguments.zips / archive.file for archive in catalog.source("omniglot").archives]
    alphabets, bits = packed_omniglot.packed(*readers.zipped_omniglot(files))
    (arguments.output / packed_omniglot.ALPHABETS).write_text(alphabets, encoding="utf-8")
    (arguments.output / packed_omniglot.DRAWINGS).write_bytes(lzma.compress(bits, filters=[FILTER]))


if __name__ == "__main__":
    main()
