"""Every configuration of a space, one after the other, as far as they can be counted.

It does not know which of them were tried (`study/tried.py` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autometa.space.parameters import Parameter, Scalar
from autometa.space.space import SearchSpace


def configurations(space: SearchSpace, fixed: Mapping[str, Scalar] | None = None) -> Iterator[dict[str, Scalar] | None]:
    """Each configuration that has the `fixed` values, in the space's order, made when it is asked for.

    None stands for all configurations that differ in a continuous value only: there is no end of them.
    """
    return _from(space.parameters, {}, fixed or {})


def _from(
    parameters: Sequence[Parameter], so_far: dict[str, Scalar], fixed: Mapping[str, Scalar]
) -> Iterator[dict[str, Scalar] | None]:
    for place, parameter in enumerate(parameters):
        if parameter.is_active(so_far):
            values = [fixed[parameter.name]] if parameter.name in fixed else parameter.each()
            if values is None:
                yield None
                return
            for value in values:
                yield from _from(parameters[place + 1 :], {**so_far, parameter.name: value}, fixed)
            return
    yield so_far
