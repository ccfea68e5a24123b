"""Modules as files for other programs, by ONNX or `torch.export`: written, run, and compared with what is expected."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autometa.errors import ConfigError

_KEY = "autometa"  # of the facts inside a file
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


class Kind(StrEnum):
    """What a file is."""

    onnx = "onnx"
    torch = "torch"


@dataclass(frozen=True)
class Check:
    """Real tensors for a file, by name, and what the model itself says of them."""

    given: Mapping[str, Tensor]
    expected: Tensor


@dataclass(frozen=True)
class Part:
    """One file to be: what it computes, the axes of its tensors by name, and what it is checked by."""

    name: Literal["features", "episode", "classifier"]
    module: nn.Module
    inputs: Mapping[str, list[str | int]]
    output: Mapping[str, list[str | int]]
    checks: Sequence[Check]
    facts: Mapping[str, Any]


def require(kind: Kind) -> None:
    """Raise `ConfigError` where a package is missing that this kind of file needs."""
    needed = ("onnxruntime", "onnxscript") if kind is Kind.onnx else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--to onnx needs {' and '.join(missing)}: pip install 'autometa-search[onnx]'")


def write(part: Part, file: Path, kind: Kind, facts: str) -> None:
    """Write a file with these facts inside."""
    with _quiet(), torch.no_grad():
        (_write_onnx if kind is Kind.onnx else _write_torch)(part, file, facts)


def difference(part: Part, file: Path, kind: Kind) -> float:
    """The largest between what the file says and what is expected, relative where numbers are larger than 1."""
    with _quiet(), torch.no_grad():
        run = (_run_onnx if kind is Kind.onnx else _run_torch)(file, *part.output)
        return max(_difference(run(one.given), one.expected) for one in part.checks)


def _write_onnx(part: Part, file: Path, facts: str) -> None:
    given = part.checks[0].given
    program = torch.onnx.export(
        part.module,
        tuple(given.values()),
        dynamo=True,
        verbose=False,
        input_names=list(given),
        output_names=list(part.output),
        dynamic_shapes=_dynamic(part),
    )
    assert program is not None
    program.model.metadata_props[_KEY] = facts
    program.save(file)


def _write_torch(part: Part, file: Path, facts: str) -> None:
    given = part.checks[0].given
    program = torch.export.export(part.module, tuple(given.values()), dynamic_shapes=_dynamic(part))
    torch.export.save(program, file, extra_files={f"{_KEY}.json": facts})


def _dynamic(part: Part) -> dict[str, dict[int, Any]]:
    """The axes of each tensor that may have any length from 1 on."""
    named = {axis for axes in part.inputs.values() for axis in axes if isinstance(axis, str)}
    lengths = {axis: torch.export.Dim(axis, min=1) for axis in named}
    return {
        name: {place: lengths[axis] for place, axis in enumerate(axes) if isinstance(axis, str)}
        for name, axes in part.inputs.items()
    }


_Run = Callable[[Mapping[str, Tensor]], Tensor]


def _run_onnx(file: Path, output: str) -> _Run:
    session = importlib.import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(given: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(session.run([output], {name: one.numpy() for name, one in given.items()})[0])

    return run


def _run_torch(file: Path, output: str) -> _Run:
    module = torch.export.load(file).module()

    def run(given: Mapping[str, Tensor]) -> Tensor:
        found: Tensor = module(*given.values())
        return found

    return run


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative where numbers are larger than 1; infinite for another shape."""
    if found.shape != expected.shape:
        return math.inf
    return float(((found - expected).abs() / expected.abs().max().clamp(min=1)).max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what these packages say of packages that are not needed, and of their own future."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
