"""Which of a model's layers a campaign can fill, and why it cannot fill the others."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from nc_fast.init.layers.attention import AttentionOutput, ProjectionLayer
from nc_fast.init.layers.base import Layer, parameters_behind
from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.layers.linear import LinearLayer
from nc_fast.init.report import KeptLayer

ROOT = "model"  # the name of a layer that is the whole model
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
KNOWN_FORWARDS = tuple(kind.forward for kind in (nn.Linear, *CONVOLUTIONS, nn.MultiheadAttention))
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
UNKNOWN_KINDS = (nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, *TRANSPOSED)


def find_layers(model: nn.Module) -> tuple[list[Layer], list[KeptLayer]]:
    """Return the layers campaigns can fill, in the order of registration, and those they cannot, with the reason."""
    layers: list[Layer] = []
    kept: list[KeptLayer] = []
    inside_attention: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside_attention:
            continue
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.update(module.modules())
        elif isinstance(module, UNKNOWN_KINDS):
            kept.append(KeptLayer(name or ROOT, _kind(module), "campaigns know Linear, Conv1d, Conv2d, Conv3d and MultiheadAttention"))
        layers += _layers_of(name, module)
    reasons = {layer: _reason_to_keep(layer, model) for layer in layers}
    kept += [KeptLayer(layer.name, layer.kind, reason) for layer, reason in reasons.items() if reason]
    return [layer for layer, reason in reasons.items() if not reason], kept


def _layers_of(name: str, module: nn.Module) -> list[Layer]:
    if isinstance(module, nn.MultiheadAttention):
        return [*(ProjectionLayer(name, module, which) for which in range(3)), AttentionOutput(name, module)]
    if isinstance(module, nn.Linear):
        return [LinearLayer(name or ROOT, module, module)]
    return [ConvLayer(name or ROOT, module)] if isinstance(module, CONVOLUTIONS) else []


def _reason_to_keep(layer: Layer, model: nn.Module) -> str | None:
    module, name = layer.module, layer.weight_name
    if type(layer.host).forward not in KNOWN_FORWARDS:
        return f"{_kind(layer.host)} has a forward of its own"
    parameters = parameters_behind(module, name)
    if parametrize.is_parametrized(module, name):
        if not all(hasattr(step, "right_inverse") for step in module.parametrizations[name]):  # type: ignore[index]
            return "its parametrization has no right_inverse, so that a weight cannot be set"
    elif not parameters:
        return "its weight is computed by a hook; torch.nn.utils.parametrizations has the forms whose weight can be set"
    if not layer.weight.dtype.is_floating_point:
        return f"its weight is {layer.weight.dtype}"
    if not any(parameter.requires_grad for parameter in parameters):
        return "frozen (requires_grad is False)"
    owners = [path for path, parameter in model.named_parameters(remove_duplicate=False) if parameter is parameters[0]]
    if len({path.rpartition(".")[0] for path in owners}) > 1:
        return f"its weight is shared: {', '.join(owners)}"
    return None


def _kind(module: nn.Module) -> str:
    return parametrize.type_before_parametrizations(module).__name__
