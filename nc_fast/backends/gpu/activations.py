"""Activations of a pool on samples, stored: cuBLAS's product, then the kernels' own activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton

from nc_fast.backends.gpu.callables import apply_callable
from nc_fast.backends.gpu.kernels.pursue import activate_rows
from nc_fast.backends.gpu.runtime import on_device
from nc_fast.backends.gpu.samples import sample_tiles

ROWS, COLUMNS = 4, 512  # of a program: 16 numbers a thread, so that float64 and gelu's polynomials fit in registers


def activations(
    W: torch.Tensor, X: torch.Tensor, *, bias: torch.Tensor, activation: str | Callable[[Any], Any], precision: str = "auto"
) -> torch.Tensor:
    """Return ``activation(X @ W + bias)``.

    Parameters
    ----------
    W : (D, M) floating
        On the device that computes, in any memory layout.
    X : (n, D) floating or integer
        On the same device or in host memory.
    bias : (M,) float64
    activation : str or callable
        A name in the table, or an elementwise function of an (n, M) tensor.
    precision : "auto", "fp16", "tf32" or "ieee"
        "tf32" allows tensor cores to round float32 operands; everything else multiplies them as they are. float64 data stay float64.

    Returns
    -------
    (n, M) tensor
        float64 where W or X is, else float32; a candidate's activations are contiguous.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU; when a callable does not keep the shape.
    """
    with on_device(W), torch.no_grad():
        number = product_type(W, X)
        return activation_rows(W, load_samples(X, W.device, number), bias, activation, precision, number).T


def product_type(W: torch.Tensor, X: torch.Tensor) -> torch.dtype:
    """Return the type in which W and X are multiplied."""
    return torch.float64 if torch.float64 in (W.dtype, X.dtype) else torch.float32


def load_samples(X: torch.Tensor, device: torch.device, number: torch.dtype) -> torch.Tensor:
    """Return all samples on the device in this type."""
    return torch.cat([tile.to(number) for tile in sample_tiles(X, None, device)])


def activation_rows(
    W: torch.Tensor, X: torch.Tensor, bias: torch.Tensor, activation: str | Callable[[Any], Any], precision: str, seen: torch.dtype
) -> torch.Tensor:
    """Return (m, n) activations in the type of X, which is on the device; a callable sees its argument in the type ``seen``."""
    with _float32_products(precision):
        rows = torch.mm(W.to(X.dtype).T, X.T)
    if callable(activation):
        return apply_callable(activation, (rows.T + bias).to(seen)).to(X.dtype).T.contiguous()
    m, n = rows.shape
    activate_rows[(triton.cdiv(m, ROWS), triton.cdiv(n, COLUMNS))](rows, bias, m, n, ACT=activation, BM=ROWS, BN=COLUMNS)
    return rows


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    """Let float32 products run in tf32 inside the block, or forbid it, whatever the process allows; its setting is put back."""
    settings: Any = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
