"""A user's own activation, as a function of the blocks that the stages compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.activations import near_activation
from nc_fast.inputs.arrays import as_numpy, as_tensor


def elementwise(function: Callable[[Any], Any], tensors: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return a user's activation as one that takes and returns an (n, m) NumPy block and says so when it does not fit."""

    def checked(z: np.ndarray) -> np.ndarray:
        try:
            result = function(as_tensor(z) if tensors else z)
        except (TypeError, AttributeError) as error:  # what libraries say of another's arrays
            block = f"{'torch tensors' if tensors else 'NumPy arrays'} of {z.dtype}, as W is"
            got = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise TypeError(f"activation: expected a callable on {block}, got {got}{name_instead(function)}") from error
        if tuple(getattr(result, "shape", ())) != z.shape:
            got = getattr(result, "shape", type(result).__name__)
            raise ValueError(f"activation: expected a callable that keeps the shape {z.shape} of its block, got {got}")
        z[...] = as_numpy(result)  # the kernels write on the block, never on an array of the user's
        return z

    return checked


def name_instead(value: Any) -> str:
    """Return a hint for what stands for an activation in the table: a class or module of torch's, or a function."""
    near = near_activation(getattr(value, "__name__", type(value).__name__))
    return f"; did you mean {near!r}?" if near else ""
