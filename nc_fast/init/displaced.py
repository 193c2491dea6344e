"""Does a layer see the positions of a sample (tokens, pixels) where their labels are taken to be? One is changed, to see where.

A model may flip, roll, sort or shuffle positions inside, or swap height and width. Where the input changes at one position, what a layer
makes of that position changes with it, whatever else does; in a layer that has it elsewhere, only other positions change. Not so where
the model itself answers elsewhere, as one does that predicts a token by those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from nc_fast.init.batches import LabelledBatch, map_tensors
from nc_fast.init.forward_pass import on_arrival, tensors_in
from nc_fast.init.labels import LabelsDoNotFitError, SampleLabels, Shape
from nc_fast.init.layers.base import BatchAxis, CallArguments, Layer
from nc_fast.init.marks import layers_by_host, random_directions, rows_of, tolerance_of
from nc_fast.init.masks import zeros_and_ones

SAMPLES, OWN_PLACES, GRIDS = 16, 2, 4  # samples, places of the labels' own grid, and other grids, of which one place each is changed
SEEN_THERE = 0.9  # of the samples that change at all must change at the place; sorting and shuffling leave some where they are
DISPLACED = "it sees positions elsewhere than their labels are: the model reorders positions before it, or looks elsewhere"

MODEL = ""  # the name of what the model returns, beside the layers'
Outputs = dict[str, tuple[Tensor, list[Tensor]]]  # layer, or MODEL -> marks of its outputs (rows, MARKS), all and at each place


def displaced(model: nn.Module, layers: Sequence[tuple[Layer, BatchAxis]], batch: LabelledBatch, device: torch.device) -> dict[str, str]:
    """Return those layers that see positions elsewhere than their labels are, with what was seen."""
    positions = batch.labels.positions
    having = [x for x in tensors_in(batch.inputs) if positions and first_position(x, positions)]
    if not having:
        return {}
    masks = [x for x in having if zeros_and_ones(x) is not None]
    kept = {id(x) for x in masks} if len(masks) < len(having) else set()  # what is no sample stays none
    places = _places(layers, positions)
    dtypes = {layer.name: layer.weight.dtype for layer, _ in layers}
    few = batch.take(slice(SAMPLES))
    state = torch.get_rng_state()  # what a model draws is the same in every pass
    before = _outputs(model, layers, few, places, device)
    changes = {name: np.zeros(2) for name in before}  # samples that change at the place; at all
    for number, place in enumerate(places):
        torch.set_rng_state(state)
        inputs = map_tensors(partial(_changed, positions=positions, place=place, kept=kept), batch.inputs)
        try:
            after = _outputs(model, layers, LabelledBatch(inputs, batch.labels).take(slice(SAMPLES)), [place], device)
        except Exception:  # a model may refuse such inputs, as those with two ends of a sentence: this place tells nothing
            continue
        for name in before.keys() & after.keys():
            (whole, at), (new, (at_new,)) = before[name], after[name]
            if len(at[number]) and whole.shape == new.shape:
                tolerance = tolerance_of(dtypes.get(name, torch.float32), whole)
                there = ((at[number] - at_new).abs() > tolerance).reshape(len(few), -1).any(dim=1)
                anywhere = ((whole - new).abs() > tolerance).reshape(len(few), -1).any(dim=1)
                changes[name] += (int(there.sum()), int(anywhere.sum()))
    found = [name for name, (there, anywhere) in changes.items() if there < SEEN_THERE * anywhere]
    return {} if MODEL in found else dict.fromkeys(found, DISPLACED)


def first_position(x: Tensor, positions: Shape) -> int | None:
    """Return at which dimension of an input the positions start: of images behind their channels, if they fit there; None if nowhere."""
    firsts = (1, 2) if len(positions) == 1 else (2, 1)
    return next((first for first in firsts if x.shape[first : first + len(positions)] == positions), None)


def _places(layers: Sequence[tuple[Layer, BatchAxis]], positions: Shape) -> list[int]:
    """Return places of the labels' own grid, and one of each other grid, as far as they are different."""
    rng = np.random.default_rng(0)
    places = rng.permutation(prod(positions))[:OWN_PLACES].tolist()
    grids = {grid: at for _, axis in layers for grid, at in axis.grids.items()}
    for at in list(grids.values())[:GRIDS]:
        inside = at[at >= 0]
        places += rng.choice(inside, 1).tolist() if len(inside) else []
    return list(dict.fromkeys(places))


def _changed(x: Tensor, positions: Shape, place: int, kept: set[int]) -> Tensor:
    """Return an input with what another sample has at another position at this one; as it is, if it has none, or its id is in ``kept``."""
    first = first_position(x, positions)
    if first is None or id(x) in kept:
        return x
    flat = _by_position(x, positions).clone()
    flat[:, place] = flat.roll(1, 0)[:, (place + 1 + flat.shape[1] // 3) % flat.shape[1]]
    return flat.movedim(1, first).reshape(x.shape)


def _by_position(x: Tensor, positions: Shape) -> Tensor:
    """Return (n, positions, ...)."""
    first = first_position(x, positions)
    assert first
    return x.flatten(first, first + len(positions) - 1).movedim(first, 1)


def _outputs(
    model: nn.Module, layers: Sequence[tuple[Layer, BatchAxis]], batch: LabelledBatch, places: Sequence[int], device: torch.device
) -> Outputs:
    positions, n = batch.labels.positions, len(batch)
    nothing = np.zeros((n, *positions), np.int64)
    labels = [SampleLabels(nothing)]
    for place in places:
        at = np.zeros((n, prod(positions)), bool)
        at[:, place] = True
        labels.append(SampleLabels(nothing, at.reshape(nothing.shape)))
    found: Outputs = {}
    by_host = layers_by_host(layers)

    def arrived(host: nn.Module, arguments: CallArguments) -> None:
        for layer, axis in by_host[host]:
            try:
                x = layer.input(*arguments)
                rows_of(x, axis, n)
                outputs = [layer.preactivation(x, axis, one) for one in labels]
            except LabelsDoNotFitError:  # the layer will be kept
                continue
            directions = random_directions(len(layer.weight), outputs[0].device)
            whole, *at = ((part.float() @ directions).double().cpu() for part in outputs)
            found[layer.name] = whole, at

    with on_arrival(list(by_host), arrived):
        returned = tensors_in(batch.run(model, device))
    for answer in returned:
        if answer.is_floating_point() and answer.ndim and len(answer) == n and first_position(answer, positions):
            rows = _by_position(answer, positions).flatten(2)
            directions = random_directions(rows.shape[2], rows.device)
            marks = (rows.float() @ directions).double().cpu()
            found[MODEL] = marks.flatten(0, 1), [marks[:, place] for place in places]
            break
    return found
