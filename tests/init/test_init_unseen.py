"""Activations that no torch function is seen to compute are found by their numbers, or noted."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import Follow, blobs
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def swish(x):
    return x * torch.sigmoid(x)


def cube(x):
    return x * x * x


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.from_numpy(x.detach().numpy().clip(0))

    @staticmethod
    def backward(ctx, grad):
        return grad * (ctx.saved_tensors[0] > 0)


@torch.library.custom_op("nc_fast_tests::gate", mutates_args=())
def gate(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=0)


def of_numpy(function):
    return lambda z: torch.from_numpy(function(z.detach().cpu().numpy()))


FOUND = {
    "scripted module": (lambda: torch.jit.script(nn.ReLU()), "relu"),
    "scripted module in place": (lambda: torch.jit.script(nn.ReLU(inplace=True)), "relu"),
    "scripted function": (lambda: torch.jit.script(swish), "silu"),
    "scripted tanh": (lambda: torch.jit.script(nn.Tanh()), "tanh"),
    "scripted mish": (lambda: torch.jit.script(nn.Mish()), "mish"),
    "traced": (lambda: torch.jit.trace(nn.GELU(), torch.randn(2, 8)), "gelu"),
    "NumPy": (lambda: of_numpy(lambda z: z.clip(0)), "relu"),
    "NumPy tanh": (lambda: of_numpy(np.tanh), "tanh"),
    "autograd function": (lambda: Clipped.apply, "relu"),
    "custom operator": (lambda: gate, "relu"),
    "an operator of aten": (lambda: torch.ops.aten.silu.default, "silu"),
    "vmap": (lambda: torch.vmap(torch.relu), "relu"),
    "a product": (lambda: lambda z: z * torch.sigmoid(z), "silu"),
    "GELU spelled out": (lambda: lambda z: 0.5 * z * (1 + torch.erf(z / 2**0.5)), "gelu"),
    "CLIP's GELU": (lambda: lambda z: z * torch.sigmoid(1.702 * z), "quick_gelu"),
    "a choice": (lambda: lambda z: torch.where(z > 0, z, torch.zeros(())), "relu"),
    "a maximum": (lambda: lambda z: torch.maximum(z, torch.zeros(())), "relu"),
    "Threshold at 0": (lambda: nn.Threshold(0.0, 0.0), "threshold"),
    "Threshold": (lambda: nn.Threshold(0.1, -0.2), "threshold"),
    "RReLU": (nn.RReLU, "rrelu"),
}


@pytest.mark.parametrize("case", FOUND)
def test_they_are_found_by_their_numbers(case):
    make, name = FOUND[case]
    X, y = blobs(6)
    report = campaign_(Follow(make()), (X, y), generator=torch.Generator().manual_seed(0))
    assert report["first"].activation == name
    assert report["first"].select == "pursuit"
    assert not report["first"].notes
    assert report["last"].activation == "identity"
    assert not report["last"].notes


UNKNOWN = {
    "scripted": lambda: torch.jit.script(cube),
    "NumPy": lambda: of_numpy(lambda z: np.sign(z) * np.sqrt(np.abs(z))),
    "a product of three": lambda: lambda z: z * torch.sigmoid(z) * z,
    "of all neurons": lambda: of_numpy(lambda z: np.sort(z, axis=1)),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_is_not_found_is_noted(case):
    X, y = blobs(6)
    report = campaign_(Follow(UNKNOWN[case]()), (X, y))
    assert report["first"].activation == "identity"
    assert "identity assumed, name another with activations=" in report["first"].notes[0]
    named = campaign_(Follow(UNKNOWN[case]()), (X, y), activations={"first": "tanh"})["first"]
    assert (named.activation, named.notes) == ("tanh", ())


def test_a_scripted_activation_in_a_residual_branch_is_found():
    X, y = blobs(6)
    scripted_swish = torch.jit.script(swish)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = functional.relu(self.first(x))
            return self.last(x + scripted_swish(self.second(x)))

    report = campaign_(Residual(), (X, y))
    assert [layer.activation for layer in report.layers] == ["relu", "silu", "identity"]
