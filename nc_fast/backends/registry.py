"""The one table of backends, and the choice among them: pure, per call.

``"auto"`` follows where the arrays live. A backend asked for by name never falls back to another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nc_fast.inputs.arrays import as_numpy, is_tensor
from nc_fast.inputs.checks import choice
from nc_fast.inputs.sparse import CSR


@dataclass(frozen=True)
class Backend:
    """A backend: a folder that exports ``moments.class_moments``, ``select.select``, ``activations.activations``, ``pursue.pursue``.

    Attributes
    ----------
    name : what users pass.
    on_gpu : whether it works on torch tensors on a GPU, or on NumPy arrays.
    missing : function that returns None where the backend can run, else what it lacks and what to do.
    device : the GPU it computes on; with ``on_gpu``, once it is chosen for some weights.
    reads_csr : whether its ``class_moments`` takes :class:`~nc_fast.inputs.sparse.CSR` samples too.
    """

    name: str
    on_gpu: bool
    missing: Callable[[], str | None]
    device: Any = None
    reads_csr: bool = False

    def put(self, array: Any) -> Any:
        """Return the array where the backend computes: a NumPy array, or a tensor on its device."""
        if self.on_gpu:
            return import_module("nc_fast.backends.gpu.device").to_device(array, self.device)
        found = as_numpy(array)
        return found.astype(found.dtype.newbyteorder("="), copy=False)  # compiled code reads native bytes only

    def samples(self, X: Any) -> Any:
        """Return the samples as the backend reads them: a NumPy array, CSR, or a tensor left where it is, to be streamed from there."""
        if isinstance(X, CSR):
            return X
        return import_module("nc_fast.backends.gpu.device").as_tensor(X) if self.on_gpu else as_numpy(X)

    @property
    def class_moments(self) -> Callable[..., Any]:
        """The backend's moments stage, imported on first use."""
        return import_module(f"nc_fast.backends.{self.name}.moments").class_moments  # type: ignore[no-any-return]

    @property
    def select(self) -> Callable[..., Any]:
        """The backend's selection stage, imported on first use."""
        return import_module(f"nc_fast.backends.{self.name}.select").select  # type: ignore[no-any-return]

    @property
    def activations(self) -> Callable[..., Any]:
        """The backend's activations of a pool on samples, imported on first use."""
        return import_module(f"nc_fast.backends.{self.name}.activations").activations  # type: ignore[no-any-return]

    @property
    def pursue(self) -> Callable[..., Any]:
        """The backend's pursuit, imported on first use."""
        return import_module(f"nc_fast.backends.{self.name}.pursue").pursue  # type: ignore[no-any-return]


def _gpu_missing() -> str | None:
    for package in ("torch", "triton"):
        if find_spec(package) is None:
            return f'{package} is not installed: pip install "nc_fast[gpu]"'
    return import_module("nc_fast.backends.gpu.device").missing()  # type: ignore[no-any-return]


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("reference", False, lambda: None),
        Backend("cpu", False, lambda: None, reads_csr=True),
        Backend("gpu", True, _gpu_missing),
    )
}


def resolve(name: object, W: object) -> Backend:
    """Return the backend called ``name`` for weights W; "auto" is "gpu" for tensors on a GPU and "cpu" for everything else.

    Raises
    ------
    TypeError, ValueError
        When there is no such backend, or it cannot run here.
    """
    name = choice("backend", name, ("auto", *BACKENDS))
    if name == "auto":
        name = "gpu" if is_tensor(W) and W.device.type not in ("cpu", "meta") else "cpu"  # checks refuse what has no values
    reason = BACKENDS[name].missing()
    if reason:
        available = [backend.name for backend in BACKENDS.values() if not backend.missing()]
        raise ValueError(f"backend: expected one that can run here ({', '.join(available)}), got {name!r}; {reason}")
    if not BACKENDS[name].on_gpu:
        return BACKENDS[name]
    return replace(BACKENDS[name], device=import_module("nc_fast.backends.gpu.device").compute_device(W))
