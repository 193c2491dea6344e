"""nn.MultiheadAttention: its query, key, value and output projections are linear layers, a campaign each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nc_fast.init.layers.linear import LinearLayer

PROJECTIONS = ("query", "key", "value")  # as nn.MultiheadAttention names its arguments, in their order


class ProjectionLayer(LinearLayer):
    """One of the query, key and value projections, packed into one weight or separate."""

    host: nn.MultiheadAttention

    def __init__(self, name: str, host: nn.MultiheadAttention, which: int) -> None:
        letter = PROJECTIONS[which][0]
        super().__init__(f"{name}.{letter}" if name else letter, host, host)
        self.kind = f"attention {letter}"
        self._which = which
        self._packed = host.in_proj_weight is not None
        self.weight_name = "in_proj_weight" if self._packed else f"{letter}_proj_weight"
        self.bias_name = "in_proj_bias"  # packed in either case
        self._part = slice(which * host.embed_dim, (which + 1) * host.embed_dim)

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return query, key or value."""
        return args[self._which] if len(args) > self._which else kwargs[PROJECTIONS[self._which]]  # type: ignore[no-any-return]

    @property
    def weight(self) -> Tensor:
        """The projection's part of the packed weight."""
        return super().weight[self._part] if self._packed else super().weight

    @property
    def bias(self) -> Tensor | None:
        """The projection's part of the packed bias."""
        bias = super().bias
        return None if bias is None else bias[self._part]

    def _write(self, name: str, value: Tensor) -> None:
        if self._packed or name == self.bias_name:
            whole = getattr(self.module, name).detach().clone()
            whole[self._part] = value
            value = whole
        super()._write(name, value)


class AttentionOutput(LinearLayer):
    """The output projection; its samples are the concatenated heads."""

    kind = "attention out"
    host: nn.MultiheadAttention

    def __init__(self, name: str, host: nn.MultiheadAttention) -> None:
        super().__init__(f"{name}.out_proj" if name else "out_proj", host, host.out_proj)

    def input(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Return what the heads hand over: the attention's own output under an identity projection."""
        weight = self.weight
        identity = {"out_proj.weight": torch.eye(len(weight), dtype=weight.dtype, device=weight.device)}
        if self.bias is not None:
            identity["out_proj.bias"] = torch.zeros_like(self.bias)
        heads, _ = torch.func.functional_call(self.host, identity, args, kwargs)
        return heads  # type: ignore[no-any-return]
