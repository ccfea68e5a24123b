"""The only private member of Ray in use, with its reason; `test_ray_private.py` tells when it is gone."""

from __future__ import annotations

from ray.tune.execution import class_cache


def let_actors_take_started_workers() -> None:
    """Have Tune's actors run in workers that are up already, which an environment of their own keeps them from.

    Tune gives every actor a variable for PyTorch Lightning (ray#28197), and has no option to leave it out. A worker of
    another environment is a new process that imports torch again: the first step of a search then comes 4 s later.
    """
    class_cache.DEFAULT_ENV_VARS.clear()
