"""What campaign_ did, layer by layer: printed as a table, converted to a dict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

STEADY_RATIO = (0.5, 2.0)  # of neighbouring layers' pre-activation std; outside, the signal fades or grows (quality.md)


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
    alpha : float
        Weight of I(X;Z) in its score.
    pool : int
        Candidates.
    picks : tuple of int
        The candidate installed in each row of the weight.
    score, pool_score : float
        Mean score of the picks and of the pool.
    before, after : Signal
        In the model as it was given, and as it is now.
    seconds : float
    notes : tuple of str
        What was assumed, or could not be done.
    """

    name: str
    kind: str
    activation: str
    alpha: float
    pool: int
    picks: tuple[int, ...]
    score: float
    pool_score: float
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
class InitReport:
    """What :func:`campaign_` did; ``print(report)`` shows a table, ``report["fc1"]`` one layer.

    Attributes
    ----------
    layers : tuple of LayerReport
        In the order the data meets them.
    kept : tuple of KeptLayer
    samples, classes : int
        Scored on.
    seconds : float
        In all.
    notes : tuple of str
        About the data.
    """

    layers: tuple[LayerReport, ...]
    kept: tuple[KeptLayer, ...]
    samples: int
    classes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> LayerReport:
        """Return the report of the layer of that name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"{name!r}: not among the initialized layers {[layer.name for layer in self.layers]}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Everything to look at: jumps of the signal between neighbours, notes, layers kept."""
        found = list(self.notes)
        for earlier, later in zip(self.layers, self.layers[1:], strict=False):
            ratio = later.after.std / earlier.after.std if earlier.after.std > 0 else float("inf")
            if not STEADY_RATIO[0] <= ratio <= STEADY_RATIO[1]:
                found.append(f"{later.name}: pre-activation std is {ratio:.2g} times that of {earlier.name}")
        found += [f"{layer.name}: {note}" for layer in self.layers for note in layer.notes]
        found += [f"{layer.name}: kept as it was; {layer.reason}" for layer in self.kept]
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain dicts, lists, strings and numbers, ready for ``json.dumps``."""
        plain = asdict(self)
        for layer in plain["layers"]:
            layer["picks"], layer["notes"] = list(layer["picks"]), list(layer["notes"])
        return {**plain, **{name: list(plain[name]) for name in ("layers", "kept", "notes")}, "warnings": list(self.warnings)}

    def __str__(self) -> str:
        """Return a table, one line a layer, then the warnings."""
        header = ("layer", "kind", "activation", "alpha", "picks", "score", "pool's", "mean", "std", "dead", "seconds")
        rows = [header, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = ["  ".join(map(_align, row, widths, range(len(row)))).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(f"{self.samples} samples of {self.classes} classes, {self.seconds:.2f} s")
        lines.append("mean, std, dead: of pre-activations, before -> after")
        return "\n".join(lines + [f"! {warning}" for warning in self.warnings])


LEFT_ALIGNED = 3  # columns: layer, kind, activation


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < LEFT_ALIGNED else cell.rjust(width)


def _cells(layer: LayerReport) -> tuple[str, ...]:
    before, after = layer.before, layer.after
    return (
        layer.name,
        layer.kind,
        layer.activation,
        f"{layer.alpha:.2f}",
        f"{len(layer.picks)} of {layer.pool}",
        f"{layer.score:.3g}",
        f"{layer.pool_score:.3g}",
        f"{before.mean:.2f} -> {after.mean:.2f}",
        f"{before.std:.2f} -> {after.std:.2f}",
        f"{before.dead:.0%} -> {after.dead:.0%}",
        f"{layer.seconds:.3f}",
    )
