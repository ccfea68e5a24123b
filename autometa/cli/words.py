"""Small phrases that several commands say the same way."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from autometa.records import Accuracy, Comparison, DeployedTask, Right, Scalar
from autometa.trial.abilities import marks

if TYPE_CHECKING:
    from autometa.study.outlook import Outlook


def percent(accuracy: Accuracy) -> str:
    """`81.20 ± 0.60 %`, over episodes alone: for lines of what still runs."""
    return f"{100 * accuracy.mean:.2f} ± {100 * accuracy.half_width:.2f} %"


def for_new_classes(accuracy: Accuracy) -> str:
    """`81.2 ± 3.1 %` over classes and episodes; without ± where that is unknown. ± is the interval's longer side."""
    mean, interval = 100 * accuracy.mean, accuracy.over_classes
    if interval is None:
        return f"{mean:.1f} %"
    return f"{mean:.1f} ± {max(100 * interval.high - mean, mean - 100 * interval.low):.1f} %"


def certain(accuracy: Accuracy, kind: str) -> str:
    """`81.2 ± 3.1 % (20 test classes; ± 0.6 over episodes alone)`; `kind` is test, validation or train."""
    interval = accuracy.over_classes
    alone = f"± {100 * accuracy.half_width:.1f} over episodes alone"
    if interval is None:
        of = "classes not known"
    elif interval.are_all:
        of = f"images of these {interval.classes} classes"
    elif interval.seeds > 1:  # the kind would not fit a line of 80
        of = f"{interval.classes} classes, {interval.seeds} seeds"
    else:
        of = f"{interval.classes} {kind} classes"
    return f"{for_new_classes(accuracy)} ({of}; {alone})"


def caution(accuracy: Accuracy, way: int, kind: str) -> str | None:
    """What to know of an interval that is too narrow: of classes that belong together, and too few of them."""
    interval = accuracy.over_classes
    if interval is None or interval.families == interval.classes or interval.families > way:
        return None
    return f"these {interval.classes} {kind} classes are turns of only {interval.families}: take ± for too small"


def look(accuracy: Accuracy) -> str:
    """`look 3 at these test classes`."""
    return f"look {accuracy.look} at these test classes" if accuracy.look else "a look that was not counted"


def comparison(found: Comparison) -> str:
    """`trial 9 is ahead of trial 13 by 1.8 ± 1.1`, or that they are not distinguishable."""
    by = f"{abs(100 * found.ahead):.1f} ± {100 * found.half_width:.1f}"
    if not found.is_distinguishable:
        return f"{found.source} and {found.other} are not distinguishable ({by})"
    first, second = (found.source, found.other) if found.ahead > 0 else (found.other, found.source)
    return f"{first} is ahead of {second} by {by}"


def outlook(found: Outlook, accuracy: Accuracy) -> str:
    """`accuracy was still rising: 16 min would give about 67 % in validation (+ 3.2 ± 1.1)`."""
    minutes = found.seconds / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
    would, gain, half_width = (100 * x for x in (accuracy.mean + found.gain, found.gain, found.half_width))
    return f"accuracy was still rising: {time} would give about {would:.0f} % (+ {gain:.1f} ± {half_width:.1f})"


def deployed_task(found: DeployedTask) -> list[str]:
    """`your task: all 40 classes, 20 labelled images each: 45.2 % [42.1, 48.3] of 480 images kept back`, and more."""
    least, most = found.fewest_shots, found.most_shots
    shots = f"{most} labelled images each" if least == most else f"{least} to {most} labelled images each"
    kept = f"of {found.of_all.images:,} images kept back"
    lines = [f"your task: all {found.classes} classes, {shots}: {_part_right(found.of_all)} {kept}"]
    parts = [("of classes trained on", found.of_trained), ("of new classes", found.of_new)]
    said = [f"{what} {_part_right(part)}" for what, part in parts if part and part.images]
    if found.of_trained and len(said) > 1:
        lines.append(f"  {'; '.join(said)}")
    elif not found.of_trained:
        lines.append("  only classes that it was not trained on: no images of the others were kept back")
    best = max(found.baselines, key=lambda name: found.baselines[name].mean, default=None)
    chance = f"chance {100 / found.classes:.1f} %"
    lines.append(f"  best baseline {best} {_part_right(found.baselines[best])}; {chance}" if best else f"  {chance}")
    return lines


def _part_right(part: Right) -> str:
    return f"{100 * part.mean:.1f} % [{100 * part.low:.1f}, {100 * part.high:.1f}]"


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
    """`112,832 parameters, 28.3 MFLOP an image`, of a trial's facts; then where weights from elsewhere are from."""
    weights = f", {facts['weights']}" if "weights" in facts else ""
    return f"{facts['parameters']:,} parameters, {float(facts['flops']) / 1e6:.3g} MFLOP an image{weights}"


def storage_option(storage: str | None) -> str:
    """` --storage URL` for the next command, without a password; nothing where none was given to this one."""
    from autometa.hpo.storage_url import masked

    return f" --storage {shlex.quote(masked(storage))}" if storage else ""


def seconds(duration: float) -> str:
    """`1:05` or `2:01:05`."""
    minutes, second = divmod(int(max(0.0, duration)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _item(name: str, value: Scalar) -> str:
    return f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
