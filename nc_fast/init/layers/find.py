"""Which of a model's layers a campaign can fill, and why it cannot fill the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from nc_fast.init.layers.attention import AttentionOutput, ProjectionLayer
from nc_fast.init.layers.base import Layer, kind_of, parameters_behind
from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.layers.linear import LinearLayer
from nc_fast.init.report import KeptLayer

ROOT = "model"  # the name of a layer that is the whole model
COMPILED = "_orig_mod"  # in a path, what torch.compile put around a module
SCRIPTED = "it is scripted or traced; initialize the module it was made of"
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
KNOWN_FORWARDS = tuple(kind.forward for kind in (nn.Linear, *CONVOLUTIONS, nn.MultiheadAttention))
UPWARD = "campaigns started networks with skip connections behind where they initialized transposed convolutions"
EXPECTED_KEPT = (
    ((nn.Embedding, nn.EmbeddingBag), "its rows stand for tokens: they read no activations to be picked by"),
    ((nn.RNNBase, nn.RNNCellBase), "its neurons read their own state beside the input, which no forward pass shows"),
    ((nn.Bilinear,), "its neurons read products of two inputs"),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), UPWARD),
)


def find_layers(model: nn.Module) -> tuple[list[Layer], list[KeptLayer]]:
    """Return the layers campaigns can fill, in the order of registration, and all other weights with the reason.

    Modules with a forward of their own are among the first; the forward pass tells whether they compute what the layer would.
    """
    layers: list[Layer] = []
    kept: list[KeptLayer] = []
    looked_into: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in looked_into:
            continue
        name = ".".join(part for part in path.split(".") if part != COMPILED)
        if parametrize.is_parametrized(module):
            looked_into.update(module.parametrizations.modules())
        if isinstance(module, nn.MultiheadAttention):
            looked_into.update(module.modules())
        found = _layers_of(name, module)
        layers += found
        kept += [] if found else _unfit(name, module)
    reasons = {layer: _reason_to_keep(layer, model) for layer in layers}
    kept += [KeptLayer(layer.name, layer.kind, reason) for layer, reason in reasons.items() if reason]
    return [layer for layer, reason in reasons.items() if not reason], kept


def _layers_of(name: str, module: nn.Module) -> list[Layer]:
    if isinstance(module, nn.MultiheadAttention):
        return [*(ProjectionLayer(name, module, which) for which in range(3)), AttentionOutput(name, module)]
    if isinstance(module, CONVOLUTIONS):
        return [ConvLayer(name or ROOT, module)]
    if isinstance(module, nn.Linear):
        return [LinearLayer(name or ROOT, module, module)]
    if _may_be_linear(module):
        layer = LinearLayer(name or ROOT, module, module)
        layer.kind = kind_of(module)
        bias = layer.bias
        layer.transposed = bias is not None and len(bias) != len(layer.weight)
        return [layer]
    return []


def _may_be_linear(module: nn.Module) -> bool:
    """Whether a module of an unknown class has a matrix ``weight`` and a vector ``bias``, or none, and nothing else to train."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    own = dict(module.named_parameters(recurse=False))
    weight, bias = own.pop("weight", None), own.pop("bias", None)
    known = any(isinstance(module, kinds) for kinds, _ in EXPECTED_KEPT)
    return not known and not own and weight is not None and weight.ndim == 2 and (bias is None or bias.ndim == 1)


def _unfit(name: str, module: nn.Module) -> Iterator[KeptLayer]:
    """Yield what a module has of weights that no layer is made of: itself where its kind is known, otherwise its parameters."""
    if isinstance(module, torch.jit.ScriptModule):
        if next(module.parameters(recurse=False), None) is not None:
            yield KeptLayer(name or ROOT, module.original_name, SCRIPTED)
        return
    for kinds, reason in EXPECTED_KEPT:
        if isinstance(module, kinds):
            yield KeptLayer(name or ROOT, kind_of(module), reason)
            return
    for own, parameter in module.named_parameters(recurse=False):
        if sum(side > 1 for side in parameter.shape) > 1:
            shape = " x ".join(map(str, parameter.shape))
            reason = f"a parameter of {kind_of(module)}, {shape}, of no layer that campaigns know"
            yield KeptLayer(f"{name}.{own}" if name else own, "parameter", reason)


def _reason_to_keep(layer: Layer, model: nn.Module) -> str | None:
    module, name = layer.module, layer.weight_name
    layer.own_forward = type(layer.host).forward not in KNOWN_FORWARDS
    if layer.own_forward and isinstance(layer.host, nn.MultiheadAttention):
        return f"{kind_of(layer.host)} has a forward of its own"
    parameters = parameters_behind(module, name)
    if parametrize.is_parametrized(module, name):
        if not all(hasattr(step, "right_inverse") for step in module.parametrizations[name]):  # type: ignore[index]
            return "its parametrization has no right_inverse, so that a weight cannot be set"
    elif not parameters:
        return "its weight is computed by a hook; torch.nn.utils.parametrizations has the forms whose weight can be set"
    if not parameters[0].dtype.is_floating_point:
        return f"its weight is {parameters[0].dtype}"
    if not any(parameter.requires_grad for parameter in parameters):
        return "frozen (requires_grad is False)"
    owners = [path for path, parameter in model.named_parameters(remove_duplicate=False) if parameter is parameters[0]]
    if len({path.rpartition(".")[0] for path in owners}) > 1:
        return f"its weight is shared: {', '.join(owners)}"
    return None
