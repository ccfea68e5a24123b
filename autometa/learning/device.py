"""Where training runs: the device, its threads and its arithmetic, and the seeds of all generators."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Sequence

import torch

from autometa.errors import ConfigError


def pick_device(use_gpu: bool | None = None) -> torch.device:
    """A GPU if there is one; with True it must be there, with False it is not used.

    Raises:
        ConfigError: a GPU is asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if use_gpu and not available:
        raise ConfigError("a GPU is asked for, but torch sees none (torch.cuda.is_available() is False)")
    if not available or use_gpu is False:
        _keep_freed_memory()
        return torch.device("cpu")
    # TF32 keeps ten bits of the mantissa: far below the noise of an episode, and several times as fast.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def _keep_freed_memory() -> None:
    """Have glibc keep the large blocks that torch frees, for the rest of the process.

    By default each goes back to the kernel and is faulted in again at the next step: training steps of
    conv-32 and conv-64 on 400 images of 32 x 32 took 209 and 559 ms, and take 103 and 256 ms.
    """
    if sys.platform != "linux" or "MALLOC_MMAP_THRESHOLD_" in os.environ:  # whoever set it has decided
        return
    most = 2**31 - 1
    arena_max, mmap_threshold, trim_threshold, top_pad = -8, -3, -1, -2  # malloc.h
    values = {arena_max: 1, mmap_threshold: most, trim_threshold: most, top_pad: 64 * 2**20}
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in values.items():
            mallopt(parameter, value)


def limit_threads(count: int) -> None:
    """Use this many threads for arithmetic in this process."""
    torch.set_num_threads(count)


def limit_gpu_memory(fraction: float) -> None:
    """Let this process have only its share of the GPU's memory: Ray's fractions do not isolate it."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))


# What torch and the libraries below it say in a plain RuntimeError; a CUDA allocation has a class of its own.
_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch raises when memory does not suffice, of a GPU or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def give_back_memory() -> None:
    """Return what is not in use any more to the device, as after an error whose traceback held it."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def seed_everything(seed: int) -> None:
    """Seed torch's global generators, which draw initial weights and dropout."""
    torch.manual_seed(seed)


def random_states(device: torch.device) -> list[tuple[torch.Generator, torch.Tensor]]:
    """The global generators that a step on this device may draw from, and their states."""
    generators = {id(g): g for g in (torch.default_generator, global_generator(device))}
    return [(generator, generator.get_state()) for generator in generators.values()]


@contextlib.contextmanager
def replayed(states: Sequence[tuple[torch.Generator, torch.Tensor]]) -> Iterator[None]:
    """Draw inside what was drawn after these states; afterwards the generators go on as if nothing was."""
    after = [(generator, generator.get_state()) for generator, _ in states]
    for generator, state in states:
        generator.set_state(state)
    yield
    for generator, state in after:
        generator.set_state(state)


@contextlib.contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Have what draws from the global generator of a device, and takes no other, draw from this one inside."""
    stand_in = global_generator(generator.device)
    before = stand_in.get_state()
    stand_in.set_state(generator.get_state())
    try:
        yield
    finally:
        after = stand_in.get_state()
        stand_in.set_state(before)
        generator.set_state(after)  # last: it may be the global one itself


def global_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout draws from on this device; its state is part of a checkpoint."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
