"""A Ray cluster for the length of a search: the one at an address, or a private one that starts in the background.

A private one takes 2 to 4 s to come up, so it starts while the driver still imports and checks what it needs, and its
workers load torch meanwhile. It knows nothing of trials; `trials.py` and `segments.py` run them.
"""

from __future__ import annotations

import _thread
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Read by Ray when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Whoever shows a token may join clusters that ask for one and those that do not. Without one, Ray makes it for a
# private cluster by itself, and lets nobody else in; a cluster at an address is then one that asks for none.
if (
    any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")))
    or Path("~/.ray/auth_token").expanduser().is_file()
):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints tables at verbose=0 too
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the record, not Tune's snapshots

import ray

from autometa.errors import ConfigError

# glibc hands large buffers back to the kernel after each step and page-faults them in again; with these,
# read when a process starts, a batched step is 2 to 2.6 times as fast on a CPU. One arena, because Tune runs
# a trial in a thread that is not the main one, whose own arena ignores the rest above 64 MB: a step of conv-64
# took 431 to 449 ms without it and 239 to 262 with it.
WORKER_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}
# The raylet asks for its own object store a moment too early and then sleeps for a second: ask 50 times as often.
# And a worker that still imports what it will need is not idle, as Ray has it after a second.
_PRIVATE_ENVIRONMENT = {
    "RAY_raylet_client_connect_timeout_milliseconds": "20",
    "RAY_raylet_client_num_connect_attempts": "500",
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_PRELOADING = {"RAY_preload_python_modules": "autometa.orchestrator.preload"}
_SECONDS_BETWEEN_LOOKS, _LOOKS = 2, 3  # a cluster that answers none of so many is gone
_OBJECT_STORE_BYTES = 256 * 2**20  # workers map the data set from disk; Ray's default is 30 % of memory


@dataclass(frozen=True)
class Share:
    """How many workers at once, the part of a GPU each has, and how many trials each may train together.

    `spread` says whether workers are on several machines, and `one_each` whether every worker has a last training of
    its own, where two could share their cores.
    """

    workers: int
    gpus: float
    together: int = 1
    spread: bool = False
    one_each: bool = False

    @property
    def trials(self) -> int:
        """How many trials run at once, at most."""
        return self.workers * self.together

    @property
    def threads(self) -> int:
        """Of a CPU, for one that has two workers' cores. Those of several machines need not have their cores on one."""
        return 1 if self.gpus or self.spread or self.workers == 1 else 2

    @property
    def threads_of_last(self) -> int:
        """The same for each of the last trainings of an open search.

        For some minutes one model in two threads is better than two together in one each; `docs/log.md` has by how
        much.
        """
        return 1 if self.one_each else self.threads

    @property
    def finalists(self) -> int:
        """How many last trainings there are at once."""
        return math.ceil(self.workers / self.threads_of_last)

    @property
    def resources(self) -> dict[str, float]:
        """Ray's words for one worker's share."""
        return {"cpu": 1, "gpu": self.gpus} if self.gpus else {"cpu": 1}


class Cluster:
    """The Ray cluster of a `with` block: it starts at once, and `wait` says when it is up.

    Ray is started, and at the end stopped, in one thread that lives as long as the block: Linux ends Ray's processes
    with the thread that made them, which is how a driver that is killed leaves none behind.

    Args:
        address: of a cluster there is; a private one on this machine without it.
        workers: trials at once; by default one a core, or one a GPU.
        on_lost: called in a thread of its own with what happened, when the cluster at the address is gone. By default
            the main thread is interrupted, and a search raises. Ray ends a driver without its cluster after a minute.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        on_lost: Callable[[str], object] = lambda said: _thread.interrupt_main(),
    ) -> None:
        self._address = address
        self._on_lost = on_lost
        self.lost: str | None = None
        self._workers = workers
        self._is_up, self._is_over = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._live, name="ray", daemon=True)
        self._on_sigterm: Any = None  # who handled it before

    def __enter__(self) -> Cluster:
        # What matters of a worker that dies is told by the ledger, in one line in place of a traceback.
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        if self._on_sigterm is not None:
            signal.signal(signal.SIGTERM, self._on_sigterm)

    def wait(self) -> None:
        """Return when the cluster is up.

        Raises:
            ConfigError: there is no cluster at that address, or none can be started.
        """
        self._is_up.wait()
        error = self._error
        if isinstance(error, ConfigError):
            raise error
        if isinstance(error, ConnectionError | RuntimeError | ValueError | ray.exceptions.RayError):
            where = self._address or "this machine"
            hint = "; if it asks for another token than yours, set RAY_AUTH_TOKEN to its own" if self._address else ""
            raise ConfigError(f"no Ray cluster at {where}: {str(error).splitlines()[0]}{hint}") from None
        if error:
            raise error
        self._end_in_order()

    def _end_in_order(self) -> None:
        """Take SIGTERM, which `docker stop`, Slurm and systemd send, for Ctrl-C: Ray's own handler ends the process.

        Ray sets it when it starts, so this comes after. A handler that a program set for itself stays.
        """
        if threading.current_thread() is threading.main_thread() and self._on_sigterm is None:
            before = signal.getsignal(signal.SIGTERM)
            if before == signal.SIG_DFL:
                self._on_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)

    @property
    def joined(self) -> str | None:
        """Where the cluster is that an address led to, and what it has; None for a private one."""
        if not self._address:
            return None
        has = ray.cluster_resources()
        nodes = _machines(has)
        size = f"{nodes} nodes" if nodes > 1 else "one node"
        return (
            f"{ray.get_runtime_context().gcs_address}: {size}, {has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs"
        )

    def share_out(
        self, gpus_per_trial: float | None, trials_at_once: Callable[[], int] = lambda: 1, *, together: int = 1
    ) -> Share:
        """Decide workers and GPU share from what was asked for and what the cluster has.

        Args:
            trials_at_once: how many trials fit one GPU; asked where there is one and nobody said how to share it.
            together: how many of them a worker may train as one model.

        Raises:
            ConfigError: a GPU is asked for and there is none, or not so many.
        """
        total = ray.cluster_resources()
        gpus, cpus = int(total.get("GPU", 0)), int(total.get("CPU", 1))
        _check_gpus(gpus_per_trial or 0.0, gpus)
        workers = self._workers
        if gpus_per_trial is None:
            # Exactly 1/k of a GPU: other fractions strand the rest of it.
            gpus_per_trial = 1 / _on_one_gpu(workers, gpus, cpus, lambda: trials_at_once() // together) if gpus else 0.0
        most = int(gpus / gpus_per_trial + 1e-9) if gpus_per_trial else cpus
        workers = min(workers or most, max(1, most))
        return Share(workers=workers, gpus=gpus_per_trial, together=together, spread=_machines(total) > 1)

    def _live(self) -> None:
        try:
            self._start()
        except Exception as error:
            self._error = error
        self._is_up.set()
        if self._address and not self._error:
            self._watch(ray.get_runtime_context().gcs_address)
        self._is_over.wait()
        if not self.lost:  # nobody would answer
            ray.shutdown()

    def _watch(self, address: str) -> None:
        """Look after the cluster until the block ends, or the cluster does not answer any more."""
        unanswered = 0
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            unanswered = unanswered + 1 if _no_answer(address) else 0
            if unanswered == _LOOKS:
                self.lost = f"the Ray cluster at {address} is gone; what was done is kept: the same command continues"
                self._on_lost(self.lost)
                return

    def _start(self) -> None:
        quiet: dict[str, Any] = {"logging_level": "CRITICAL", "log_to_driver": False, "configure_logging": False}
        if self._address:
            _check_reachable(self._address)
            ray.init(address=self._address, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **quiet)
            return
        with _environment(WORKER_ENVIRONMENT | _PRIVATE_ENVIRONMENT | (_PRELOADING if _is_for_cpus() else {})):
            ray.init(
                address="local",
                num_cpus=max(self._workers or 0, os.cpu_count() or 1),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )


def require_local_gpus(gpus_per_trial: float) -> None:
    """Raise `ConfigError` where this machine has fewer GPUs, before anything is started or written."""
    import torch

    _check_gpus(gpus_per_trial, torch.cuda.device_count())


def _on_one_gpu(workers: int | None, gpus: int, cpus: int, trials_at_once: Callable[[], int]) -> int:
    """As many as the workers need, or, without a number of workers, as fit and have a core each."""
    return max(1, -(-workers // gpus) if workers else min(trials_at_once(), cpus // gpus))


def _machines(has: Mapping[str, float]) -> int:
    """Of a cluster with these resources."""
    return sum(name.startswith("node:") and "internal" not in name for name in has)


def _check_gpus(gpus_per_trial: float, gpus: int) -> None:
    if gpus_per_trial > gpus:
        raise ConfigError(
            f"--gpus-per-trial {gpus_per_trial:g}: there are {gpus} GPUs; leave it out to use what there is"
        )


def _is_for_cpus() -> bool:
    """Whether trials will take one core each, so that all of Ray's workers, one a core, will be wanted."""
    return not Path("/proc/driver/nvidia/gpus").is_dir()


def _check_reachable(address: str) -> None:
    """Try the port first: Ray itself tries for minutes. `auto` and other names are Ray's to resolve."""
    if why := _no_answer(address):
        raise ConfigError(f"no Ray cluster at {address}: {why}")


def _no_answer(address: str) -> str | None:
    """Why nobody answers at an address with a port; None where somebody does."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """These variables for processes started meanwhile, unless the user set them."""
    ours = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
