"""From a call recorded in a forward pass to the activation a campaign scores with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nc_fast.activations import LEAKY_SLOPE

SOFTPLUS_THRESHOLD = 20  # torch's; above it softplus is taken as linear, to float32's last bit the same


@dataclass(frozen=True)
class Activation:
    """An activation's name, for people, and what the moments stage is given: the same name, or a function."""

    name: str
    function: str | Callable[[Any], Any]


IDENTITY = Activation("identity", "identity")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions a value passes through on its way from the layer to the activation: they move, drop or rescale entries,
# or (max-pooling) commute with the monotone activations.
PASSED_THROUGH = _names(
    "reshape view view_as flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze contiguous clone to float "
    "double half type "
    "__getitem__ __get__ dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout channel_shuffle pixel_shuffle "
    "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize "
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
# Functions that combine the value linearly with others, or end in probabilities: what the neuron says is its pre-activation.
LINEAR_ENDS = _names(
    "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ mul mul_ __mul__ __rmul__ __imul__ div __truediv__ mean sum "
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ mm bmm addmm baddbmm einsum "
    "multi_head_attention_forward scaled_dot_product_attention cat concat concatenate stack softmax log_softmax softmin _softmax "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate cross_entropy"
)
# torch's names (without the underscore of in-place forms) of those in nc_fast's table.
SAME_NAME = _names("relu silu tanh sigmoid")
# Elementwise, but not in the table: scored by calling them.
CALLED = _names(
    "relu6 hardtanh selu celu mish hardswish hardsigmoid softsign logsigmoid log_sigmoid softshrink hardshrink tanhshrink threshold clamp "
    "clamp_min clamp_max abs square sin cos exp prelu pow __pow__ erf"
)


def from_call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Activation | None:
    """Return the elementwise activation that a torch call applies to its first argument; None when it is not one."""
    full = getattr(function, "__name__", "")
    name = full if full.startswith("__") else full.removesuffix("_")

    def argument(position: int, key: str, default: Any) -> Any:
        return args[position] if len(args) > position else kwargs.get(key, default)

    if name in SAME_NAME:
        return Activation(name, name)
    if name == "leaky_relu" and argument(1, "negative_slope", LEAKY_SLOPE) == LEAKY_SLOPE:
        return Activation(name, name)
    if name == "elu" and argument(1, "alpha", 1.0) == 1 and argument(2, "scale", 1) == 1:
        return Activation(name, name)
    if name == "softplus" and argument(1, "beta", 1) == 1 and argument(2, "threshold", SOFTPLUS_THRESHOLD) == SOFTPLUS_THRESHOLD:
        return Activation(name, name)
    if name == "gelu":
        chosen = "gelu_tanh" if kwargs.get("approximate", "none") == "tanh" else "gelu"
        return Activation(chosen, chosen)
    if name in CALLED or name in ("leaky_relu", "elu", "softplus"):
        rest, keywords = tuple(args[1:]), {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        if any(isinstance(value, torch.Tensor) and value.numel() != 1 for value in (*rest, *keywords.values())):
            return None  # a slope per channel: not one function for all neurons
        return Activation(name.strip("_"), lambda z: function(z, *rest, **keywords))
    return None
