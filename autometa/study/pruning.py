"""Pruners and samplers by name. Everything they need is in the study; they know nothing of trials or Ray."""

from __future__ import annotations

from collections.abc import Callable

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler

from autometa.errors import ConfigError, did_you_mean

# Rungs are counted 1, 2, 3, …: with the default nine, halving decides at 1 and 3 and keeps a third each time.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "halving": lambda rungs: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "hyperband": lambda rungs: HyperbandPruner(min_resource=1, max_resource=rungs, reduction_factor=3),
    "median": lambda rungs: MedianPruner(n_startup_trials=4, n_warmup_steps=1),
    "none": lambda rungs: NopPruner(),
}


def make_pruner(name: str, rungs: int) -> BasePruner:
    """The pruner of that name for trials of `rungs` rungs; raises `ConfigError` naming those there are."""
    if name not in PRUNERS:
        raise ConfigError(f"unknown pruner {name!r}; {did_you_mean(name, PRUNERS)}")
    return PRUNERS[name](rungs)


def make_sampler(seed: int, trials_so_far: int) -> BaseSampler:
    """TPE for conditional spaces: `group` models each branch of the space jointly.

    A resumed search must not draw its first numbers again, so the trials so far are part of the seed.
    """
    return TPESampler(
        seed=seed + 7919 * trials_so_far,
        n_startup_trials=8,
        group=True,
        multivariate=True,
        constant_liar=True,
    )
