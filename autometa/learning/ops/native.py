"""Calls of the C code in `kernels/`, on tensors: `compiled.py` makes the library.

Where there is none, or with AUTOMETA_KERNELS=off, torch's own operations do the same in more passes. Both stay what
they are on one machine, so a seed gives one result there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import warnings
from collections.abc import Callable

import torch

from autometa.learning.ops import compiled

_REAL = {torch.float32: "float", torch.float64: "double"}
_Sizes = tuple[int, ...]
_asked: dict[torch.dtype, str] = {}


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("M", "H", "W", "C", "T", "S", "f", "n", "D", "threads")]


def run(name: str, sizes: _Sizes, first: torch.Tensor, *others: torch.Tensor | None) -> None:
    """Call a kernel on contiguous CPU tensors; `sizes` are M, H, W, C, T, S, f, n and D as in `maps.h`."""
    kernel = _function(name, first.dtype, 2 + len(others))
    kernel(_shape(sizes, torch.get_num_threads()), first.data_ptr(), *_pointers(others))


def run_with_workspace(name: str, sizes: _Sizes, first: torch.Tensor, *others: torch.Tensor | None) -> None:
    """The same for a kernel of a block, which needs a workspace.

    The number of threads may change between calls, also between a forward and its backward pass, so the workspace is
    sized for the number that the kernel is told.
    """
    threads = torch.get_num_threads()
    workspace = first.new_empty(_workspace(first.dtype, sizes, threads))
    kernel = _function(name, first.dtype, 3 + len(others))
    kernel(_shape(sizes, threads), workspace.data_ptr(), first.data_ptr(), *_pointers(others))


def is_available(dtype: torch.dtype) -> bool:
    """Whether there are kernels for tensors of this type on this machine; compiles them at the first call.

    Warns once where there should be some and are none.
    """
    return dtype in _REAL and _library(dtype) is not None


def use() -> str | None:
    """What became of the kernels in this process: `used`, `off`, or `not used: ` and why.

    None where nobody has asked for them yet, as on a GPU.
    """
    return "; ".join(sorted(set(_asked.values()))) or None


def _pointers(tensors: tuple[torch.Tensor | None, ...]) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors]


@functools.cache
def _function(name: str, dtype: torch.dtype, arguments: int) -> Callable[..., None]:
    library = _library(dtype)
    assert library is not None
    function = getattr(library, name)
    function.argtypes, function.restype = [ctypes.c_void_p] * arguments, None
    return function


@functools.lru_cache(maxsize=256)
def _shape(sizes: _Sizes, threads: int) -> ctypes.c_void_p:
    """A pointer to them, which keeps what it points to."""
    return ctypes.cast(ctypes.pointer(_Shape(*sizes, threads)), ctypes.c_void_p)


@functools.lru_cache(maxsize=256)
def _workspace(dtype: torch.dtype, sizes: _Sizes, threads: int) -> int:
    library = _library(dtype)
    assert library is not None
    library.block_workspace.argtypes, library.block_workspace.restype = [ctypes.c_void_p], ctypes.c_long
    return int(library.block_workspace(_shape(sizes, threads)))


@functools.cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    if os.environ.get("AUTOMETA_KERNELS") == "off" or platform.system() == "Windows":
        _asked[dtype] = "off"
        return None
    try:
        library = compiled.load(_REAL[dtype])
    except compiled.NoKernelsError as error:
        _asked[dtype] = f"not used: {error}"
        warnings.warn(
            f"compiled kernels are {_asked[dtype]}; training on a CPU is slower", RuntimeWarning, stacklevel=2
        )
        return None
    _asked[dtype] = "used"
    return library
