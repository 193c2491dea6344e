"""Where tensors lie: the bytes of one, whether it can be written, and which lie in the same place."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn


def bytes_of(tensor: Tensor) -> Tensor | None:
    """Return the bytes a dense tensor lies in as a tensor over the same memory, (bytes,) uint8; None if it has no such place.

    Any bytes can be read and written so: those of expanded, quantized or complex tensors, and of tensors made in inference mode.
    """
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided or tensor.is_meta:
        return None
    size = tensor.element_size()
    place = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return place.set_(tensor.untyped_storage(), tensor.storage_offset() * size, (_span(tensor) * size,), (1,))


def why_read_only(tensor: Tensor) -> str | None:
    """Return why a tensor cannot be written in place; None if it can."""
    if tensor.is_inference():
        return "was made in torch.inference_mode(), where nothing is made to be trained"
    if tensor.layout is torch.strided and _meets_itself(tensor):
        return "is expanded: several of its entries are one place in memory"
    if tensor.device.type == "cpu" and tensor.layout is torch.strided and tensor.numel() and not _takes_writes(tensor.data_ptr()):
        return "lies in memory that is read-only, such as a memory map; give it a copy"
    return None


def in_one_place(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, for every tensor that has memory in common with another, that one's name."""
    spans = sorted(
        (str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + _span(tensor) * tensor.element_size(), name)
        for name, tensor in tensors.items()
        if bytes_of(tensor) is not None and tensor.numel()
    )
    found: dict[str, str] = {}
    for number, (device, _, end, name) in enumerate(spans):
        for other_device, start, _, other in spans[number + 1 :]:
            if other_device != device or start >= end:
                break
            if _overlap(tensors[name], tensors[other]):
                found.setdefault(name, other)
                found.setdefault(other, name)
    return found


def _span(tensor: Tensor) -> int:
    """Return how many elements there are from the first in memory to the last."""
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True)) if tensor.numel() else 0


def _meets_itself(tensor: Tensor) -> bool:
    reach = 0
    for stride, n in sorted((stride, n) for stride, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (n - 1)
    return False


def _takes_writes(address: int) -> bool:
    """Whether memory may be written. The kernel is asked to put there the byte that is there: it answers, where a write would crash."""
    place = (ctypes.c_char * 1).from_address(address)
    source, target = os.pipe()
    try:
        os.write(target, place.raw)
        return os.readv(source, [place]) == 1
    except OSError:
        return False
    finally:
        os.close(source)
        os.close(target)


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether one byte is in both: columns of a matrix lie within each other's span, and have none in common."""
    first = min(a.data_ptr(), b.data_ptr())
    ends = [tensor.data_ptr() - first + _span(tensor) * tensor.element_size() for tensor in (a, b)]
    taken = torch.zeros(max(ends), dtype=torch.bool)
    of_a, of_b = (
        taken.as_strided(
            (*tensor.shape, tensor.element_size()),
            (*(stride * tensor.element_size() for stride in tensor.stride()), 1),
            tensor.data_ptr() - first,
        )
        for tensor in (a, b)
    )
    of_a.fill_(True)
    return bool(of_b.any())
