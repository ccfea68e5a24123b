"""How training without a known end goes: its constants, and the same training with its end known. It loads no torch."""

from __future__ import annotations

from collections.abc import Mapping

from autometa.records import Scalar

# Outer steps over which the learning rate rises, and the window of averaged weights; docs/log.md has others.
WARMUP, WINDOW = 20, 8.0
# The part of training over which the learning rate falls at the end (Hägele et al. 2024).
COOL_DOWN = 0.2


def with_known_end(values: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The configuration that trains, with a fixed budget, as an open training did that was cooled down."""
    return {**values, "schedule": "trapezoid", "warmup": WARMUP, "averaging": WINDOW}
