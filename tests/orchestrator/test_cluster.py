"""How a cluster is shared out among trials."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autometa.errors import ConfigError
from autometa.orchestrator.cluster import Cluster, Share, ray  # Ray as a search sets it up


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """Ray counts what it is told; nothing here touches a GPU."""
    ray.init(address="local", num_cpus=6, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("workers", "asked", "fitting", "share"),
    [
        (None, None, 1, Share(2, 1.0)),
        (None, None, 2, Share(4, 0.5)),
        (None, None, 8, Share(6, 1 / 3)),  # three cores a GPU
        (3, None, 8, Share(3, 0.5)),
        (None, 0.25, 1, Share(8, 0.25)),
        (None, 2.0, 8, Share(1, 2.0)),
    ],
)
def test_a_gpu_is_shared_by_as_many_trials_as_fit_and_have_a_core(
    workers: int | None, asked: float | None, fitting: int, share: Share
) -> None:
    assert Cluster(workers=workers).share_out(asked, lambda: fitting) == share


@pytest.mark.usefixtures("two_gpus")
def test_more_gpus_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        Cluster().share_out(3.0)


@pytest.mark.parametrize(
    ("share", "finalists", "threads"),
    [
        (Share(1, 0.0), 1, 1),
        (Share(2, 0.0), 1, 2),
        (Share(5, 0.0), 3, 2),
        (Share(4, 0.0, spread=True), 4, 1),
        (Share(2, 0.5), 2, 1),
        (Share(2, 0.0, one_each=True), 2, 1),
    ],
)
def test_a_last_training_has_two_workers_cores_where_they_are_on_one_machine(
    share: Share, finalists: int, threads: int
) -> None:
    assert (share.finalists, share.threads_of_last) == (finalists, threads)
