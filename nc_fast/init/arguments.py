"""Checks of campaign_'s arguments: one clear message before any layer changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import nn

from nc_fast.criteria import Criterion
from nc_fast.init.activations import FollowingActivation
from nc_fast.init.candidates import DATA_PAIRS, GivenCandidates, InitFunction, check_given, init_functions
from nc_fast.init.criteria import fisher_scores
from nc_fast.init.layers.base import Layer
from nc_fast.init.objective import Loss
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import is_tensor
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.runtime.progress import Progress

PURSUIT, CAMPAIGN, DRAWN, LEAST_SQUARES = "pursuit", "campaign", "drawn", "least_squares"
CRITERIA = {"ib": None, "fisher": fisher_scores}  # None: ib_scores, the contract's own
BIASES = ("center", "zeros")
BatchFunction = Callable[[Any], tuple[Any, ...]]  # a loader's item -> (inputs, labels) or (inputs, labels, mask)
AlphaByDepth = str | float | Sequence[float] | Callable[[float], float]


@dataclass(frozen=True)
class InitOptions:
    """campaign_'s arguments, checked."""

    lr: float | None
    loss: Loss | None
    max_samples: int | None
    max_patches: int = 100_000
    select: str = PURSUIT
    head: str = LEAST_SQUARES
    pool: int | None = None
    base: InitFunction | str | None = None  # DATA_PAIRS, a function, or None: what measures best for each layer
    rectifying: bool = True  # the base has the gain sqrt(2) for rectifiers: a kaiming function by name, or pairs
    alpha: AlphaByDepth = "linear"
    bias: str | float = "center"
    gain: float = 1.0
    by_class: bool = True
    criterion: Criterion | None = None  # None is "ib"
    screened: bool = False
    progress: Progress = False
    ignore: tuple[int | str | bytes, ...] = (IGNORE_INDEX,)
    batch: BatchFunction | None = None
    mask: Any = None  # an input's name, an array of samples in memory, None: the model's own, or False

    @property
    def targets(self) -> bool:
        """Whether float targets will do: campaigns need classes."""
        return self.select == PURSUIT and self.head == LEAST_SQUARES


def model(value: object) -> nn.Module:
    """Check the model; return it, or the one inside torch.compile's wrapper, whose parameters are the same."""
    inner = getattr(value, "_orig_mod", value)
    if not isinstance(inner, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(value).__name__}")
    if isinstance(inner, torch.jit.ScriptModule):  # its layers are no nn.Linear, and take no hooks
        raise TypeError(f"model: expected the module that was scripted or traced, got a {type(value).__name__}; call torch.jit afterwards")
    if any(nn.parameter.is_lazy(tensor) for tensor in (*inner.parameters(), *inner.buffers())):
        raise ValueError("model: expected initialized parameters, got lazy ones; call the model on a batch first")
    places = {str(parameter.device) for parameter in inner.parameters()}
    if "meta" in places:
        raise ValueError("model: expected parameters with storage, got the meta device; use model.to_empty(device=...) first")
    if len(places) > 1:
        raise ValueError(f"model: expected all parameters on one device, got {', '.join(sorted(places))}")
    return inner


def layer_names(layers: Any, names: Sequence[str]) -> set[str]:
    """Return the layers' names that the argument ``layers`` asks for, by name or by the module they are in."""
    if layers is None:
        return set(names)
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(f"layers: expected a list of names or None, got {layers!r}")
    asked: set[str] = set()
    for name in layers:
        matching = {known for known in names if isinstance(name, str) and (known == name or known.startswith(f"{name}."))}
        asked |= matching or {checks.choice("layers", name, names)}
    return asked


def activations(value: Any, names: Sequence[str]) -> dict[str, FollowingActivation]:
    """Return name -> activation, as the user gave them: one for all layers or a dict."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, _activation(value))
    return {checks.choice("activations", name, names): _activation(given) for name, given in value.items()}


def candidates(value: Any, layers: Sequence[Layer]) -> dict[str, GivenCandidates]:
    """Return name -> candidates the user brings."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"candidates: expected a dict, layer name -> weight, got {type(value).__name__}")
    by_name = {layer.name: layer for layer in layers}
    return {name: check_given(by_name[checks.choice("candidates", name, by_name)], given) for name, given in value.items()}


def alphas(alpha: AlphaByDepth, positions: Sequence[int], depth: int, names: Sequence[str]) -> list[float]:
    """Return alpha for each layer to initialize; positions are places among the ``depth`` of the whole network."""
    if isinstance(alpha, Sequence) and not isinstance(alpha, str):
        if len(alpha) != len(names):
            raise ValueError(f"alpha: expected {len(names)} numbers, one for each of {', '.join(names)}, got {len(alpha)}")
        return list(alpha)
    if callable(alpha) or isinstance(alpha, str):
        fractions = [position / (depth - 1) if depth > 1 else 1.0 for position in positions]
        return [1 - t if isinstance(alpha, str) else checks.alpha(alpha(t)) for t in fractions]
    return [alpha] * len(names)


def _activation(value: Any) -> FollowingActivation:
    function = checks.activation(value)
    return FollowingActivation(function if isinstance(function, str) else getattr(value, "__name__", type(value).__name__), function)


def alpha(value: Any) -> AlphaByDepth:
    if isinstance(value, str):
        return checks.choice("alpha", value, ("linear",))
    if callable(value):
        return _takes_one("alpha", value, "the depth")
    if isinstance(value, Sequence) or (isinstance(value, np.ndarray) and value.ndim):
        return [checks.alpha(number) for number in value]
    return checks.alpha(value)


def base(value: Any) -> InitFunction | str | None:
    if value is None:
        return None
    if isinstance(value, str) and value == DATA_PAIRS:
        return DATA_PAIRS
    if callable(value):
        return _takes_one("base", value, "a tensor to fill")
    known = init_functions()
    chosen = checks.choice("base", value.removesuffix("_") if isinstance(value, str) else value, (*known, DATA_PAIRS))
    return known[chosen]


def loss(value: Any) -> Loss | None:
    """Check a function of outputs and labels or targets."""
    return None if value is None else _callable("loss", value, "(outputs, y)")


def batch(value: Any) -> BatchFunction | None:
    """Check a function of a loader's items."""
    return None if value is None else _takes_one("batch", _callable("batch", value, "an item of the data"), "an item of the data")


def mask(value: Any) -> Any:
    """Check which positions count: an input's name, an array, None or False."""
    if value is None or value is False or isinstance(value, (str, np.ndarray)) or is_tensor(value):
        return value
    raise TypeError(f"mask: expected the name of an input, an array (n, *positions), None or False, got {value!r}")


def learning_rate(value: Any) -> float | None:
    """Check the rate of gradient descent; None stands for an adaptive optimizer."""
    return None if value is None else number("lr", value, positive=True)


def generator(value: Any) -> torch.Generator | None:
    """Check a generator."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {type(value).__name__}")
    return value


def _callable(name: str, value: Any, of: str) -> Callable[..., Any]:
    if not callable(value):
        raise TypeError(f"{name}: expected a callable of {of} or None, got {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def _takes_one(name: str, function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Check that a callable needs one argument only."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        raise TypeError(f"{name}: expected a callable that needs only {what}, got {function!r}") from None
    except ValueError:  # no signature to be had
        pass
    return function


def number(name: str, value: object, *, positive: bool = False) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not np.isfinite(float(value)):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    if positive and value <= 0:
        raise ValueError(f"{name}: expected a number > 0, got {value}")
    return float(value)
