"""Floating-point operations by formulas of these tests' own, in which no operation goes unseen."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Neither pointwise nor a view by what torch says of them, and yet nothing that is a product or a sum of products: they
# reduce, gather, order, draw, allocate and copy.
_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool2d_backward _foreach_add_ _foreach_mul_ _foreach_norm _fused_adam_
_local_scalar_dense _log_softmax _log_softmax_backward_data _native_batch_norm_legit _record_function_enter_new
_record_function_exit _softmax _softmax_backward_data _standard_gamma _to_copy _unsafe_view amax aminmax any arange
argmax binary_cross_entropy_with_logits cat constant_pad_nd copy_ cumsum diag_embed diagonal_backward empty empty_like
eye fill_ flip floor_divide full gather index index_put index_select leaky_relu_backward linalg_vector_norm logsumexp
masked_fill_ max_pool2d_with_indices max_pool2d_with_indices_backward mean mse_loss mse_loss_backward native_batch_norm
native_batch_norm_backward native_group_norm native_group_norm_backward native_layer_norm native_layer_norm_backward
new_empty new_empty_strided new_full new_zeros nll_loss_backward nll_loss_forward ones_like rand randint randperm rot90
scalar_tensor scatter scatter_ scatter_add searchsorted select_backward set_ slice_backward sort stack sum topk tril
unsafe_split zeros zeros_like
"""
NUMBER_BY_NUMBER = frozenset(_NAMES.split())


class Counted(TorchDispatchMode):
    """Counts what is dispatched inside; raises at an operation that it does not know.

    Attributes:
        total: a multiplication and an addition are two operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.name().split("::")[1].split(".")[0]
        if name in FORMULAS:
            self.total += FORMULAS[name](out, *args)
        elif not (torch.Tag.pointwise in function.tags or function.is_view or name in NUMBER_BY_NUMBER):
            raise AssertionError(f"nobody has looked at what {name} costs")
        return out


def product(out: Tensor, a: Tensor, b: Tensor) -> int:
    """Of matrices: a row times a column for each number that comes out."""
    return out.numel() * 2 * a.shape[-1]


def convolution(out: Tensor, x: Tensor, weight: Tensor, *_: Any) -> int:
    """A filter for each number that comes out."""
    return out.numel() * 2 * weight[0].numel()


def convolution_backward(out: Any, gradient: Tensor, x: Tensor, weight: Tensor, *others: Any) -> int:
    of_x, of_weight, _ = others[-1]
    return gradient.numel() * 2 * weight[0].numel() * (of_x + of_weight)


def attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> int:
    pairs = query[..., 0].numel() * key.shape[-2]
    return pairs * 2 * (query.shape[-1] + value.shape[-1])


def lstm(out: Any, x: Tensor, of_input: Tensor, of_state: Tensor, *_: Any) -> int:
    places, batch, width = x.shape
    return places * batch * 2 * len(of_input) * (width + of_state.shape[1])


def lstm_backward(out: Any, x: Tensor, of_input: Tensor, of_state: Tensor, *_: Any) -> int:
    """Twice as much, but for the gradient in the state before the first place, which nobody wants."""
    return 2 * lstm(out, x, of_input, of_state) - x.shape[1] * 2 * of_state.numel()


def distances(out: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    """A difference, its magnitude and a sum for each coordinate of each pair."""
    return out.numel() * 3 * a.shape[-1]


def distances_backward(out: Tensor, gradient: Tensor, a: Tensor, *_: Any) -> int:
    return gradient.numel() * 3 * a.shape[-1]


def systems(a: Tensor) -> int:
    return math.prod(a.shape[:-2])


def solution_of_factors(out: Tensor, b: Tensor, factors: Tensor, *_: Any) -> int:
    """One triangle after the other."""
    return systems(out) * 2 * factors.shape[-1] ** 2 * b.shape[-1]


def factors(out: Any, a: Tensor, *_: Any) -> int:
    return systems(a) * a.shape[-1] ** 3 // 3


def triangle(out: Tensor, a: Tensor, b: Tensor, *_: Any) -> int:
    return out.numel() * a.shape[-1]


FORMULAS: dict[str, Any] = {
    "mm": product,
    "bmm": product,
    "addmm": lambda out, _, a, b: product(out, a, b),
    "baddbmm": lambda out, _, a, b: product(out, a, b),
    "convolution": convolution,
    "convolution_backward": convolution_backward,
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "mkldnn_rnn_layer": lstm,
    "mkldnn_rnn_layer_backward": lstm_backward,
    "_cdist_forward": distances,
    "_cdist_backward": distances_backward,
    "cholesky_solve": solution_of_factors,
    "linalg_cholesky_ex": factors,
    "linalg_solve_triangular": triangle,
}
