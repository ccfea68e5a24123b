"""All that this package uses of torch and has no public name there, each with its reason.

`tests/learning/ops/test_torch_private.py` fails where a release of torch changes one of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten


def is_transformed(x: Tensor) -> bool:
    """Whether a `torch.func` transform (vmap, grad) is at work on this tensor.

    Fused operations give wrong second derivatives there, or none (torch 2.13). torch has no public question for it.
    """
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def are_stacked(*tensors: Tensor) -> bool:
    """Whether vmap, and no other transform, maps over every one of these tensors. No public question either."""
    return all(torch._C._functorch.is_batchedtensor(t) for t in tensors)


# Operators that no public function names, by which the public `FlopCounterMode` is told what they cost.
COUNTED: dict[str, Any] = {
    "attention": _ATEN._scaled_dot_product_flash_attention_for_cpu,
    "attention_backward": _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
    "cudnn_layers": _ATEN._cudnn_rnn,
    "cudnn_layers_backward": _ATEN._cudnn_rnn_backward,
    "distances": _ATEN._cdist_forward,
    "distances_backward": _ATEN._cdist_backward,
}
