"""What campaign_ did, layer by layer: printed as a table, converted to a dict."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

ALIGNMENT = "<<<<>>>>>>>"  # of the table's columns
STEADY_RATIO = (0.5, 2.0)  # of neighbouring layers' pre-activation std; outside, the signal fades or grows


@dataclass(frozen=True)
class Signal:
    """A layer's pre-activations over the report's samples.

    Attributes
    ----------
    mean, std : float
        Over all samples and neurons.
    dead : float
        Fraction of neurons that never fire (relu) or never change (other activations).
    """

    mean: float
    std: float
    dead: float


@dataclass(frozen=True)
class LayerReport:
    """One initialized layer.

    Attributes
    ----------
    name, kind : str
        Where it is in the model; "Linear", "Conv2d", "attention q" ...
    activation : str
        What follows it, as scored.
    select : str
        "pursuit" or "campaign"; "drawn" where nothing was picked; "least_squares" of a fitted head.
    alpha : float or None
        Weight of I(X;Z) in a campaign's score.
    pool : int
        Candidates.
    picks : tuple of int
        The candidate installed in each row of the weight.
    score : float or None
        Share of the targets' variance that a pursuit's picks explain on the samples, or a fitted head by leave-one-out;
        mean score of a campaign's picks.
    pool_score : float or None
        Mean score of a campaign's candidates.
    before, after : Signal
        In the model as it was given, and as it is now.
    seconds : float
    notes : tuple of str
        What was assumed, or could not be done.
    """

    name: str
    kind: str
    activation: str
    select: str
    alpha: float | None
    pool: int
    picks: tuple[int, ...]
    score: float | None
    pool_score: float | None
    before: Signal
    after: Signal
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class KeptLayer:
    """A layer with weights that was left as it was, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class HeadReport:
    """A fitted output layer.

    Attributes
    ----------
    name : str
        Of the layer.
    samples, classes : int
        Fitted on; no classes with float targets.
    scale : float
        What the least-squares solution was multiplied by.
    wanted : float
        The scale of the least leave-one-out cross-entropy, or of the least ``loss`` where one was given; 1 for float targets.
    ridge : float
        Its strength, see :func:`nc_fast.ridge_head`.
    sharpness : float
        Largest eigenvalue of the loss's Gauss-Newton matrix as the network is now, estimated from below, on up to 128 samples
        it was not fitted on; nan where it could not be measured.
    limit : float
        2 / lr, above which gradient descent at that rate is not stable, and at most 40; 75 for adaptive optimizers.
    loss_before, loss_after : float
        On the same samples.
    seconds : float
        In all.
    notes : tuple of str
        What was assumed, or could not be done.
    """

    name: str
    samples: int
    classes: int
    scale: float
    wanted: float
    ridge: float
    sharpness: float
    limit: float
    loss_before: float
    loss_after: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything to look at."""
        lines = [f"{self.name}: {note}" for note in self.notes]
        if self.loss_after > self.loss_before:
            lines.append(f"{self.name}: the loss rose from {self.loss_before:.3g} to {self.loss_after:.3g} on samples it was not fitted on")
        if self.sharpness > self.limit:
            lines.append(
                f"{self.name}: the layers below it alone are about as sharp as the limit, 2 / lr, or sharper: scale the data, or lower lr"
            )
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers, ready for ``json.dumps``."""
        return _plain(self)

    def __str__(self) -> str:
        """Return a few lines."""
        lines = [
            f"head {self.name}: scale {self.scale:.3g} of {self.wanted:.3g} wanted, sharpness {self.sharpness:.3g}, limit {self.limit:.3g}",
            f"loss {self.loss_before:.3f} -> {self.loss_after:.3f}, {self.samples} samples, {self.seconds:.2f} s",
        ]
        return "\n".join(lines + [f"! {warning}" for warning in self.warnings])


@dataclass(frozen=True)
class InitReport:
    """What :func:`campaign_` did; ``print(report)`` shows a table, ``report["fc1"]`` one layer.

    Attributes
    ----------
    layers : tuple of LayerReport
        In the order the data meets them.
    kept : tuple of KeptLayer
    head : HeadReport or None
        The fitted output layer.
    samples, classes : int
        Scored on; no classes with float targets.
    seconds : float
        In all.
    notes : tuple of str
        About the data.
    """

    layers: tuple[LayerReport, ...]
    kept: tuple[KeptLayer, ...]
    head: HeadReport | None
    samples: int
    classes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> LayerReport:
        """Return the report of the layer of that name."""
        by_name = {layer.name: layer for layer in self.layers}
        if name not in by_name:
            raise KeyError(f"{name!r}: not among the initialized layers {list(by_name)}")
        return by_name[name]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything to look at: jumps of the signal between neighbours, notes, layers kept."""
        lines = list(self.notes)
        for earlier, later in zip(self.layers, self.layers[1:], strict=False):
            if later.select == "least_squares" or "batchnorm" in earlier.activation + later.activation:
                continue  # of another scale on purpose, or to be normalized
            ratio = later.after.std / earlier.after.std if earlier.after.std > 0 else float("inf")
            if not STEADY_RATIO[0] <= ratio <= STEADY_RATIO[1]:
                lines.append(f"{later.name}: pre-activation std is {ratio:.2g} times that of {earlier.name}")
        lines += [f"{layer.name}: {note}" for layer in self.layers for note in layer.notes]
        lines += self.head.warnings if self.head else ()
        return (*lines, *(f"{layer.name}: kept as it was; {layer.reason}" for layer in self.kept))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers, ready for ``json.dumps``."""
        return _plain(self)

    def __str__(self) -> str:
        """Return a table, one line a layer, then the warnings."""
        header = ("layer", "kind", "activation", "by", "picks", "score", "pool's", "mean", "std", "dead", "seconds")
        rows = [header, *(_cells(layer) for layer in self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map("{:{}{}}".format, row, ALIGNMENT, widths)).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        of = f" of {self.classes} classes" if self.classes else ""
        lines.append(f"{self.samples} samples{of}, {self.seconds:.2f} s")
        lines.append("mean, std, dead: of pre-activations, before -> after")
        lines += str(self.head).splitlines()[:2] if self.head else []
        return "\n".join(lines + [f"! {warning}" for warning in self.warnings])


def _plain(report: InitReport | HeadReport) -> dict[str, Any]:
    return json.loads(json.dumps({**asdict(report), "warnings": report.warnings}))  # type: ignore[no-any-return]  # tuples as lists


def _cells(layer: LayerReport) -> tuple[str, ...]:
    before, after = layer.before, layer.after
    return (
        layer.name,
        layer.kind,
        layer.activation,
        layer.select if layer.alpha is None else f"{layer.select}, alpha {layer.alpha:.2g}",
        f"{len(layer.picks)} of {layer.pool}" if layer.pool else "-",
        "-" if layer.score is None else f"{layer.score:.3g}",
        "-" if layer.pool_score is None else f"{layer.pool_score:.3g}",
        f"{before.mean:.2f} -> {after.mean:.2f}",
        f"{before.std:.2f} -> {after.std:.2f}",
        f"{before.dead:.0%} -> {after.dead:.0%}",
        f"{layer.seconds:.3f}",
    )
