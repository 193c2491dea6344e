"""What campaign_ and fit_head_ share: samples, a look at the model, the walk through it, the head's scale, everything else as found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from nc_fast.init.arguments import LEAST_SQUARES, InitOptions
from nc_fast.init.batches import Forward
from nc_fast.init.fill import LayerPlan
from nc_fast.init.head import FittedHead, scale_of_loss, settle_scale, sharpness_limit
from nc_fast.init.items import ItemReader
from nc_fast.init.layers.base import Layer, parameters_behind
from nc_fast.init.layers.linear import LinearLayer
from nc_fast.init.memory import in_one_place, why_read_only
from nc_fast.init.objective import Answers, Objective
from nc_fast.init.pick import output_of_class, stray_labels
from nc_fast.init.report import HeadReport, KeptLayer, LayerReport
from nc_fast.init.sampling import SampledData, collect
from nc_fast.init.state import as_found, use_batch_statistics
from nc_fast.init.trace import Trace, TracedLayer, trace
from nc_fast.init.walk import LEAST_AT_ONCE, Walk

OBJECTIVE_SAMPLES = 128  # of which loss and sharpness are taken; fewer where LINEARIZED_BYTES do not hold one sample's tensors as often
LEAST_FITTED = 8  # the head is fitted on all but so few of the samples: an eighth of them, where they are few
LINEARIZED_BYTES = 1 << 30
LINEARIZED_COPIES = 4  # of every tensor of a forward pass, taken to be alive while second derivatives are


@dataclass(frozen=True)
class Outcome:
    """What was done to a model."""

    traced: Trace
    sampled: SampledData
    layers: tuple[LayerReport, ...]
    kept: tuple[KeptLayer, ...]
    head: HeadReport | None


def initialize(
    model: nn.Module,
    data: Any,
    layers: Sequence[Layer],
    written: set[nn.Module],
    generator: torch.Generator | None,
    options: InitOptions,
    plans_of: Callable[[Trace, SampledData], list[LayerPlan]],
) -> Outcome:
    """Look at the model with its layers, and do to it what is planned then; ``written`` are the modules that may change."""
    device = next(model.parameters()).device
    reasons = why_kept(model, layers)
    unwritable = tuple(KeptLayer(layer.name, layer.kind, reason) for layer, reason in reasons.items())
    with torch.inference_mode(False), as_found(model, written, generator, device, data):
        reader = ItemReader(Forward(model), options.targets, options.ignore, options.batch, options.mask)
        sampled = collect(data, options.max_samples, reader)
        with torch.no_grad():
            traced = trace(model, [layer for layer in layers if layer not in reasons], sampled, device)
            traced = replace(traced, kept=(*traced.kept, *unwritable))
            plans = plans_of(traced, sampled)
            outputs = None
            if plans and sampled.targets is None:
                outputs = output_of_class(sampled.classes, max(2, len(plans[-1].layer.weight)))
            answers = Answers(sampled.classes, outputs, sampled.targets)
            walk = Walk(model, device, sampled, traced.largest_tensor, answers, plans)
            use_batch_statistics(model)
            fitted = [plan.layer for plan in plans if plan.select == LEAST_SQUARES]
            last = next((one for one in traced.layers if one.layer in fitted), None)
            objective = _objective(model, last, device, sampled, traced, answers, options) if last else None
            before = objective.value() if objective else 0.0
            reports, head, kept = walk.run(options)
            report = _scaled(head, objective, before, sampled, options) if head and objective else None
    return Outcome(traced, sampled, tuple(reports), (*traced.kept, *kept), report)


def why_kept(model: nn.Module, layers: Sequence[Layer]) -> dict[Layer, str]:
    """Return why layers cannot be written: their memory takes no writes, or another weight lies in it."""
    twins = in_one_place(dict(model.named_parameters()))
    names = {parameter: name for name, parameter in model.named_parameters()}
    reasons: dict[Layer, str] = {}
    for layer in layers:
        for part in (layer.weight_name, layer.bias_name):
            for parameter in parameters_behind(layer.module, part):
                reason = why_read_only(parameter) if parameter.requires_grad else None
                if names[parameter] in twins:
                    reason = f"shares memory with {twins[names[parameter]]}"
                if reason:
                    reasons.setdefault(layer, f"its {part} {reason}")
    return reasons


def why_no_head(last: TracedLayer, sampled: SampledData, own_loss: bool) -> str | None:
    """Return why a layer cannot be a fitted head of these samples; None if it can. ``own_loss``: the user knows what to make of outputs."""
    n_outputs = len(last.layer.weight)
    if type(last.layer) is not LinearLayer:
        return f"a fitted head is a Linear layer, this is {last.layer.kind}"
    if sampled.size < 2:
        return "there is one sample only"
    if last.output is None:
        return "its output is not the model's"
    positions = sampled.first(1).labels.values.shape[1:]
    rows, *shape = last.returned
    if not positions and not own_loss and rows * math.prod(shape) > n_outputs:
        answer = "one label" if sampled.targets is None else "targets"
        return f"the model returns {tuple(shape) if rows == 1 else last.returned} for a sample, which has {answer} in all"
    if sampled.targets is not None:
        wanted = int(np.prod(sampled.targets.shape[1:]))
        return None if n_outputs == wanted else f"it has {n_outputs} outputs for {wanted} targets"
    if positions and list(positions) not in (shape[:-1], shape[1:]) and (rows, len(shape)) != (math.prod(positions), 1):
        return f"the model returns {last.returned} for a sample, which has labels of {positions} positions"
    if stray := stray_labels(sampled.classes, n_outputs):
        return stray
    if output_of_class(sampled.classes, max(2, n_outputs)) is None:
        return f"it has {n_outputs} outputs for labels of {len(sampled.classes)} classes; targets to regress on are floats"
    return None if len(sampled.classes) > 1 else "there is one class only"


def unseen_samples(sampled: SampledData) -> int:
    """Return how many samples a head is not fitted on, but judged by."""
    return min(OBJECTIVE_SAMPLES, max(2, sampled.size // LEAST_FITTED), sampled.size - 1)


def _objective(
    model: nn.Module,
    head: TracedLayer,
    device: torch.device,
    sampled: SampledData,
    traced: Trace,
    answers: Answers,
    options: InitOptions,
) -> Objective:
    at_once = max(LEAST_AT_ONCE, LINEARIZED_BYTES // (LINEARIZED_COPIES * max(1, traced.all_tensors)))
    assert head.output is not None
    batches = sampled.leading(unseen_samples(sampled))
    return Objective(model, head.layer.module, device, batches, answers, options.loss, at_once, head.output)


def _scaled(head: FittedHead, objective: Objective, before: float, sampled: SampledData, options: InitOptions) -> HeadReport:
    started = perf_counter()
    if options.loss and sampled.targets is None:
        head = scale_of_loss(head, objective)
    scale, sharpness = 1.0, math.nan
    notes: tuple[str, ...] = ()
    try:
        scale, sharpness = settle_scale(head, objective, options.lr)
    except RuntimeError as error:  # an operation without second derivatives
        head.install(scale)
        notes = (f"its sharpness could not be measured, so that it is of scale 1: {str(error).splitlines()[0]}",)
    return HeadReport(
        name=head.layer.name,
        samples=sampled.size,
        classes=len(sampled.classes),
        scale=scale,
        wanted=head.wanted,
        ridge=head.ridge,
        sharpness=sharpness,
        limit=sharpness_limit(options.lr),
        loss_before=before,
        loss_after=objective.value(),
        seconds=perf_counter() - started,
        notes=notes,
    )
