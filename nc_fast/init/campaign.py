"""campaign_: check, look at the model, walk through it, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from nc_fast.api import METHODS
from nc_fast.criteria import Criterion
from nc_fast.init import arguments
from nc_fast.init.activations import FollowingActivation
from nc_fast.init.arguments import CAMPAIGN, DRAWN, LEAST_SQUARES, PURSUIT, AlphaByDepth, InitOptions
from nc_fast.init.candidates import DATA_PAIRS, GivenCandidates, InitFunction
from nc_fast.init.criteria import fisher_scores
from nc_fast.init.fill import LayerPlan
from nc_fast.init.layers.base import Layer
from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.layers.find import find_layers
from nc_fast.init.objective import Loss
from nc_fast.init.pick import PickRules
from nc_fast.init.report import InitReport
from nc_fast.init.run import initialize, unseen_samples, why_no_head
from nc_fast.init.sampling import SampledData
from nc_fast.init.trace import Trace
from nc_fast.inputs import checks
from nc_fast.runtime.progress import Progress

LINEAR_GAIN = 0.5**0.5  # takes He's gain for rectifiers, sqrt(2), back to 1


def campaign_(
    model: nn.Module,
    data: Any,
    *,
    select: str = PURSUIT,
    head: str | None = None,
    lr: float | None = 0.1,
    loss: Loss | None = None,
    pool: int | None = None,
    base: str | InitFunction | None = None,
    alpha: AlphaByDepth | None = None,
    bias: str | float = "center",
    gain: float = 1.0,
    max_samples: int | None = 2000,
    layers: Iterable[str] | None = None,
    by_class: bool | None = None,
    criterion: str | Criterion | None = None,
    method: str | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = False,
    activations: str | Callable[[Any], Any] | Mapping[str, Any] | None = None,
    candidates: Mapping[str, Any] | None = None,
) -> InitReport:
    """Start a network ahead, in place: hidden neurons picked on the data, the output layer fitted, as sharp as training bears.

    Layer by layer, in the order the data meets them: of a pool of candidates, those are installed whose activations, on what
    the layers before produce, together explain the labels or float targets best (:func:`nc_fast.pursuit`). The output layer is
    a ridge head (:func:`fit_head_`). ``select="campaign"`` is the paper's campaign in every layer instead. Only weights and
    biases of the layers in the report's ``layers`` change: modes, buffers (running statistics), ``requires_grad``, hooks,
    dtypes and devices stay. After an error or Ctrl-C the weights, too, are as they were.

    Parameters
    ----------
    model : torch.nn.Module
        Linear, Conv1d, Conv2d, Conv3d layers and the projections of MultiheadAttention (so of TransformerEncoderLayer too)
        are initialized, parametrized ones through their ``right_inverse``. Layers that are used twice, never reached,
        frozen, or share their weight are kept and reported.
    data : (X, y), DataLoader, or iterable of batches (X, y)
        y: (n,) integer, boolean or string labels, (n, ...) with a label per token, or, with the default ``select`` and
        ``head``, (n,) or (n, T) float targets. X: a tensor, or a tuple or dict of tensors the model is called with; a batch may
        also be a dict with a key "labels".
    select : "pursuit" or "campaign"
        How hidden neurons are picked. A pursuit picks where an activation follows; layers that end in a sum, attention's
        projections and layers before a BatchNorm that has seen no batch are only drawn, which measured better.
    head : "least_squares" or "campaign", optional
        How the output layer is found; default "least_squares", with ``select="campaign"`` "campaign". Where the last layer is
        no Linear, or its outputs do not fit the labels, it is found like the others, and a note says why.
    lr : float > 0 or None
        Rate the network will be trained at by gradient descent, with or without momentum: the head is as large as the loss
        asks for, up to a sharpness of ``2 / lr``, or 40. None: an adaptive optimizer, which bears more, up to 75.
    loss : callable (outputs, y) -> mean loss, optional
        Default: cross-entropy, binary for one output; squared error for float targets. ``outputs`` is the tensor, of those the
        model returns, that the output layer ends in; y holds numbers of outputs (int64), or targets.
    pool : int, optional
        Candidates per neuron, default 10; for wide layers a pursuit has fewer, down to 2, where a layer's would be above 640.
        With 1, a pursuit has no choice: centred biases and the fitted head are what remains.
    base : str or callable, optional
        What candidates are drawn by: "data_pairs" (:func:`nc_fast.candidates.data_pairs`, of patches in convolutions), a
        function of torch.nn.init by name, or one that fills a tensor in place; it sees tensors of the layer's own shape, so
        fan_in and fan_out are the layer's. The kaiming functions' gain is sqrt(2), and 1 for layers that no activation follows
        (branches that end in a sum, attention's projections), except the output layer and before a BatchNorm. Default:
        "data_pairs" where a pursuit picks in a convolution or with ``lr=None``, otherwise "kaiming_normal".
    alpha : "linear", number in [0, 1], list, or callable, optional
        Weight of I(X;Z) in a campaign: "linear", the default, falls from 1 at the first layer to 0 at the last (a single layer
        is a last one); a list has a number per initialized layer; a callable gets the depth, 0 at the first layer to 1 at the
        last.
    bias : "center", "zeros", or number
        The biases installed, and used in scoring. "center": ``-mean(x · w)`` over the samples. Without a (trainable) bias
        parameter, scores use 0.
    gain : float > 0
        Multiplies the weights.
    max_samples : int or None
        Size of the class-stratified sample (equal shares of the classes, as far as there are enough). Where labels are known
        in advance (tensors, TensorDataset, Subset, datasets with ``targets``), only the samples chosen are loaded. Other
        iterables are read until every class seen has its share, for at most 4 · max_samples samples: shuffle sorted data.
        None: all samples, streamed; the data must allow to be read several times. Of a layer's samples a pursuit looks at 500
        to 2000, the head is fitted to 5000 at most, and judged by 128 that it was not fitted to: the first, with None.
    layers : list of str, optional
        Names of layers, or of modules they are in; default all.
    by_class : bool, optional
        In campaigns, share a layer's picks over the classes, and in the output layer assign them to the classes' outputs: the
        default. Otherwise neither.
    criterion : "ib", "fisher" or callable, optional
        Of campaigns; see :mod:`nc_fast.criteria` and :func:`nc_fast.init.fisher_scores`.
    method : "exact" or "screened", optional
        How campaigns score pools; "screened" as in :func:`nc_fast.campaign`, for pools of many thousands and thousands of samples
        (pools it would not be faster for, layers before a BatchNorm, and layers whose samples take more than 1 GiB are scored
        exactly). A layer's notes say how sure its picks are.
    generator : torch.Generator, optional
        All randomness follows it, and no global state (torch, NumPy, random; the loader's own generators) is changed.
        Without it, candidates and samples are drawn from the global state, as in torch.nn.init.
    progress : bool or callable
        As in :func:`nc_fast.campaign`; counts layers.
    activations : str, callable, or dict by layer name, optional
        What follows the layers, where it is not to be found from the forward pass.
    candidates : dict, layer name -> weight (M, ...), or pair of weight and bias (M,)
        Pick this layer's neurons among given ones, such as those of a wider pretrained layer, and, in a pair, keep their
        biases.

    Returns
    -------
    InitReport
        ``print`` shows a table; ``report.to_dict()``.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, before any work; a non-finite activation names its layer.
    RuntimeError
        When the model cannot be called with the data.

    Notes
    -----
    Forward passes run in evaluation mode, without gradients: no dropout. A BatchNorm that has seen batches uses its running
    statistics; one that has not uses the batch's, as the first training step will, and the layer before it is scored
    after that normalization. A campaign's neurons of hidden layers are ordered so that neighbours differ in class.
    Source: Mao et al., CIKM 2021, for campaigns; Chen, Cowan and Grant, IEEE Transactions on Neural Networks 2 (1991), for
    pursuits. The defaults are what docs/initialization.md found to be best overall.

    Examples
    --------
    >>> import torch, nc_fast.init
    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(300) % 3
    >>> X = torch.randn(300, 8, generator=generator) + 3 * torch.eye(8)[y]
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> report = nc_fast.init.campaign_(model, (X, y), generator=generator)
    >>> [(layer.name, layer.activation, layer.select) for layer in report.layers]
    [('0', 'relu', 'pursuit'), ('2', 'identity', 'least_squares')]
    >>> bool((model(X).argmax(1) == y).float().mean() > 0.8)  # untrained; chance is 1/3
    True
    """
    started = perf_counter()
    net = arguments.model(model)
    checks.choice("select", select, (PURSUIT, CAMPAIGN))
    head = (LEAST_SQUARES if select == PURSUIT else CAMPAIGN) if head is None else checks.choice("head", head, (LEAST_SQUARES, CAMPAIGN))
    of_campaigns = {"alpha": alpha, "by_class": by_class, "criterion": criterion, "method": method}
    if CAMPAIGN not in (select, head):
        for name, value in of_campaigns.items():
            if value is not None:
                raise ValueError(f"{name}: expected None without select='campaign' or head='campaign', got {value!r}")
    if head == CAMPAIGN and loss is not None:
        raise ValueError(f"loss: expected None without head='least_squares', got {loss!r}")
    if criterion is not None and not callable(criterion):
        criterion = arguments.CRITERIA[checks.choice("criterion", criterion, arguments.CRITERIA)]
    options = InitOptions(
        select=select,
        head=head,
        lr=arguments.learning_rate(lr),
        loss=arguments.loss(loss),
        pool=None if pool is None else checks.whole("pool", pool, 1),
        base=arguments.base(base),
        rectifying=base is None or (isinstance(base, str) and (base == DATA_PAIRS or base.startswith("kaiming"))),
        alpha=arguments.alpha("linear" if alpha is None else alpha),
        bias=checks.choice("bias", bias, arguments.BIASES) if isinstance(bias, str) else arguments.number("bias", bias),
        gain=arguments.number("gain", gain, positive=True),
        max_samples=None if max_samples is None else checks.whole("max_samples", max_samples, 2),
        by_class=by_class is None or checks.flag("by_class", by_class),
        criterion=criterion,
        screened=method is not None and checks.choice("method", method, METHODS) == "screened",
        progress=checks.progress(progress),
    )
    generator = arguments.generator(generator)
    fit, unfit = find_layers(net)
    if not fit and not unfit:
        raise ValueError("model: expected at least one Linear, Conv1d, Conv2d, Conv3d or MultiheadAttention layer, got none")
    names = [layer.name for layer in fit]
    asked = arguments.layer_names(layers, names + [layer.name for layer in unfit])
    named = arguments.activations(activations, names)
    given = arguments.candidates(candidates, fit)

    def plans_of(traced: Trace, sampled: SampledData) -> list[LayerPlan]:
        plans = _plans(traced, sampled, asked, named, given, options)
        _enough_classes(options, sampled, [plan.rules for plan in plans if plan.select == CAMPAIGN])
        if any(plan.select == PURSUIT for plan in plans):
            _varied(sampled)
        return plans

    written = {layer.module for layer in fit if layer.name in asked}
    done = initialize(net, data, fit, written, generator, options, plans_of)
    return InitReport(
        layers=done.layers,
        kept=tuple(layer for layer in (*unfit, *done.traced.kept) if layer.name in asked),
        head=done.head,
        samples=done.sampled.size,
        classes=len(done.sampled.classes),
        seconds=perf_counter() - started,
        notes=done.sampled.notes,
    )


def _plans(
    traced: Trace,
    sampled: SampledData,
    asked: set[str],
    named: Mapping[str, FollowingActivation],
    given: Mapping[str, GivenCandidates],
    options: InitOptions,
) -> list[LayerPlan]:
    layers = [one for one in traced.layers if one.layer.name in asked]
    depth = 1 + max((one.position for one in traced.layers), default=0)
    alphas = arguments.alphas(options.alpha, [one.position for one in layers], depth, [one.layer.name for one in layers])
    plans = []
    for one, alpha in zip(layers, alphas, strict=True):
        name = one.layer.name
        # The BatchNorm in between was seen, whatever the user says follows it.
        activation = replace(named[name], normalized=one.activation.normalized) if name in named else one.activation
        last = one is traced.layers[-1]
        select, given_here = options.select, given.get(name)
        if select == PURSUIT and given_here is None and (options.pool == 1 or not _worth_picking(activation)):
            select = DRAWN
        if last and options.head == CAMPAIGN:
            select = CAMPAIGN
        elif last and given_here is None:
            reason = why_no_head(one, sampled)
            if reason is None:
                select = LEAST_SQUARES
            else:
                activation = replace(activation, notes=(*activation.notes, f"no head was fitted: {reason}"))
        rules = PickRules(activation, alpha, options.by_class, options.criterion, options.screened, options.by_class and last)
        # What ends in a sum or in attention meets no rectifier: He's sqrt(2) would let residual streams and attention grow.
        linear = options.rectifying and activation.function == "identity" and not (last or activation.normalized)
        plans.append(
            LayerPlan(
                layer=one.layer,
                axis=one.axis,
                select=select,
                rules=rules,
                base=options.base or _best_base(one.layer, select, options),
                gain=options.gain * (LINEAR_GAIN if linear else 1),
                given=given_here,
                unseen=unseen_samples(sampled),
            )
        )
    return plans


def _best_base(layer: Layer, select: str, options: InitOptions) -> InitFunction | str:
    """Return what measured best: pairs are ahead where they are pursued in convolutions, or where no rate limits their sharpness."""
    pairs = select == PURSUIT and (options.lr is None or isinstance(layer, ConvLayer))
    return DATA_PAIRS if pairs else nn.init.kaiming_normal_


def _worth_picking(activation: FollowingActivation) -> bool:
    """Whether it measured better to pick: not where branches end in a sum, in attention, nor before a BatchNorm."""
    return activation.function != "identity" and not activation.normalized


def _varied(sampled: SampledData) -> None:
    """Check that there is something to explain."""
    if sampled.targets is not None and np.ptp(sampled.targets, axis=0).max() == 0:
        raise ValueError(f"data: expected float targets that vary, got the same in all {sampled.size} samples")
    if sampled.targets is None and len(sampled.classes) < 2:
        raise ValueError(f"data: expected labels of at least two classes, got {len(sampled.classes)}")


def _enough_classes(options: InitOptions, sampled: SampledData, rules: Sequence[PickRules]) -> None:
    """Check that campaigns have the classes they need."""
    if options.criterion is None:
        checks.enough_classes(min((one.alpha for one in rules), default=1.0), sampled.classes)
    elif options.criterion is fisher_scores and len(sampled.classes) < 2:
        raise ValueError(f"data: expected at least two classes for criterion='fisher', got {len(sampled.classes)}")
