"""`python -m autometa.trial.declare`: write the driver's copy of what the classes of this package declare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from autometa.trial import build
from autometa.trial.abilities import FILE, Abilities, declared


def text() -> str:
    """What `abilities.json` has to say: a line for each class, without what is as by default."""
    common = {kind.__name__: kind for kind in build.COMMON}
    tables: dict[str, Mapping[str, type]] = {"learner": build.LEARNERS, "backbone": build.BACKBONES, "common": common}
    return "{\n" + ",\n".join(f'"{table}": {{\n{_lines(kinds)}\n}}' for table, kinds in tables.items()) + "\n}\n"


def _lines(kinds: Mapping[str, type]) -> str:
    return ",\n".join(f'  "{name}": {json.dumps(_said(declared(kind)))}' for name, kind in kinds.items())


def _said(abilities: Abilities) -> dict[str, object]:
    usual = dataclasses.asdict(Abilities())
    return {name: value for name, value in dataclasses.asdict(abilities).items() if value != usual[name]}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
