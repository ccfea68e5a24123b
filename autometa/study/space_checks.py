"""Whether a search space goes with the data, and its candidates with each other."""

from __future__ import annotations

from autometa.data.dataset import FewShotDataset
from autometa.errors import ConfigError, DataError
from autometa.records import EpisodeSpec
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.trial.abilities import external_backbones, is_transductive


def check_rotations(space: SearchSpace, train_on: FewShotDataset) -> None:
    """Refuse to rotate the train classes of a data set whose classes are rotations already."""
    if any(parameter.name == "rotations" and parameter.contains(True) for parameter in space):
        try:
            train_on.require_unrotated()
        except DataError as error:
            raise ConfigError(f"{space.source}: {error}") from None


def check_train_shots(space: SearchSpace, data: FewShotDataset, spec: EpisodeSpec) -> None:
    """Refuse a space of training shots for which train classes have too few images."""
    most = _most_train_shots(space)
    if most:
        data.require_train_shot(most, spec.query)


def _most_train_shots(space: SearchSpace) -> int:
    """The largest `train_shot` that the space has; 0 where it has none but that of the evaluation."""
    for parameter in space:
        if parameter.name == "train_shot":
            assert isinstance(parameter, Choice | Range)
            values = parameter.choices if isinstance(parameter, Choice) else (parameter.high,)
            return max(int(value) for value in values)
    return 0


def images_needed(space: SearchSpace, spec: EpisodeSpec) -> int:
    """Images of a class that an episode of the search takes at most."""
    return max(spec.shot, _most_train_shots(space)) + spec.query


def require_comparable(space: SearchSpace, *, transductive: bool, external: bool) -> None:
    """Refuse to rank candidates with an advantage over the others, unless that was asked for.

    Args:
        transductive: allow candidates that adapt to the queries.
        external: allow candidates with weights trained elsewhere.
    """
    if not transductive:
        _check_inductive(space)
    if not external:
        _check_own_weights(space)


def _check_inductive(space: SearchSpace) -> None:
    """Refuse to rank transductive candidates among inductive ones unless that was asked for."""
    for parameter in space:
        for value in getattr(parameter, "choices", ()):
            if is_transductive(parameter.name, value):
                raise ConfigError(
                    f"{space.source}: {parameter.name} = {value!r} is transductive, and its accuracy does not compare "
                    "with inductive ones: add --transductive to rank them together, or take it out"
                )


def _check_own_weights(space: SearchSpace) -> None:
    """Refuse to rank candidates with weights from elsewhere among others unless that was asked for."""
    for backbone in external_backbones(space):
        raise ConfigError(
            f"{space.source}: backbone = {backbone!r} brings weights trained elsewhere, which may have seen the test "
            "classes, and its accuracy does not compare with others: add --external to rank them together"
        )
