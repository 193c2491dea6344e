"""The activations: one table, name -> function applied in place to a block of pre-activations.

Each function takes a float32 or float64 array, may overwrite it, and returns the result. These are the definitions, in NumPy's words;
the CPU backend has its own, compiled into the sums (backends/cpu/elementwise.py), and so have GPU kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import pi, sqrt
from typing import Any

import numpy as np

Block = Any  # (n, m) numpy array, float32 or float64
LEAKY_SLOPE = 0.01
GELU_TANH_CUBIC = 0.044715


def identity(z: Block) -> Block:
    """z"""
    return z


def relu(z: Block) -> Block:
    """max(z, 0)"""
    return np.maximum(z, 0, out=z)


def leaky_relu(z: Block) -> Block:
    """z if z > 0 else 0.01 z"""
    return np.maximum(z, LEAKY_SLOPE * z, out=z)


def elu(z: Block) -> Block:
    """z if z > 0 else exp(z) - 1"""
    negative = np.minimum(z, 0)
    return np.add(np.maximum(z, 0, out=z), np.expm1(negative, out=negative), out=z)


def gelu(z: Block) -> Block:
    """z Phi(z), Phi the normal distribution function"""
    from scipy.special import erf

    return np.multiply(z, 0.5 * (1 + erf(z * sqrt(0.5))), out=z)


def gelu_tanh(z: Block) -> Block:
    """The tanh approximation of gelu"""
    inner = z * z
    inner *= GELU_TANH_CUBIC
    inner += 1
    inner *= z
    inner *= sqrt(2 / pi)
    np.tanh(inner, out=inner)
    inner += 1
    inner *= 0.5
    return np.multiply(z, inner, out=z)


def silu(z: Block) -> Block:
    """z sigmoid(z)"""
    return np.multiply(z, sigmoid(z.copy()), out=z)


def tanh(z: Block) -> Block:
    """tanh(z)"""
    return np.tanh(z, out=z)


def sigmoid(z: Block) -> Block:
    """1 / (1 + exp(-z))"""
    with np.errstate(over="ignore"):  # exp(-z) = inf gives the right limit, 0
        np.exp(np.negative(z, out=z), out=z)
    z += 1
    return np.reciprocal(z, out=z)


def softplus(z: Block) -> Block:
    """log(1 + exp(z))"""
    tail = np.exp(-np.abs(z))
    return np.add(np.maximum(z, 0, out=z), np.log1p(tail, out=tail), out=z)


ACTIVATIONS: dict[str, Callable[[Block], Block]] = {
    function.__name__: function for function in (identity, relu, leaky_relu, elu, gelu, gelu_tanh, silu, tanh, sigmoid, softplus)
}
# What others call them, without separators and in lower case.
ALIASES = {
    **{"".join(name.split("_")): name for name in ACTIVATIONS},
    **dict.fromkeys(("linear", "none", "passthrough"), "identity"),
    **dict.fromkeys(("lrelu", "leaky"), "leaky_relu"),
    **dict.fromkeys(("gelunew", "gelupytorchtanh", "gelufast", "geluaccurate", "geluapproximate"), "gelu_tanh"),
    **dict.fromkeys(("gelupython", "geluerf"), "gelu"),
    **dict.fromkeys(("swish", "swish1"), "silu"),
    **dict.fromkeys(("logistic", "expit"), "sigmoid"),
    "rectifier": "relu",
}
# Spelled like one in the table, and another function.
OTHERS = {"relu6", "relu2", "crelu", "prelu", "rrelu", "srelu", "squaredrelu", "selu", "celu", "glu", "geglu", "reglu", "swiglu"}
OTHERS |= {"quickgelu", "gelu10", "logsigmoid", "logsoftmax", "softmax", "softmin", "softsign", "softshrink", "tanhshrink"}


def near_activation(name: str) -> str | None:
    """Return the activation in the table that another name stands for or is a slip of; None where it is another function's.

    >>> near_activation("torch.nn.LeakyReLU"), near_activation("swish"), near_activation("hardswish")
    ('leaky_relu', 'silu', None)
    """
    plain = "".join(part for part in name.rpartition(".")[2].lower() if part.isalnum())
    if plain in OTHERS or plain.startswith("hard"):
        return None
    near = get_close_matches(plain, ALIASES, n=1, cutoff=0.7)
    return ALIASES[near[0]] if near else None
