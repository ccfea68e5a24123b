"""Checkpoints: safetensors and JSON, never pickle, and whole at any moment, also after `kill -9`.

Tensors go into a new file; then the JSON that names it is swapped in. A crash in between leaves the old
pair. It does not know what the numbers mean to anyone else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from autometa.errors import CheckpointError
from autometa.learning.checkpoint_facts import FACTS, FORMAT, read_facts
from autometa.learning.learner import Learner
from autometa.learning.training import Training
from autometa.records import RungReport

_LEARNER, _OPTIMIZER, _GENERATORS = "learner/", "optimizer/", "generator/"


def save(folder: Path, training: Training, *, extra: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one before. `extra` is kept in the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = f"step-{training.steps:08d}.safetensors"
    _write(folder / tensors, training)
    facts = {
        "format": FORMAT,
        "tensors": tensors,
        "steps": training.steps,
        "seconds": training.seconds,
        "last_step": training.last_step,
        "curve": [report.model_dump() for report in training.curve],
        "extra": dict(extra),
    }
    draft = folder / f".{FACTS}.{os.getpid()}"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / FACTS)
    for old in folder.glob("*.safetensors"):
        if old.name != tensors:
            old.unlink()


def load(folder: Path, training: Training) -> None:
    """Bring a new `Training` of the same job to where a checkpoint was saved.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another model.
    """
    facts, tensors = _read(folder)
    _load_learner(folder, tensors, training.learner)
    _load_optimizer(folder, tensors, training.optimizer)
    training.generator.set_state(tensors[f"{_GENERATORS}training"])
    torch.set_rng_state(tensors[f"{_GENERATORS}global"])
    if f"{_GENERATORS}cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[f"{_GENERATORS}cuda"])
    training.steps, training.seconds = int(facts["steps"]), float(facts["seconds"])
    training.last_step = facts["last_step"]
    training.curve = [RungReport.model_validate(report) for report in facts["curve"]]


def load_weights(folder: Path, learner: Learner) -> None:
    """Load only the learner of a checkpoint; raises `CheckpointError` as `load` does."""
    _, tensors = _read(folder)
    _load_learner(folder, tensors, learner)


def _write(file: Path, training: Training) -> None:
    tensors = dict(_all_tensors(training))
    draft = file.with_suffix(f".{os.getpid()}.draft")
    try:
        save_file(tensors, draft)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, file)
    except SafetensorError as error:
        draft.unlink(missing_ok=True)
        raise CheckpointError(f"{file}: cannot be written: {error}") from None


def _all_tensors(training: Training) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in training.learner.state_dict().items():
        yield _LEARNER + name, _portable(tensor)
    for index, state in training.optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                yield f"{_OPTIMIZER}{index}/{name}", _portable(torch.as_tensor(value))
    yield f"{_GENERATORS}training", training.generator.get_state()
    yield f"{_GENERATORS}global", torch.get_rng_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        yield f"{_GENERATORS}cuda", torch.cuda.get_rng_state()


def _portable(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    facts = read_facts(folder)
    try:
        return facts, load_file(folder / str(facts["tensors"]))
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder}: its tensors are damaged or missing: {error}") from None


def _load_learner(folder: Path, tensors: Mapping[str, Tensor], learner: Learner) -> None:
    state = {name.removeprefix(_LEARNER): t for name, t in tensors.items() if name.startswith(_LEARNER)}
    try:
        learner.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: holds another model: {str(error).splitlines()[-1].strip()}") from None


def _load_optimizer(folder: Path, tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split("/")
            state.setdefault(int(index), {})[key] = tensor
    try:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except ValueError as error:
        raise CheckpointError(f"{folder}: holds the optimiser of another model: {error}") from None
