"""What a worker of a private cluster imports as soon as it is up, while the driver still works.

Ray imports this file in each new worker, and nobody else does.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
from collections.abc import Iterator
from pathlib import Path

_FEW_CORES = 2


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """On two cores, of which the driver wants one, one worker after the other: the first trial starts a second sooner.

    The last worker is ready no later: together they have as much to import either way.
    """
    with contextlib.ExitStack() as stack:
        if (os.cpu_count() or 1) <= _FEW_CORES:
            file = stack.enter_context(Path(__file__).open())
            with contextlib.suppress(OSError):  # a file system without locks costs that second
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


gc.disable()  # looking for garbage among what is imported takes a tenth of the time, and there is none
with _turn():
    import torch

    import autometa.orchestrator.segments
    import autometa.orchestrator.trials
    import autometa.trial.run  # noqa: F401

    torch.optim.SGD([torch.zeros(1)])  # imports what the first optimiser needs, a second's work
gc.freeze()
gc.enable()
