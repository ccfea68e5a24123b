"""Earlier names of parameters. Space files, recipes, archives, checkpoints and storages that have them are still read.

Names are translated where something is read, so nothing else knows the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")

ALIASES: Mapping[str, str] = {
    "outer_rate": "outer_lr",
    "anil.inner_rate": "anil.inner_lr",
    "boil.inner_rate": "boil.inner_lr",
    "lstm.inner_rate": "lstm.inner_lr",
    "maml.inner_rate": "maml.inner_lr",
    "meta_sgd.inner_rate": "meta_sgd.inner_lr",
    "reptile.inner_rate": "reptile.inner_lr",
    "pretrain.tune_rate": "pretrain.tune_lr",
}
# The names that parameters began with. What is made of names and must outlive a renaming takes these: versions of
# spaces and digests of past studies.
FIRST: Mapping[str, str] = {now: before for before, now in ALIASES.items()}


def renamed(values: Mapping[str, V], names: Mapping[str, str] = ALIASES) -> dict[str, V]:
    """Values by name, in their order, with other names where `names` has them.

    Raises:
        ValueError: both names of one parameter are given.
    """
    for before in names.keys() & values.keys():
        if names[before] in values:
            raise ValueError(f"{before} and {names[before]} are two names of one parameter; give one of them")
    return {names.get(name, name): value for name, value in values.items()}
