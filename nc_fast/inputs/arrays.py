"""NumPy or torch, decided by the arrays themselves; torch is never imported here."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeGuard

import numpy as np

Array = Any  # numpy.ndarray or torch.Tensor; torch is optional, so its type cannot be named here


def is_tensor(value: object) -> TypeGuard[Any]:
    """Whether ``value`` is a torch tensor (False when nobody has imported torch)."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def array_namespace(array: object) -> ModuleType:
    """Return the module whose functions work on ``array``: torch for tensors, else numpy."""
    return sys.modules["torch"] if is_tensor(array) else np


def as_numpy(array: Any) -> np.ndarray:
    """Return ``array`` as a NumPy array, sharing memory where the tensor lives on the CPU; bfloat16 comes as float32."""
    if not is_tensor(array):
        return np.asarray(array)
    host = array.detach().cpu()
    return np.asarray((host.float() if str(host.dtype) == "torch.bfloat16" else host).numpy())


def as_tensor(array: np.ndarray) -> Any:
    """Return a torch tensor that shares the array's memory; for callers whose user has already passed tensors."""
    return sys.modules["torch"].from_numpy(array)


def take_columns(array: Any, columns: np.ndarray) -> Any:
    """Return a copy of these columns, rows contiguous (NumPy's own indexing gives columns contiguous, which costs a second copy)."""
    return array[:, columns] if is_tensor(array) else array.take(columns, axis=1)


def take_rows(array: Any, rows: np.ndarray | None) -> Any:
    """Return a copy of these rows; None stands for all, which are returned as they are."""
    return array if rows is None else array[like(array, rows)]


def empty_rows(array: Any, rows: int) -> Any:
    """Return so many rows like those of ``array``, in its library and on its device; their numbers are not set."""
    shape = (rows, *array.shape[1:])
    return array.new_empty(shape) if is_tensor(array) else np.empty(shape, array.dtype)


def like(template: object, array: Any) -> Any:
    """Return the array or tensor in the library and on the device of ``template``; the dtype stays."""
    if not is_tensor(template):
        return as_numpy(array)
    return sys.modules["torch"].as_tensor(array, device=template.device)
