"""Numba's compiler, with a cache on disk where there is a folder for it."""
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from numba import njit


def compiled(fastmath: Iterable[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that compiles a loop when it is first called: the GIL released, division by zero as in NumPy.

    Where neither the package's folder nor the user's cache can be written to, and NUMBA_CACHE_DIR names no other, every process
    compiles for itself.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no locator available
            return njit(**options)(function)

    return decorate
