"""What every job in a worker begins and ends with: its share of the machine, and what an error means for the search."""

from __future__ import annotations

import traceback

from autometa.errors import AutometaError, StopSearchError, write_trouble


def keep_to_share(use_gpu: bool | None, gpus: float, threads: int = 1) -> None:
    """Threads on a CPU, where two spinning OpenMP pools slow each other about sevenfold; on a GPU its memory."""
    from autometa.learning.device import limit_gpu_memory, limit_threads, pick_device

    if not use_gpu:
        limit_threads(threads)
    elif gpus < 1 and pick_device(True).type == "cuda":
        limit_gpu_memory(gpus)


def why(error: Exception) -> tuple[str | None, str]:
    """Why the whole search has to stop, if it has to; and why a trial failed."""
    if isinstance(error, StopSearchError):
        return str(error), str(error)
    if isinstance(error, AutometaError):
        return None, str(error)
    if isinstance(error, OSError) and (trouble := write_trouble(error)):
        where = f"{error.filename}: {trouble}" if error.filename else trouble
        return where, where
    traceback.print_exc()  # a bug in a learner, perhaps the user's own, ends its trials and not the search
    return None, f"{type(error).__name__}: {error}"
