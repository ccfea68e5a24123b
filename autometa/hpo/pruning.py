"""Pruners and samplers by name. Everything they need is in the study; they know nothing of trials or Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler

from autometa.errors import ConfigError, did_you_mean
from autometa.hpo.failures import FailureAwareTPE
from autometa.hpo.halving import HalvingPruner
from autometa.past import PastStudy
from autometa.pruning.pruner import PriorPruner

# Rungs are counted 1, 2, 3, …: with the default nine, halving decides at 2, 4 and 8 and keeps the better half.
# Deciding at the first rung, keeping a third, ended all but 2 of 16 trials on digits, and always the learners
# that start slowly.
PRUNERS: dict[str, Callable[[int, Sequence[PastStudy]], BasePruner]] = {
    "halving": lambda rungs, past: HalvingPruner(first=2, factor=2),
    "hyperband": lambda rungs, past: HyperbandPruner(min_resource=1, max_resource=rungs, reduction_factor=3),
    "median": lambda rungs, past: MedianPruner(n_startup_trials=4, n_warmup_steps=2),
    "prior": lambda rungs, past: PriorPruner(past, rungs=rungs),
    "none": lambda rungs, past: NopPruner(),
}


def make_pruner(name: str, rungs: int, past: Sequence[PastStudy] = ()) -> BasePruner:
    """The pruner of that name for trials of `rungs` rungs; raises `ConfigError` naming those there are.

    `prior` learns from the past studies, the others do not look at them.
    """
    if name not in PRUNERS:
        raise ConfigError(f"unknown pruner {name!r}; {did_you_mean(name, PRUNERS)}")
    return PRUNERS[name](rungs, past)


def make_sampler(seed: int, trials_so_far: int) -> BaseSampler:
    """TPE for conditional spaces, which models each branch of the space jointly.

    A resumed search must not draw its first numbers again, so the trials so far are part of the seed.
    """
    return FailureAwareTPE(seed=seed + 7919 * trials_so_far, startup=8)
