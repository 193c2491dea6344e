"""nn.ConvTranspose1d, 2d, 3d: plain convolutions of their input with zeros between its samples."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional

from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.layers.patches import Axes, Axis


class TransposedConvLayer(ConvLayer):
    """nn.ConvTranspose1d, nn.ConvTranspose2d or nn.ConvTranspose3d.

    It is the convolution of stride 1 whose kernel is the flipped one, over an input with ``stride - 1`` zeros between the samples. Its
    neurons are rows as those of a convolution are, (out, in / groups, *kernel), whereas torch stores (in, out / groups, *kernel).
    """

    def __init__(self, name: str, module: Any) -> None:
        super().__init__(name, module)
        # Of the samples a neuron sees, but one in prod(stride) are these zeros: on average over the output's positions.
        self.gain = prod(module.stride) ** 0.5
        self._output_padding: tuple[int, ...] = module.output_padding

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return the layer's input, and note what output_size= asks for: what is asked next is of this call."""
        x = super().input(args, kwargs)
        size = args[1] if len(args) > 1 else kwargs.get("output_size")
        if size is not None and not self.own_forward:
            self._output_padding = (0,) * len(self.module.stride)
            least = self.grid(x)
            self._output_padding = tuple(side - smallest for side, smallest in zip(size[-len(least) :], least, strict=True))
        else:
            self._output_padding = self.module.output_padding
        return x

    @property
    def axes(self) -> Axes:
        """How the kernel of the plain convolution moves along each spatial dimension."""
        m = self.module
        each = zip(m.kernel_size, m.stride, m.dilation, m.padding, self._output_padding, strict=True)
        return tuple(
            Axis(kernel, 1, dilation, (dilation * (kernel - 1) - pad, dilation * (kernel - 1) - pad + more), spacing=stride)
            for kernel, stride, dilation, pad, more in each
        )

    @property
    def weight(self) -> Tensor:
        """The weight of the plain convolution, (out, in / groups, *kernel)."""
        return _swapped(super().weight, self.groups)

    def _write(self, name: str, value: Tensor) -> None:
        super()._write(name, _swapped(value, self.groups) if name == self.weight_name else value)

    def output(self, x: Tensor) -> Tensor:
        """Return what the module's class makes of an input."""
        m, (weight, bias) = self.module, self._weight_and_bias_like(x)
        function = getattr(functional, f"conv_transpose{len(m.stride)}d")
        weight = _swapped(weight, m.groups)
        return function(x, weight, bias, m.stride, m.padding, self._output_padding, m.groups, m.dilation)  # type: ignore[no-any-return]


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Return a weight (in, out / groups, *kernel) as (out, in / groups, *kernel) with the kernel flipped, and the other way round."""
    blocks = weight.unflatten(0, (groups, -1)).transpose(1, 2)
    return blocks.flatten(0, 1).flip(tuple(range(2, weight.ndim)))
