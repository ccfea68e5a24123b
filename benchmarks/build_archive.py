"""The searches whose archives ship with autometa: a list that was written before any of them ran, each run once.

    python benchmarks/build_archive.py --data-root ../shared/data                 # all that `studies/` lacks
    python benchmarks/build_archive.py --data-root ../shared/data --only digits-5w1s --minutes-in-all 30

Images are real. Every search is cold, so that none leans on another: `TRIALS` candidates in `MINUTES`, halving, the
default space, and the place in the list as seed. That gives each some 50 seconds on a core, since in half of that other
families lead than in the end (docs/log.md). A search that its minutes end before the last candidate gets them again. No
study is dropped for how it looks. An archive holds the data set's features, curves with their seconds, hardware and
versions. An interrupted search goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from end_to_end import RESULTS
from superclasses import as_on_a_new_machine, name_or_folder

from autometa.archives import archive

STUDIES = RESULTS.parents[1] / "studies"
TRIALS, MINUTES, AGAIN = 40, 12, 3


class Search(NamedTuple):
    """One search: a data set's name, or "folder KIND" of `superclasses.py`; `options` are of the command line."""

    name: str
    source: str
    dataset: str
    way: int
    shot: int
    options: Sequence[str] = ()


# `source` says which studies are of the same images: they are left out together where a prior is measured.
DESIGN = (
    Search("digits-5w1s", "digits", "digits", 5, 1),
    Search("digits-5w5s", "digits", "digits", 5, 5),
    Search("omniglot-5w1s", "omniglot", "omniglot", 5, 1),
    Search("omniglot-5w5s", "omniglot", "omniglot", 5, 5),
    Search("omniglot-20w1s", "omniglot", "omniglot", 20, 1),
    Search("omniglot-5w1s-external", "omniglot", "omniglot", 5, 1, ("external",)),
    Search("cifar-fs-5w1s", "cifar-fs", "cifar-fs", 5, 1),
    Search("cifar-fs-5w5s", "cifar-fs", "cifar-fs", 5, 5),
    Search("cifar-fs-5w1s-external", "cifar-fs", "cifar-fs", 5, 1, ("external",)),
    Search("cifar-fs-5w5s-external", "cifar-fs", "cifar-fs", 5, 5, ("external",)),
    Search("cifar-fs-16px-5w5s", "cifar-fs", "cifar-fs", 5, 5, ("image-size=16",)),
    Search("grey-5w5s", "cifar-fs", "folder grey", 5, 5, ("no-external",)),
    Search("fc100-5w1s", "fc100", "fc100", 5, 1),
    Search("fc100-5w5s", "fc100", "fc100", 5, 5),
    Search("fc100-5w5s-external", "fc100", "fc100", 5, 5, ("external",)),
    *(
        Search(
            f"{kind}-5w{shot}s{'-external' if option == 'external' else ''}", kind, f"folder {kind}", 5, shot, (option,)
        )
        for kind in ("animals", "things", "nature", "outdoors")
        for shot, option in ((1, "no-external"), (5, "no-external"), (5, "external"))
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--only", nargs="+", choices=[one.name for one in DESIGN])
    parser.add_argument("--scratch", type=Path, default=Path("runs/archive"), help="where searches are while they run")
    parser.add_argument("--minutes-in-all", type=float, default=float("inf"), help="begin no search after so many")
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    until = time.monotonic() + 60 * arguments.minutes_in_all
    for seed, one in missing(arguments.only or [one.name for one in DESIGN]):
        if time.monotonic() > until:
            break
        started = time.monotonic()
        for _ in range(AGAIN):
            archived(one, searched(one, seed, root, arguments.scratch.resolve() / one.name))
            if is_done(one):
                break
        print(
            f"{one.name}: {len(archive.read(place(one)).trials)} candidates, {time.monotonic() - started:.0f} s",
            flush=True,
        )


def missing(names: Sequence[str]) -> Iterator[tuple[int, Search]]:
    """The searches of these names that have no archive yet, each with its seed."""
    for seed, one in enumerate(DESIGN):
        if one.name in names and not is_done(one):
            yield seed, one


def place(one: Search) -> Path:
    """The folder of its archive."""
    return STUDIES / one.name


def is_done(one: Search) -> bool:
    """Whether its archive is there and of this design: an older one of the same name has fewer candidates."""
    return place(one).is_dir() and len(archive.read(place(one)).trials) >= TRIALS


def searched(one: Search, seed: int, root: str | None, folder: Path) -> Path:
    """Run a search, or go on with it; returns the folder of its archive."""
    folder.mkdir(parents=True, exist_ok=True)
    as_on_a_new_machine(folder)
    dataset = name_or_folder(one.dataset, folder / one.dataset.removeprefix("folder "), data_root=root)
    command = ["search", "--dataset", dataset, "--way", str(one.way), "--shot", str(one.shot)]
    command += ["--trials", str(TRIALS), "--time-budget", f"{MINUTES}m", "--cold", "--seed", str(seed)]
    command += ["--study", one.name, *(f"--{option}" for option in one.options)]
    command += ["--data-root", root] if root else []
    subprocess.run([sys.executable, "-m", "autometa", *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "runs" / "studies" / one.name


def archived(one: Search, folder: Path) -> None:
    """Put the archive in its place; a folder of images is called by its kind, wherever it was."""
    kept = archive.read(folder)
    study = kept.study.model_copy(update={"dataset": one.dataset.removeprefix("folder ")})
    archive.write(place(one).parent, study, kept.trials)


if __name__ == "__main__":
    main()
