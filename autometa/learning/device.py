"""Where training runs: the device, its threads and its arithmetic, and the seeds of all generators."""

from __future__ import annotations

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
        return torch.device("cpu")
    # TF32 keeps ten bits of the mantissa: far below the noise of an episode, and several times as fast.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def limit_threads(count: int) -> None:
    """Use this many threads for arithmetic in this process."""
    torch.set_num_threads(count)


def limit_gpu_memory(fraction: float) -> None:
    """Let this process have only its share of the GPU's memory: Ray's fractions do not isolate it."""
    torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))


def seed_everything(seed: int) -> None:
    """Seed torch's global generators, which draw initial weights and dropout."""
    torch.manual_seed(seed)
