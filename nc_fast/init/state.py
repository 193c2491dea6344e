"""Leaving things as found: modes, buffers, hooks, random states, torch's switches; on an error, weights too.

Clean-up goes step by step: one that raises keeps no other from being run, and makes the call fail, so that the weights are given back
as well. It goes around the modules' own ``__setattr__`` and around tensors' in-place functions, which may refuse.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from nc_fast.init.memory import in_one_place
from nc_fast.init.snapshots import ModuleAsFound, TensorAsFound

Step = Callable[[], Any]
ATTEMPTS = 2  # at every step of clean-up: a Ctrl-C may end the first
# What the campaign, a forward pass or a loader may set for the whole process: how it is read, and set.
SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_default_dtype, torch.set_default_dtype),
)


def is_fresh_batchnorm(module: nn.Module) -> bool:
    """Whether a BatchNorm has no running statistics that mean anything: it keeps none, or has never seen a batch."""
    if not isinstance(module, _BatchNorm):
        return False
    return module.num_batches_tracked is None or not bool(module.num_batches_tracked)


@contextmanager
def as_found(
    model: nn.Module, filled: Iterable[nn.Module], generator: torch.Generator | None, device: torch.device, data: Any
) -> Iterator[None]:
    """Run the block in evaluation mode, uncompiled; leave all as found but the filled modules' weights, and, when it raises, these too.

    The mode is set on each module's attribute, not through ``eval()``, which some models override to do more.

    With a generator, every global generator is seeded from it for the block: so whatever draws (an init function without a
    ``generator`` argument, a shuffling loader, an augmentation) follows the given generator, and the caller's global state is
    untouched. Without one the block draws from the global state, as ``torch.nn.init`` does. A loader's own generators are given
    back in either case, and after an error all are.
    """
    filled = list(filled)
    # A parametrization keeps part of the weight it was given in buffers (orthogonal's base, spectral_norm's vectors).
    own = {part for module in filled if parametrize.is_parametrized(module) for part in module.parametrizations.modules()}  # type: ignore[union-attr]
    modules = [ModuleAsFound(module) for module in model.modules()]
    kept = {id(tensor) for module in filled for tensor in module.parameters()}
    kept |= {id(tensor) for found in modules if found.module in own for tensor in found.tensors}
    tensors = {id(tensor): TensorAsFound(tensor) for found in modules for tensor in found.tensors}
    weights = [found for key, found in tensors.items() if key in kept]
    others = [found for key, found in tensors.items() if key not in kept]
    in_place = in_one_place({str(key): found.tensor for key, found in tensors.items()})
    shared = [found.tensor for key, found in tensors.items() if key in kept and str(key) in in_place]
    new: list[torch.Tensor] = []  # values of the weights whose memory a buffer shares, which are not to go back with it

    def take_new() -> None:
        new[:] = [weight.detach().clone() for weight in shared]

    def put_new() -> None:
        for weight, value in zip(shared, new, strict=True):
            weight.detach().copy_(value)

    loaders: list[Step] = [partial(one.set_state, one.get_state()) for one in _own_generators(data) if one is not generator]
    process = _random_states(device)
    always: list[Step] = [
        *(partial(_turn_back, read, switch, read()) for read, switch in SWITCHES),
        torch.clear_autocast_cache,
        *loaders,
        *(process if generator else ()),
        *(found.restore_mode for found in modules),
        *(found.restore for found in modules if found.module not in own),
        take_new,
        *(found.restore for found in others),
        put_new,
    ]
    after_error: list[Step] = [*(found.restore for found in modules), *(found.restore for found in weights), *process]
    if generator:
        after_error.append(partial(generator.set_state, generator.get_state()))
    error = None
    try:
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # torch 2.6; before: see ModuleAsFound.prepare
            stance = torch.compiler.set_stance("force_eager")
            always.insert(0, partial(stance.__exit__, None, None, None))
        for found in modules:
            found.prepare()
        torch.backends.mha.set_fastpath_enabled(False)  # the fused encoder layer never calls the layers inside it
        torch.set_autocast_cache_enabled(False)  # within autocast, casts of weights are kept that change meanwhile
        if generator:
            _seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)), device)
        yield
    except BaseException as raised:
        error = raised
    _clean_up(error, always, after_error)


def _turn_back(read: Callable[[], Any], switch: Callable[[Any], Any], found: Any) -> None:
    if read() != found:  # some take a second when first set: determinism imports torch's compiler
        switch(found)


def use_batch_statistics(model: nn.Module) -> None:
    """Let BatchNorms that have never seen a batch normalize by the batch, as the first training step will."""
    for module in model.modules():
        if is_fresh_batchnorm(module):
            module.training = True


def _own_generators(data: Any) -> Iterable[torch.Generator]:
    """Return what a loader and its samplers draw from."""
    batches = getattr(data, "batch_sampler", None)
    places = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(place, "generator", None) for place in places]
    return {id(one): one for one in found if isinstance(one, torch.Generator)}.values()


def _random_states(device: torch.device) -> list[Step]:
    """Return what gives the process's random states back."""
    steps: list[Step] = [
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),  # noqa: NPY002  (users' augmentations draw from it)
        partial(torch.set_rng_state, torch.get_rng_state()),
    ]
    if device.type != "cpu":
        accelerator = torch.get_device_module(device)
        steps.append(partial(accelerator.set_rng_state, accelerator.get_rng_state(device), device))
    return steps


def _seed(seed: int, device: torch.device) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (as above)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        accelerator = torch.get_device_module(device)
        with accelerator.device(device):
            accelerator.manual_seed(seed)


def _clean_up(error: BaseException | None, always: Iterable[Step], after_error: Iterable[Step]) -> None:
    """Take all steps, whatever the others do, and, where the block or a step failed, those after an error; then raise what came first."""
    for step in always:
        error = _attempt(step, error)
    if error is not None:
        for step in after_error:
            _attempt(step, error)
        raise error


def _attempt(step: Step, error: BaseException | None) -> BaseException | None:
    for _ in range(ATTEMPTS):
        try:
            step()
            break
        except BaseException as raised:
            if error is None:
                error = raised
            elif error.__context__ is None:  # the traceback shows it
                error.__context__ = raised
    return error
