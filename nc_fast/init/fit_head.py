"""fit_head_: the output layer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from nc_fast.init import arguments
from nc_fast.init.arguments import LEAST_SQUARES, BatchFunction, InitOptions
from nc_fast.init.fill import LayerPlan
from nc_fast.init.layers.find import find_layers
from nc_fast.init.objective import Loss
from nc_fast.init.pick import PickRules
from nc_fast.init.report import HeadReport
from nc_fast.init.run import initialize, unseen_samples, why_no_head
from nc_fast.init.sampling import SampledData
from nc_fast.init.trace import Trace
from nc_fast.inputs import checks
from nc_fast.inputs.labels import IGNORE_INDEX


def fit_head_(
    model: nn.Module,
    data: Any,
    *,
    lr: float | None = 0.1,
    loss: Loss | None = None,
    layer: str | None = None,
    max_samples: int | None = 2000,
    generator: torch.Generator | None = None,
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
    batch: BatchFunction | None = None,
    mask: Any = None,
) -> HeadReport:
    """Fit a network's output layer to what the layers before it produce, in place.

    Ridge regression of the labels or float targets on the layer's inputs, times the largest scale, up to the one of the least
    leave-one-out cross-entropy, at which the sharpness of the loss, its largest curvature over all parameters that are trained, is at
    most ``2 / lr`` (and 40): beyond, gradient descent at that rate is unstable. For a network of any initialization, and for a
    pretrained one before fine-tuning, which a random head would distort (Kumar et al., 2022).

    Parameters
    ----------
    model : torch.nn.Module
        Ends in a Linear layer, which nothing but reshaping, averaging or a softmax follows.
    data : (X, y), DataLoader, or iterable of batches (X, y)
        As in :func:`campaign_`; y may be float targets.
    lr : float > 0 or None
        Rate of gradient descent. None: an adaptive optimizer, which bears more; the limit is 75.
    loss : callable (outputs, y) -> mean loss, optional
        As in :func:`campaign_`.
    layer : str, optional
        Name of the output layer; default the last one that the data meets.
    max_samples : int or None
        Size of the class-stratified sample, as in :func:`campaign_`.
    generator : torch.Generator, optional
        All randomness follows it.
    ignore_index, batch, mask
        As in :func:`campaign_`.

    Returns
    -------
    HeadReport

    Raises
    ------
    TypeError, ValueError
        For wrong arguments, and where the layer cannot be fitted, before anything changes.
    RuntimeError
        When the model cannot be called with the data.

    Notes
    -----
    Sharpness is the top eigenvalue of the Gauss-Newton matrix on up to 128 samples that the head is not fitted to, by power
    iteration. Where an operation of the model has no second derivatives the scale is 1, and a note says so.
    Activations are penalised as they come (``standardize=False`` in :func:`nc_fast.ridge_head`). Modes, buffers and
    all other weights stay as they were.

    Source: Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR 2022, for the
    fitted head; Cohen et al., "Gradient descent on neural networks typically occurs at the edge of stability", ICLR 2021, for
    2 / lr.

    Examples
    --------
    >>> import torch, nc_fast.init
    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.arange(300) % 3
    >>> X = torch.randn(300, 8, generator=generator) + 3 * torch.eye(8)[y]
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> report = nc_fast.init.fit_head_(model, (X, y), generator=generator)
    >>> report.name, report.sharpness <= report.limit, report.loss_after < report.loss_before
    ('2', True, True)
    """
    started = perf_counter()
    net = arguments.model(model)
    most = None if max_samples is None else checks.whole("max_samples", max_samples, 2)
    options = InitOptions(
        lr=arguments.learning_rate(lr),
        loss=arguments.loss(loss),
        max_samples=most,
        ignore=checks.ignore_index(ignore_index),
        batch=arguments.batch(batch),
        mask=arguments.mask(mask),
    )
    generator = arguments.generator(generator)
    fit, unfit = find_layers(net)
    if not fit:
        kept = "; ".join(f"{one.name}: {one.reason}" for one in unfit) or "no layer with weights"
        raise ValueError(f"model: expected a Linear output layer, got {kept}")
    reasons = {one.name: one.reason for one in unfit}
    if layer is not None and checks.choice("layer", layer, [*(one.name for one in fit), *reasons]) in reasons:
        raise ValueError(f"layer: {layer!r} cannot be fitted: {reasons[layer]}")

    def plans_of(traced: Trace, sampled: SampledData) -> list[LayerPlan]:
        reasons = {one.name: one.reason for one in traced.kept}
        reached = {one.layer.name: one for one in traced.layers}
        name = layer or next(reversed(reached), None)
        if name is None or name in reasons:
            got = reasons.get(name, "no layer that can be") if name else "no layer that can be"
            raise ValueError(f"layer: expected a Linear output layer, got {got}")
        reason = why_no_head(reached[name], sampled, options.loss is not None)
        if reason:
            others = "".join(f"; {one.name}: {one.reason}" for one in (*unfit, *traced.kept)) if layer is None else ""
            raise ValueError(f"layer: {name!r} cannot be fitted: {reason}{others}")
        head = reached[name]
        rules = PickRules(head.activation, 0.0, False, None, False, False)
        return [LayerPlan(head.layer, head.axis, LEAST_SQUARES, rules, nn.init.kaiming_normal_, 1.0, None, unseen_samples(sampled))]

    written = {one.module for one in fit if layer in (None, one.name)}
    done = initialize(net, data, fit, written, generator, options, plans_of)
    assert done.head is not None
    return replace(done.head, seconds=perf_counter() - started, notes=(*done.layers[0].notes, *done.head.notes, *done.sampled.notes))
