"""How many threads linear algebra gets here: one. It knows nothing of what is computed."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread() -> contextlib.AbstractContextManager[Any]:
    """Matrices of a few hundred rows take more than twice as long on two threads, and trials want the cores."""
    return _libraries().limit(limits=1, user_api="blas")


@functools.cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
