"""The initializations that are compared, by name and options: ``he``, ``he:gain=1.41``, ``campaign:alpha=0.5,bias=zeros``.

To add one, write a function that takes (model, data, generator, lr) and its options by keyword, and put it into INITIALIZATIONS.
``lr`` is the rate the network will be trained at, None where the optimizer adapts it. Functions of torch.nn.init set the weights of
linear layers and convolutions; biases are 0 with them, and all else (attention's input projections) stays as torch drew it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import nc_fast.init
from nc_fast.compare import original
from nc_fast.compare.networks import LINEAR_STACKS, TrainingData
from nc_fast.inputs import checks

HE = "he"  # what everything is compared with
PUBLISHED = "original"
RELU_GAIN = 2**0.5
LSUV_SAMPLES = 2000  # as many as a campaign looks at

Initialize = Callable[[nn.Module, TrainingData, torch.Generator, float | None], None]


def parse(spec: str) -> Initialize:
    """Return the initialization that ``name`` or ``name:option=value,option=value`` asks for.

    Raises
    ------
    ValueError
        For an unknown name or option, saying which there are.
    ImportError
        When it needs a package that is not installed.

    Examples
    --------
    >>> parse("he:gian=2")
    Traceback (most recent call last):
        ...
    ValueError: --init he: expected one of 'gain', 'like', got 'gian'; did you mean 'gain'?
    """
    name, _, text = spec.partition(":")
    function = INITIALIZATIONS[checks.choice("--init", name, INITIALIZATIONS)]
    if name.startswith("lsuv"):
        _lsuv()
    parameters = inspect.signature(function).parameters.values()
    known = OPTIONS.get(name) or [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    options = {}
    for part in text.split(",") if text else ():
        option, equals, value = part.partition("=")
        if not equals or not value:
            raise ValueError(f"--init {spec}: expected option=value, got {part!r}")
        options[checks.choice(f"--init {name}", option, known)] = _value(value)
    if "like" in options:
        parse(str(options["like"]))
    return partial(function, **options)


def he(
    model: nn.Module, data: TrainingData, generator: torch.Generator, lr: float | None, *, gain: float = 1.0, like: str | None = None
) -> None:
    """He normal weights; ``like``: each layer's rescaled to the root mean square that another initialization gives it."""
    _fill(model, generator, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu").mul_(gain))
    if like is not None:
        other = deepcopy(model)
        parse(like)(other, data, generator, lr)
        with torch.no_grad():
            for mine, theirs in zip(layers(model), layers(other), strict=True):
                mine.weight.mul_(theirs.weight.norm() / mine.weight.norm())


def normal(model: nn.Module, _: TrainingData, generator: torch.Generator, _lr: float | None, *, std: float = 0.01) -> None:
    """Weights from N(0, std²)."""
    _fill(model, generator, partial(nn.init.normal_, std=std))


def xavier(model: nn.Module, _: TrainingData, generator: torch.Generator, _lr: float | None, *, gain: float = 1.0) -> None:
    """Xavier normal weights."""
    _fill(model, generator, partial(nn.init.xavier_normal_, gain=gain))


def orthogonal(model: nn.Module, _: TrainingData, generator: torch.Generator, _lr: float | None, *, gain: float = RELU_GAIN) -> None:
    """Orthogonal weights."""
    _fill(model, generator, partial(nn.init.orthogonal_, gain=gain))


def lsuv(model: nn.Module, data: TrainingData, generator: torch.Generator, _lr: float | None) -> None:
    """Layer-sequential unit variance, by the package ``lsuv`` with its defaults, on a random batch."""
    with _seeded(generator, data.X.device):
        batch = data.X[torch.randperm(len(data.X))[:LSUV_SAMPLES].to(data.X.device)]
        _lsuv()(model, batch, verbose=False, device=batch.device)


def campaign(model: nn.Module, data: TrainingData, generator: torch.Generator, run_lr: float | None, **options: Any) -> None:
    """:func:`nc_fast.init.campaign_` for the run's rate, with those of its options that OPTIONS names."""
    nc_fast.init.campaign_(model, (data.X, data.y), generator=generator, **{"lr": run_lr, **options})


def he_center(model: nn.Module, data: TrainingData, generator: torch.Generator, lr: float | None) -> None:
    """He weights and centred biases: a campaign with nothing to choose from."""
    campaign(model, data, generator, lr, pool=1, by_class=False, **PAPER)


def he_center_assign(model: nn.Module, data: TrainingData, generator: torch.Generator, lr: float | None) -> None:
    """He weights, centred biases, and outputs assigned to classes."""
    campaign(model, data, generator, lr, pool=1, **PAPER)


def he_head(model: nn.Module, data: TrainingData, generator: torch.Generator, run_lr: float | None, **options: Any) -> None:
    """He weights, centred biases, and an output layer fitted to the labels: :func:`nc_fast.init.campaign_` without a choice."""
    campaign(model, data, generator, run_lr, pool=1, base="kaiming_normal", **options)


def lsuv_head(model: nn.Module, data: TrainingData, generator: torch.Generator, run_lr: float | None, **options: Any) -> None:
    """Layer-sequential unit variance, and an output layer fitted to the labels."""
    lsuv(model, data, generator, run_lr)
    nc_fast.init.fit_head_(model, (data.X, data.y), generator=generator, **{"lr": run_lr, **options})


def published(model: nn.Module, data: TrainingData, generator: torch.Generator, _lr: float | None, *, pool: int = 5) -> None:
    """The published program's recipe, see :mod:`nc_fast.compare.original`."""
    if not isinstance(model, nn.Sequential):
        raise TypeError(f"--init original: expected a Sequential of linear layers, got {type(model).__name__}")
    with _seeded(generator, data.X.device), torch.no_grad():
        original.initialize(model, data.X, data.y, pool)


INITIALIZATIONS: dict[str, Callable[..., None]] = {
    "normal": normal,
    "xavier": xavier,
    HE: he,
    "orthogonal": orthogonal,
    "lsuv": lsuv,
    PUBLISHED: published,
    "he-center": he_center,
    "he-center-assign": he_center_assign,
    "he-head": he_head,
    "lsuv-head": lsuv_head,
    "campaign": campaign,
}
PAPER = {"select": "campaign", "base": "kaiming_normal", "head": "campaign"}
OPTIONS = {
    "campaign": ("pool", "select", "base", "head", "alpha", "bias", "gain", "max_samples", "by_class", "criterion", "method", "lr"),
    "he-head": ("lr",),
    "lsuv-head": ("lr",),
}
DEFAULT = ("he", "campaign")
VARIANTS = {HE: (HE, "he:like=campaign", "he:like=original"), "campaign": ("campaign:select=campaign", "campaign")}
ALL = tuple(spec for name in INITIALIZATIONS for spec in VARIANTS.get(name, (name,)))


def suits(spec: str, network: str) -> bool:
    """Whether an initialization exists for a network: the published recipe is for stacks of linear layers."""
    return network in LINEAR_STACKS or PUBLISHED not in spec


def layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """Return the layers that are initialized."""
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]


def _fill(model: nn.Module, generator: torch.Generator, fill: Callable[[Tensor], Any]) -> None:
    parameters = [(layer.weight, layer.bias) for layer in layers(model)]
    with _seeded(generator, parameters[0][0].device), torch.no_grad():
        for weight, bias in parameters:
            fill(weight)
            if bias is not None:
                nn.init.zeros_(bias)


@contextmanager
def _seeded(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Make torch's global generators follow ``generator`` inside the block, and find them unchanged after it."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _lsuv() -> Callable[..., nn.Module]:
    try:
        from lsuv import lsuv_with_singlebatch
    except ImportError:
        raise ImportError('--init lsuv: lsuv is not installed: pip install "nc_fast[demo]"') from None
    return lsuv_with_singlebatch  # type: ignore[no-any-return]


def _value(text: str) -> Any:
    if "/" in text:
        return [_value(part) for part in text.split("/")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)
