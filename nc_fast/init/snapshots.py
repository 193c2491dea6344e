"""A module and a tensor as they were found, to be made so again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nc_fast.init.memory import bytes_of

# A module's own dicts and sets: parameters, buffers, modules, hooks.
REGISTRIES = tuple(name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set)))


class ModuleAsFound:
    """A module's mode, attributes, parameters, buffers, modules and hooks; which they are, not their values.

    Attributes
    ----------
    module : the module.
    tensors : its parameters, buffers, and tensors that are plain attributes.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._mode = module.training
        self._attributes = dict(vars(module))
        plain = (value for value in self._attributes.values() if isinstance(value, Tensor))
        self.tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False), *plain)
        held = {name: self._attributes[name] for name in REGISTRIES if name in self._attributes}
        self._registries = {name: set(value) if isinstance(value, set) else dict(value.items()) for name, value in held.items()}

    def prepare(self) -> None:
        """Set evaluation mode; let buffers that were made in inference mode be written, and what was compiled run as it was before."""
        self._set_mode(False)
        for name, buffer in self.module._buffers.items():
            if buffer is not None and buffer.is_inference():
                self.module._buffers[name] = buffer.clone()
        if not hasattr(torch.compiler, "set_stance"):  # torch before 2.6
            attributes = vars(self.module)
            attributes.update({name: getattr(value, "_torchdynamo_orig_callable", value) for name, value in attributes.items()})

    def restore_mode(self) -> None:
        """Give the mode back."""
        if self.module.training is not self._mode:
            self._set_mode(self._mode)

    def restore(self) -> None:
        """Give everything else back."""
        _restore(vars(self.module), self._attributes)
        for name, found in self._registries.items():
            _restore(self._attributes[name], found)

    def _set_mode(self, mode: bool) -> None:
        attributes = vars(self.module)
        if "training" in attributes:
            attributes["training"] = mode  # a __setattr__ of the module's own may do more, or raise
        else:
            self.module.training = mode


class TensorAsFound:
    """A tensor's value, memory, shape, and what autograd knows of it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._is_leaf = tensor.is_leaf
        self._requires_grad = tensor.requires_grad
        self._grad = tensor.grad if tensor.is_leaf else None
        self._place = tensor.detach()  # keeps memory and shape, whatever becomes of the tensor
        self._bytes = bytes_of(self._place)
        self._value = (self._place if self._bytes is None else self._bytes).clone()
        self._version = None if tensor.is_inference() else tensor._version

    def restore(self) -> None:
        """Make the tensor as it was; what did not change is not written, for not all memory takes that."""
        tensor, place = self.tensor, self._place
        if self._bytes is not None:
            if _where(tensor) != _where(place):
                tensor.data = place
            if not torch.equal(self._bytes, self._value):
                self._bytes.copy_(self._value)
        elif not tensor.is_meta and self._version is not None and tensor._version != self._version:
            with torch.no_grad():
                tensor.copy_(self._value)  # of sparse ones a detached tensor is another
        if not self._is_leaf:
            return
        if not tensor.is_leaf:
            tensor.detach_()
        if tensor.requires_grad != self._requires_grad:
            tensor.requires_grad_(self._requires_grad)
        if tensor.grad is not self._grad:
            tensor.grad = self._grad


def _where(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _restore(now: Any, found: dict[str, Any] | set[str]) -> None:
    """Make a dict or set what it was; a scripted module's dicts are neither, but have their methods."""
    if isinstance(found, set):
        if now != found:
            now.clear()
            now.update(found)
        return
    for name in [name for name in now.keys() if name not in found]:  # noqa: SIM118
        del now[name]
    for name, value in found.items():
        if name not in now or now[name] is not value:
            now[name] = value
    if list(now.keys()) != list(found):
        for name in found:
            now[name] = now.pop(name)
