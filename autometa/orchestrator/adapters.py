"""What Tune's searchers, schedulers and stoppers have in common here: no state of their own, and errors that end all.

Tune's stock `OptunaSearch` stores trials that were stopped early as COMPLETE and loses their last report
(ray#52535 and others), so small adapters stand in its place. What must survive a crash is in the study and in the
trials' checkpoints.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

# Sets what Ray reads when it is imported.
import autometa.orchestrator.cluster  # noqa: F401

# isort: split
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

# A worker that was killed is started again this often, and its trial goes on from its checkpoint.
RETRIES = 2
LOST = f"its worker died {RETRIES + 1} times (killed, out of memory, or its node was lost)"


class StopAll(Stopper):
    """Stops all trials as soon as there is an error that concerns them all.

    Tune would take what a callback raises for the failure of one trial, or make a text of it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.error is not None

    @contextlib.contextmanager
    def on_error(self) -> Iterator[None]:
        """Keep the first error of the block and end the block; what comes later follows from it."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StatelessSearcher(Searcher):
    """A searcher that Tune has nothing to keep of: the study has it all, and a pickle would hold its password."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler sees every result, the searcher misses the last one."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StatelessScheduler(FIFOScheduler):
    """The same for schedulers."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
