"""Which activation follows a layer, found from the torch functions that its output goes through in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from nc_fast.activations import ACTIVATIONS, LEAKY_SLOPE
from nc_fast.init.forward_pass import TorchCall, tensors_in
from nc_fast.init.layers.base import SAME_NUMBERS

SOFTPLUS_THRESHOLD = 20  # torch's; above it softplus is taken as linear, to float32's last bit the same
UNSEEN = "what its output goes to was not seen (scripted or NumPy code, a custom operator)"
ASSUMED = "identity assumed, name another with activations="


@dataclass(frozen=True)
class FollowingActivation:
    """What follows a layer.

    Attributes
    ----------
    name : the activation's, for people.
    function : what the moments stage is given: the same name, or a function.
    normalized : whether a BatchNorm that has never seen a batch stands between the layer and its activation.
    notes : what was assumed.
    """

    name: str
    function: str | Callable[[Any], Any]
    normalized: bool = False
    notes: tuple[str, ...] = ()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions a value passes through on its way from the layer to the activation: they move, drop or rescale entries,
# or (max-pooling) commute with the monotone activations.
PASSED_THROUGH = _names(
    "reshape view view_as flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze contiguous clone to float double half "
    "bfloat16 cpu cuda detach type type_as __getitem__ __get__ channel_shuffle pixel_shuffle "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
    "batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize "
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)
# Functions that combine the value linearly with others, or end in probabilities: the neuron is scored by its pre-activation.
LINEAR_ENDS = _names(
    "add __add__ __radd__ __iadd__ sub __sub__ __rsub__ __isub__ mul __mul__ __rmul__ __imul__ div __truediv__ mean sum "
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d matmul __matmul__ mm bmm addmm baddbmm einsum "
    "multi_head_attention_forward scaled_dot_product_attention cat concat concatenate stack softmax log_softmax softmin "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate cross_entropy"
)
# What may come between the output layer and the end: scores stay in their order, or are averaged over positions.
OUTPUT_STEPS = _names(
    "reshape view view_as flatten unflatten permute transpose swapaxes movedim squeeze unsqueeze contiguous clone to float double half "
    "type __getitem__ __get__ mean sum softmax log_softmax sigmoid cross_entropy"
)
# torch's functions that are in nc_fast's table under the same name.
SAME_NAME = _names("relu silu tanh sigmoid")
# In nc_fast's table with these arguments only: (position, name, value).
SAME_NAME_WITH = {
    "leaky_relu": ((1, "negative_slope", LEAKY_SLOPE),),
    "elu": ((1, "alpha", 1), (2, "scale", 1)),
    "softplus": ((1, "beta", 1), (2, "threshold", SOFTPLUS_THRESHOLD)),
}
# Elementwise, but not in the table: scored by calling them.
CALLED = _names(
    "relu6 hardtanh selu celu mish hardswish hardsigmoid softsign logsigmoid log_sigmoid softshrink hardshrink tanhshrink threshold clamp "
    "clamp_min clamp_max abs square sin cos exp prelu rrelu pow __pow__ erf"
)
PRODUCTS = _names("mul rmul imul div truediv")
HEAD = 16  # numbers of a tensor that are compared first
# Elementwise functions of torch.nn.functional that are also found by their numbers, with default arguments.
BY_NUMBERS = ("relu6", "hardtanh", "selu", "mish", "hardswish", "hardsigmoid", "softsign", "logsigmoid", "tanhshrink")


def quick_gelu(z: Tensor) -> Tensor:
    """Return the approximation of GELU that CLIP and some other transformers spell out."""
    return z * torch.sigmoid(1.702 * z)


def activation_after(
    output: Tensor, as_left: Tensor, calls: Sequence[TorchCall], returned: Sequence[Tensor], fresh_means: set[int]
) -> FollowingActivation:
    """Return what follows a layer: its output is followed through the calls recorded since, up to an activation or the end.

    ``as_left`` is a copy of the output, ``returned`` what the model returns; ``fresh_means`` are the ids of the running means of
    BatchNorms that have never seen a batch.
    """
    value, normalized = output, False

    def identity() -> FollowingActivation:
        return FollowingActivation("identity", "identity", normalized)

    def unclear(why: str, *among: Tensor) -> FollowingActivation:
        """Look for the activation's numbers among what came later, whatever made them; else assume the identity, and say so."""
        before = as_left if value is output else value
        found = activation_between(before, among or _after_last_use(value, calls, returned))
        return FollowingActivation(*found, normalized) if found else replace(identity(), notes=(f"{why}; {ASSUMED}",))

    written_over = [call for call in calls if any(result is output for result in call.outputs)]
    if not written_over and not torch.equal(output.nan_to_num(), as_left.nan_to_num()):
        return unclear("its output is changed in place by what was not seen", output)
    while True:
        uses = [(number, call) for number, call in enumerate(calls) if id(value) in call.inputs]
        if not uses:
            return identity() if any(tensor is value for tensor in returned) else unclear(UNSEEN)
        number, call = uses[0]
        activation = _activation_of(call)
        in_place = any(result is value for result in call.outputs)  # later uses then see what this call made of it
        if len(uses) > 1 and not in_place:
            others = [_activation_of(use) for _, use in uses[1:]]
            if activation is None or any(other is None or other[0] != activation[0] for other in others):
                goes_to = [use.name for _, use in uses]
                products = sum(name.strip("_") in PRODUCTS for name in goes_to) > 1  # of itself, as of the GELU spelled out
                linear = all(name in LINEAR_ENDS | PASSED_THROUGH for name in goes_to)
                return identity() if linear and not products else unclear(f"its output goes to {', '.join(goes_to)}")
        if activation is not None:
            return FollowingActivation(*activation, normalized)
        if call.name in LINEAR_ENDS:
            return identity()
        if call.name not in PASSED_THROUGH:
            return unclear(f"followed by {call.name}, no known activation")
        if call.name == "batch_norm":
            normalized |= id(call.argument(1, "running_mean")) in fresh_means or bool(call.argument(5, "training"))
        value, calls = call.outputs[0], calls[number + 1 :]


def activation_between(before: Tensor, later: Iterable[Tensor]) -> tuple[str, str | Callable[[Any], Any]] | None:
    """Return name and function of the activation that makes one of the later tensors of the one before, by their numbers.

    So activations are found that no torch function was seen to compute: scripted ones, NumPy's, custom operators, products of others.
    """
    z = before.float().flatten()
    candidates = [t.float().flatten() for t in later if t.numel() == z.numel() and t.is_floating_point()]
    heads = torch.stack([other[:HEAD] for other in candidates]) if candidates else z.new_zeros(0, min(HEAD, len(z)))
    tolerance = SAME_NUMBERS * torch.finfo(before.dtype).eps ** 0.5
    table: dict[str, str | Callable[[Any], Any]] = {name: name for name in ACTIVATIONS if name != "identity"}
    table |= {name: getattr(functional, name) for name in BY_NUMBERS} | {"quick_gelu": quick_gelu}
    for name, function in table.items():
        made = function(z) if callable(function) else torch.from_numpy(ACTIVATIONS[name](z.cpu().numpy().copy())).to(z)
        if torch.allclose(made, z, rtol=tolerance, atol=tolerance):
            continue  # these pre-activations cannot tell it from the identity
        alike = torch.isclose(heads, made[:HEAD], rtol=tolerance, atol=tolerance).all(dim=1).nonzero().flatten().tolist()
        if any(torch.allclose(made, candidates[number], rtol=tolerance, atol=tolerance) for number in alike):
            return name, function
    return None


def _after_last_use(value: Tensor, calls: Sequence[TorchCall], returned: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that came up when the value was used for the last time, or later."""
    last = max((number for number, call in enumerate(calls) if id(value) in call.inputs), default=-1)
    outputs = [tensor for call in calls[max(last, 0) :] for tensor in call.outputs]
    inputs = [tensor for call in calls[last + 1 :] for tensor in tensors_in([call.args, call.kwargs])]
    return list({id(tensor): tensor for tensor in (*outputs, *inputs, *returned)}.values())


def output_of_model(output: Tensor, calls: Sequence[TorchCall], returned: Sequence[Tensor]) -> int | None:
    """Return which of the tensors that the model returns a layer's output becomes, through nothing but OUTPUT_STEPS."""
    values = {id(output)}
    for call in calls:
        if call.inputs & values:
            if not any(result.is_floating_point() for result in call.outputs):
                continue  # a prediction, as by argmax
            if call.name not in OUTPUT_STEPS:
                return None
            values |= {id(result) for result in call.outputs}
    return next((number for number, tensor in enumerate(returned) if id(tensor) in values and tensor.ndim), None)


def _activation_of(call: TorchCall) -> tuple[str, str | Callable[[Any], Any]] | None:
    """Return name and function of the elementwise activation that a call applies to its first argument; None if it is none."""
    name = call.name
    if name in SAME_NAME:
        return name, name
    if name == "gelu":
        name = "gelu_tanh" if call.kwargs.get("approximate", "none") == "tanh" else "gelu"
        return name, name
    if name in SAME_NAME_WITH and all(call.argument(at, key, value) == value for at, key, value in SAME_NAME_WITH[name]):
        return name, name
    if name in CALLED or name in SAME_NAME_WITH:
        rest, keywords = tuple(call.args[1:]), {key: value for key, value in call.kwargs.items() if key not in ("input", "inplace")}
        if any(isinstance(value, torch.Tensor) and value.numel() != 1 for value in (*rest, *keywords.values())):
            return None  # a slope per channel: not one function for all neurons
        function = call.function  # not the call, which holds on to tensors
        return name.strip("_"), lambda z: function(z, *rest, **keywords)
    return None
