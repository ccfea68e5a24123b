"""Ray's private members stand in one file, and the installed version still has them."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Sets what Ray reads when it is imported.
from autometa.orchestrator.cluster import Cluster  # isort: split

import ray
from ray import tune

import autometa
from autometa.orchestrator import ray_private

PACKAGE = Path(autometa.__file__).parent
PRIVATE = re.compile(r"ray(\.\w+)*\._|from ray\S* import .*\b_\w|ray\.tune\.execution|_system_config|torch\._")


def test_an_actor_of_tune_is_a_worker_that_was_up(tmp_path: Path) -> None:
    def preloaded(config: dict[str, object]) -> None:
        import sys

        is_loaded = "autometa.trial.run" in sys.modules
        tune.report({"is_loaded": is_loaded, "lightning": os.environ.get("PL_DISABLE_FORK", "")})

    with Cluster(workers=1) as cluster:
        cluster.wait()
        ray_private.let_actors_take_started_workers()
        results = tune.Tuner(
            tune.with_resources(preloaded, {"cpu": 1}),
            run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        ).fit()
    message = f"Ray {ray.__version__} starts Tune's actors otherwise: change autometa/orchestrator/ray_private.py"
    assert results[0].metrics, message
    assert results[0].metrics["lightning"] == "", message
    assert results[0].metrics["is_loaded"], message


def test_no_other_file_uses_private_members_of_ray() -> None:
    found = {
        path.name
        for path in (PACKAGE / "orchestrator").rglob("*.py")
        if PRIVATE.search(path.read_text(encoding="utf-8"))
    }
    found |= {
        path.name
        for path in PACKAGE.rglob("*.py")
        if re.search(r"ray(\.\w+)*\._|from ray\S* import .*\b_\w", path.read_text(encoding="utf-8"))
    }
    assert found == {"ray_private.py"}
