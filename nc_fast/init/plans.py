"""What is done to each layer: whether its neurons are picked, how, and among what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from nc_fast.init import arguments
from nc_fast.init.activations import FollowingActivation
from nc_fast.init.arguments import CAMPAIGN, DRAWN, LEAST_SQUARES, PURSUIT, InitOptions
from nc_fast.init.candidates import DATA_PAIRS, GivenCandidates, InitFunction
from nc_fast.init.criteria import fisher_scores
from nc_fast.init.fill import LayerPlan
from nc_fast.init.layers.base import Layer, PatchDraw
from nc_fast.init.layers.convolution import ConvLayer
from nc_fast.init.pick import PickRules, stray_labels
from nc_fast.init.run import unseen_samples, why_no_head
from nc_fast.init.sampling import SampledData
from nc_fast.init.trace import Trace
from nc_fast.inputs import checks

LINEAR_GAIN = 0.5**0.5  # takes He's gain for rectifiers, sqrt(2), back to 1


def layer_plans(
    traced: Trace,
    sampled: SampledData,
    asked: set[str],
    named: Mapping[str, FollowingActivation],
    given: Mapping[str, GivenCandidates],
    options: InitOptions,
) -> list[LayerPlan]:
    """Return what is to be done to the layers asked for, in the order the data meets them."""
    layers = [one for one in traced.layers if one.layer.name in asked]
    depth = 1 + max((one.position for one in traced.layers), default=0)
    alphas = arguments.alphas(options.alpha, [one.position for one in layers], depth, [one.layer.name for one in layers])
    plans = []
    for one, alpha in zip(layers, alphas, strict=True):
        name = one.layer.name
        # The BatchNorm in between was seen, whatever the user says follows it.
        activation = replace(named[name], normalized=one.activation.normalized) if name in named else one.activation
        last = one is traced.layers[-1]
        stray = stray_labels(sampled.classes, len(one.layer.weight)) if last and options.by_class and sampled.targets is None else None
        select, given_here = options.select, given.get(name)
        if select == PURSUIT and given_here is None and (options.pool == 1 or not _worth_picking(activation)):
            select = DRAWN
        if last and options.head == CAMPAIGN:
            select = CAMPAIGN
            if stray:
                activation = replace(activation, notes=(*activation.notes, f"its neurons were not assigned to classes: {stray}"))
        elif last and given_here is None:
            reason = why_no_head(one, sampled, options.loss is not None)
            if reason is None:
                select = LEAST_SQUARES
            else:
                activation = replace(activation, notes=(*activation.notes, f"no head was fitted: {reason}"))
        rules = PickRules(activation, alpha, options.by_class, options.criterion, options.screened, options.by_class and last)
        # What ends in a sum or in attention meets no rectifier: He's sqrt(2) would let residual streams and attention grow.
        linear = options.rectifying and activation.function == "identity" and not (last or activation.normalized)
        seed = int(torch.randint(2**31, ())) if isinstance(one.layer, ConvLayer) else 0
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
                draw=PatchDraw(options.max_patches, sampled.size, seed),
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


def check_varied(sampled: SampledData) -> None:
    """Check that there is something to explain."""
    if sampled.targets is not None and np.ptp(sampled.targets, axis=0).max() == 0:
        raise ValueError(f"data: expected float targets that vary, got the same in all {sampled.size} samples")
    if sampled.targets is None and len(sampled.classes) < 2:
        raise ValueError(f"data: expected labels of at least two classes, got {len(sampled.classes)}")


def check_classes(options: InitOptions, sampled: SampledData, rules: Sequence[PickRules]) -> None:
    """Check that campaigns have the classes they need."""
    if options.criterion is None:
        checks.enough_classes(min((one.alpha for one in rules), default=1.0), sampled.classes)
    elif options.criterion is fisher_scores and len(sampled.classes) < 2:
        raise ValueError(f"data: expected at least two classes for criterion='fisher', got {len(sampled.classes)}")
