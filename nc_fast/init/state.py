"""Leaving things as found: modes, buffers, random number generators; on an error, weights too."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize


def is_fresh_batchnorm(module: nn.Module) -> bool:
    """Whether a BatchNorm has no running statistics that mean anything: it keeps none, or has never seen a batch."""
    if not isinstance(module, _BatchNorm):
        return False
    return module.num_batches_tracked is None or not bool(module.num_batches_tracked)


@contextmanager
def as_found(model: nn.Module, filled: Iterable[nn.Module]) -> Iterator[None]:
    """Run the block in evaluation mode; give modes and buffers back, and, when it raises, the filled modules' state as well.

    The mode is set on each module's attribute, not through ``eval()``, which some models override to do more.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    weights = {parameter: parameter.detach().clone() for module in filled for parameter in module.parameters()}
    # A parametrization keeps part of the weight it was given in buffers (orthogonal's base, spectral_norm's vectors).
    own = {part for module in filled if parametrize.is_parametrized(module) for part in module.parametrizations.modules()}  # type: ignore[union-attr]
    failed = True
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer never calls the layers inside it
    cached_casts = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)  # within autocast, casts of weights are kept that change meanwhile
    try:
        with torch.no_grad():
            for module, _ in modes:
                module.training = False
            yield
        failed = False
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        torch.set_autocast_cache_enabled(cached_casts)
        torch.clear_autocast_cache()
        with torch.no_grad():
            for parameter, value in weights.items() if failed else ():
                parameter.copy_(value)
            for module, name, buffer, value in buffers:
                if failed or module not in own:
                    buffer.copy_(value)
                    module._buffers[name] = buffer
        for module, mode in modes:
            module.training = mode


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorms that have never seen a batch normalize by the batch, as the first training step will."""
    fresh = [module for module in model.modules() if is_fresh_batchnorm(module)]
    for module in fresh:
        module.training = True
    try:
        yield
    finally:
        for module in fresh:
            module.training = False


@contextmanager
def isolated_rng(generator: torch.Generator | None, device: torch.device, data: Any) -> Iterator[None]:
    """With a generator, seed every global generator from it for the block and give their states back afterwards.

    So whatever draws (an init function without a ``generator`` argument, a shuffling loader, an augmentation) follows
    the given generator, and the caller's global state is untouched. A loader's own generators are given back as well.
    Without a generator the block draws from the global state, as ``torch.nn.init`` does.
    """
    own = {id(g): g for g in (getattr(data, "generator", None), getattr(getattr(data, "sampler", None), "generator", None))}
    states = [(g, g.get_state()) for g in own.values() if isinstance(g, torch.Generator) and g is not generator]
    with ExitStack() as stack:
        for g, state in states:
            stack.callback(g.set_state, state)
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
            stack.callback(random.setstate, random.getstate())
            stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002  (users' augmentations draw from it)
            devices = [] if device.type == "cpu" else [device.index or 0]
            stack.enter_context(torch.random.fork_rng(devices, device_type="cuda" if not devices else device.type))
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  (as above)
            torch.default_generator.manual_seed(seed)
            if devices:
                module = torch.get_device_module(device)
                with module.device(device):
                    module.manual_seed(seed)
        yield
