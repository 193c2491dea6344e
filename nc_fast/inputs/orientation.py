"""Weights as a layer has them, a row a neuron, are called that before anything that only follows from it."""

from __future__ import annotations

from typing import Any

ROWS = "pass {name}.T where rows are neurons, as those of a layer's weight are"


def refuse_rows_as_neurons(name: str, W: Any, *, n_features: int | None = None, n_neurons: int | None = None) -> None:
    """Raise where W (D, M) has the features that samples have, or the neurons that scores are of, only when transposed."""
    shape = tuple(getattr(W, "shape", ()))
    if len(shape) != 2:
        return
    if n_features == shape[1] != shape[0]:
        right = f"({n_features}, M) to match X"
    elif n_neurons == shape[0] != shape[1]:
        right = f"(D, {n_neurons}), a column a neuron"
    else:
        return
    raise ValueError(f"{name}: expected shape (D, M) = {right}, got {shape}; {ROWS.format(name=name)}")


def last_length(array: Any, ndim: int) -> int | None:
    """Return the length of the last axis of an array-like with so many; None of anything else, which has checks of its own."""
    shape = tuple(getattr(array, "shape", ()))
    return shape[-1] if len(shape) == ndim else None
