"""campaign_: check, look at the model, walk through it, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import nn

from nc_fast.api import METHODS
from nc_fast.criteria import Criterion
from nc_fast.init import arguments
from nc_fast.init.arguments import CAMPAIGN, LEAST_SQUARES, PURSUIT, AlphaByDepth, BatchFunction, InitOptions
from nc_fast.init.candidates import DATA_PAIRS, InitFunction
from nc_fast.init.fill import LayerPlan
from nc_fast.init.layers.find import find_layers
from nc_fast.init.objective import Loss
from nc_fast.init.plans import check_classes, check_varied, layer_plans
from nc_fast.init.report import InitReport
from nc_fast.init.run import initialize
from nc_fast.init.sampling import SampledData
from nc_fast.init.trace import Trace
from nc_fast.inputs import checks
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.runtime.caller import warn_caller
from nc_fast.runtime.progress import Progress


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
    max_patches: int = 100_000,
    layers: Iterable[str] | None = None,
    by_class: bool | None = None,
    criterion: str | Criterion | None = None,
    method: str | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = False,
    activations: str | Callable[[Any], Any] | Mapping[str, Any] | None = None,
    candidates: Mapping[str, Any] | None = None,
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
    batch: BatchFunction | None = None,
    mask: Any = None,
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
        Linear, Conv1d, Conv2d, Conv3d layers, what computes the same as Linear (GPT-2's Conv1D), and the projections of
        MultiheadAttention (so of TransformerEncoderLayer too) are initialized, parametrized ones through their ``right_inverse``.
        All other weights are kept and reported with the reason: other kinds of layers, those that are used twice, never reached,
        frozen or shared, and those to which the model sends samples in another order, or some only (routed experts).
    data : (X, y), DataLoader, or iterable of batches (X, y)
        y: (n,) or (n, 1) integer, boolean or string labels, (n, ...) with a label per token or pixel, or, with the default
        ``select`` and ``head``, (n,) or (n, T) float targets. X: a tensor, or a tuple or dict of tensors the model is called
        with. A batch may also be a dict, a dataclass or a named tuple with one of the fields "labels", "label", "target",
        "targets", "y", or (x1, x2, y) where the model takes two inputs. Batches may differ in their other dimensions
        (sequences padded to the longest of their batch). docs/data.md has the usual loaders.
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
    max_patches : int
        How many patches of all samples a convolution is scored on at most, as many of every class: of large patches fewer, what
        48 MiB hold or 5000; in each of several groups an eighth.
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
    ignore_index : label, sequence of labels, or None
        Labels that stand for no class, default -100: samples, or tokens and pixels, labelled so are left out.
    batch : callable (item of data) -> (inputs, labels) or (inputs, labels, mask), optional
        For loaders of anything else: ``batch=lambda b: (b["image"], b["kind"])``.
    mask : str, array, False, or None
        Which positions are samples: where the input of that name is 1 or, with data=(X, y), an array ``(n, *positions)``. None:
        by the inputs "attention_mask", "key_padding_mask" and "src_key_padding_mask", if the model has them. False: all.

    Returns
    -------
    InitReport
        ``print`` shows a table; ``report.to_dict()``.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, before any work; data that do not fit name the batch; a non-finite activation names its layer.

    Warns
    -----
    UserWarning
        When no two labels are the same, as if they were numbers of rows.
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
        max_patches=checks.whole("max_patches", max_patches, 1),
        by_class=by_class is None or checks.flag("by_class", by_class),
        criterion=criterion,
        screened=method is not None and checks.choice("method", method, METHODS) == "screened",
        progress=checks.progress(progress),
        ignore=checks.ignore_index(ignore_index),
        batch=arguments.batch(batch),
        mask=arguments.mask(mask),
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
        plans = layer_plans(traced, sampled, asked, named, given, options)
        check_classes(options, sampled, [plan.rules for plan in plans if plan.select == CAMPAIGN])
        if any(plan.select == PURSUIT for plan in plans):
            check_varied(sampled)
        return plans

    written = {layer.module for layer in fit if layer.name in asked}
    done = initialize(net, data, fit, written, generator, options, plans_of)
    report = InitReport(
        layers=done.layers,
        kept=tuple(layer for layer in (*unfit, *done.kept) if layer.name in asked),
        head=done.head,
        samples=done.sampled.size,
        classes=len(done.sampled.classes),
        seconds=perf_counter() - started,
        notes=done.sampled.notes,
    )
    if not report.layers:
        reasons = "; ".join(f"{layer.name}: {layer.reason}" for layer in report.kept)
        warn_caller(f"campaign_: nothing was initialized; {reasons}")
    return report
