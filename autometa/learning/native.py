"""The C code in `kernels/`, compiled for this processor when it is first needed, by the C compiler that is here.

Where there is none, or with AUTOMETA_KERNELS=off, torch's own operations do the same in more passes. Both stay what
they are on one machine, so a seed gives one result there.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from autometa.data import cache

_SOURCES = sorted(Path(__file__).with_name("kernels").iterdir())
# No -ffast-math: it lets a compiler assume that no number is NaN, and diverged trials are known by theirs.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
_SECONDS = 60
_REAL = {torch.float32: "float", torch.float64: "double"}


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("M", "H", "W", "C", "T", "S", "f", "n", "D", "threads")]


def run(name: str, sizes: tuple[int, ...], first: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Call a kernel on contiguous CPU tensors; `sizes` are M, H, W, C, T, S, f, n and D as in `maps.h`."""
    pointers = [None if t is None else t.data_ptr() for t in others]
    kernel = _kernel(name, first.dtype, 2 + len(others))
    kernel(_shape(sizes, torch.get_num_threads()), first.data_ptr(), *pointers)


@functools.cache
def _kernel(name: str, dtype: torch.dtype, arguments: int) -> Callable[..., None]:
    library = _library(dtype)
    assert library is not None
    kernel = getattr(library, name)
    kernel.argtypes, kernel.restype = [ctypes.c_void_p] * arguments, None
    return kernel


@functools.lru_cache(maxsize=256)
def _shape(sizes: tuple[int, ...], threads: int) -> ctypes.c_void_p:
    """A pointer to them, which keeps what it points to."""
    return ctypes.cast(ctypes.pointer(_Shape(*sizes, threads)), ctypes.c_void_p)


def is_available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for tensors of this type on this machine; compiles them at the first call."""
    return dtype in _REAL and _library(dtype) is not None


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None or os.environ.get("AUTOMETA_KERNELS") == "off" or platform.system() == "Windows":
        return None
    path = cache.root() / "kernels" / f"{_fingerprint(compiler, _REAL[dtype])}.so"
    try:
        if not path.exists():
            _compile(compiler, _REAL[dtype], path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):  # a compiler that cannot is none
        return None


def _compile(compiler: str, real: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, f"-DREAL={real}", *_FLAGS, "-fPIC", "-shared", "-o", str(made)]
        command += [str(source) for source in _SOURCES if source.suffix == ".c"]
        # torch has loaded an OpenMP already, and its threads serve here as well; Apple's clang has none.
        for openmp in (["-fopenmp"], []):
            done = subprocess.run([*command, *openmp], capture_output=True, timeout=_SECONDS, check=not openmp)
            if done.returncode == 0:
                break
        made.replace(path)  # at once: other workers may be doing the same


def _fingerprint(compiler: str, real: str) -> str:
    """What the code depends on: a cache may be shared by machines with other processors."""
    code = [source.read_text() for source in _SOURCES]
    parts = (*code, str(_FLAGS), real, os.path.realpath(compiler), platform.platform(), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _processor() -> str:
    """What it can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
