"""Small phrases that several commands say the same way."""

from __future__ import annotations

from collections.abc import Mapping

from autometa.records import Accuracy, Scalar
from autometa.trial.job import marks


def percent(accuracy: Accuracy) -> str:
    """`81.20 ± 0.60 %`."""
    return f"{100 * accuracy.mean:.2f} ± {100 * accuracy.half_width:.2f} %"


def marked(values: Mapping[str, Scalar], facts: Mapping[str, Scalar] | None = None) -> str:
    """` (transductive, external)`, to put before an accuracy; empty for what compares with all others."""
    found = marks(values, facts)
    return f" ({', '.join(found)})" if found else ""


def summary(values: Mapping[str, Scalar], limit: int | None = None) -> str:
    """A configuration in one line: learner and backbone, then what belongs to them, then the rest.

    A transductive or external one says so first, since its accuracy does not compare with others.
    """
    heads = [str(values[k]) for k in ("learner", "backbone") if k in values]
    heads = [*marks(values), *heads]
    own = [_item(k.split(".", 1)[1], v) for k, v in values.items() if "." in k]
    rest = [_item(k, v) for k, v in values.items() if "." not in k and k not in ("learner", "backbone")]
    line = " ".join([" · ".join(heads), *own, *rest])
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def size(facts: Mapping[str, Scalar]) -> str:
    """`112,832 parameters, 28.3 MFLOP an image`, of a trial's facts."""
    return f"{facts['parameters']:,} parameters, {float(facts['flops']) / 1e6:.3g} MFLOP an image"


def seconds(duration: float) -> str:
    """`1:05` or `2:01:05`."""
    minutes, second = divmod(int(max(0.0, duration)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _item(name: str, value: Scalar) -> str:
    return f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
