"""Checkpoints: safetensors and JSON, never pickle, and whole at any moment, also after `kill -9`.

Tensors go into a new file; then the JSON that names it is swapped in. A crash in between leaves the old
pair. It does not know what the numbers mean to anyone else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from autometa.errors import CheckpointError, first_line
from autometa.learning.checkpoint_facts import FACTS, FORMAT, read_facts
from autometa.learning.checkpoint_files import tidy, unwritable, write
from autometa.learning.device import is_out_of_memory
from autometa.learning.learner import Learner
from autometa.learning.training import Training
from autometa.learning.training_state import TrainingState
from autometa.records import RungReport

_LEARNER, _AVERAGE, _OPTIMIZER, _GENERATORS = "learner/", "average/", "optimizer/", "generator/"


def save(folder: Path, training: Training, *, extra: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the one before. `extra` is kept in the JSON.

    Raises:
        StopSearchError: nothing can be written there (space, quota, permission); the checkpoint before is still there.
        CheckpointError: the folder cannot be written for another reason.
    """
    state = training.state
    data = dump_tensors(dict(_all_tensors(training)))
    digest = hashlib.sha256(data).hexdigest()
    # A name of its own content: no file that the JSON may still name is ever written over.
    tensors = f"step-{state.steps:08d}-{digest[:12]}.safetensors"
    facts = {
        "format": FORMAT,
        "tensors": tensors,
        "sha256": digest,
        "device": training.generator.device.type,
        "steps": state.steps,
        "seconds": state.seconds,
        "last_step": state.last_step,
        "averaged": training.average.steps if training.average else 0,
        "cooling": state.cooling,
        "warms_from": state.warms_from,
        "curve": [report.model_dump() for report in state.curve],
        "extra": dict(extra),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / tensors, data)
        write(folder / FACTS, json.dumps(facts).encode())
        tidy(folder, tensors)
    except OSError as error:
        raise unwritable(folder, error) from None


def load(folder: Path, training: Training) -> None:
    """Bring a `Training` of the same job to where a checkpoint was saved.

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another model.
    """
    facts, tensors = _read(folder)
    try:
        steps, seconds, last_step = int(facts["steps"]), float(facts["seconds"]), facts["last_step"]
        curve = [RungReport.model_validate(report) for report in facts["curve"]]
        cooling = facts.get("cooling")
        _load_learner(folder, tensors, training.learner)
        if training.average:
            averaged = int(facts.get("averaged") or 0)
            if averaged:
                _load_learner(folder, tensors, training.average.learner, _AVERAGE)
            training.average.resume(averaged)
        _load_optimizer(folder, tensors, training.optimizer)
        _load_generators(tensors, training.generator, same_device=facts["device"] == training.generator.device.type)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{folder}: damaged: {first_line(error)}") from None
    cooling = None if cooling is None else (float(cooling[0]), float(cooling[1]))
    warms_from = int(facts.get("warms_from", 0))
    training.state = TrainingState(training.state.budget, steps, seconds, last_step, curve, cooling, warms_from)


def load_weights(folder: Path, learner: Learner) -> None:
    """Load only the model of a checkpoint: its averaged weights, if it has them. Raises `CheckpointError` as `load`."""
    facts, tensors = _read(folder)
    _load_learner(folder, tensors, learner, _AVERAGE if facts.get("averaged") else _LEARNER)


def _all_tensors(training: Training) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in training.learner.state_dict().items():
        yield _LEARNER + name, _portable(tensor)
    if training.average and training.average.steps:
        for name, tensor in training.average.learner.state_dict().items():
            yield _AVERAGE + name, _portable(tensor)
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
        data = (folder / str(facts["tensors"])).read_bytes()
        if hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise CheckpointError(f"{folder}: damaged: its tensors are not those that were saved")
        return facts, load_tensors(data)
    except (OSError, SafetensorError, KeyError) as error:
        raise CheckpointError(f"{folder}: its tensors are damaged or missing: {error}") from None


def _load_learner(folder: Path, tensors: Mapping[str, Tensor], learner: Learner, prefix: str = _LEARNER) -> None:
    state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
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
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, kept in state.items():
        if number >= len(parameters) or any(t.dim() and t.shape != parameters[number].shape for t in kept.values()):
            raise CheckpointError(f"{folder}: holds the optimiser of another model")
    try:
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except ValueError as error:
        raise CheckpointError(f"{folder}: holds the optimiser of another model: {error}") from None


def _load_generators(tensors: Mapping[str, Tensor], generator: torch.Generator, *, same_device: bool) -> None:
    """States of all generators. On another kind of device that of training cannot go on, and is seeded anew."""
    state = tensors[f"{_GENERATORS}training"]
    if same_device:
        generator.set_state(state)
    else:
        generator.manual_seed(generator.initial_seed() + int(state.long().sum()))
    torch.set_rng_state(tensors[f"{_GENERATORS}global"])
    if f"{_GENERATORS}cuda" in tensors and generator.device.type == "cuda":
        torch.cuda.set_rng_state(tensors[f"{_GENERATORS}cuda"], generator.device)
