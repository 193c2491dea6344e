"""The demo's picture: the receptive fields that a campaign picked, class by class, beside random ones from the same pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160  # everything below is in pixels, so that a weight is a whole number of pixels and every tile is as sharp as the next
TILE, GAP, MARGIN, BLOCK_GAP = 84, 6, 40, 44
HEADER, FOOTER = 226, 124
RESPONSE_WIDTH = 3 * TILE
BAR_HEIGHT, BAR_WIDTH = 0.86, 0.78  # of the row, of the class's share
MIN_COLUMNS, MAX_COLUMNS = 3, 10
NAME_LENGTH, LETTER = 11, 17  # longest class name shown; pixels a letter takes
BLUR = 1 / 18  # of the picture's width: an average of ten noisy fields shows its shape only when blurred
CLIP_PERCENTILE = 99
DIVERGING = "RdBu_r"
INK, FAINT, GRID = "#1a1a1a", "#6b6b6b", "#d9d9d9"
OWN, OTHER = "#b2182b", "#b9bec4"  # the first is the red of RdBu


@dataclass(frozen=True, eq=False)
class Neurons:
    """Some neurons: ``weights`` (n, D), n >= 1, and their mean activation per class, averaged over the neurons, ``response`` (C,)."""

    weights: np.ndarray
    response: np.ndarray


@dataclass(frozen=True, eq=False)
class ClassRow:
    """One row of the picture: a class by its index, the mean of its samples (D,), the neurons picked for it, as many random ones."""

    index: int
    mean_sample: np.ndarray
    picked: Neurons
    random: Neurons


def receptive_fields(
    file: IO[bytes], classes: Sequence[str], rows: Sequence[ClassRow], image_shape: tuple[int, int] | None, title: str, subtitle: str
) -> None:
    """Draw the rows into a PNG.

    Parameters
    ----------
    file : open for binary writing
    classes : names of the C classes
    rows : classes that have picks, top to bottom
    image_shape : (height, width) of a neuron's picture; None: features are drawn in reading order, as square as they come
    title, subtitle : text above
    """
    from matplotlib.figure import Figure

    tiles = _Tiles(image_shape, rows[0].mean_sample.size)
    columns = min(MAX_COLUMNS, max(MIN_COLUMNS, *(len(row.picked.weights) for row in rows)))
    names = [_shortened(classes[row.index], NAME_LENGTH) for row in rows]
    name_width = LETTER * (2 + max(map(len, names)))
    (tile_width, field_height), (field_width, _) = tiles.size(1, len(rows)), tiles.size(columns, len(rows))
    block_width = field_width + tile_width + RESPONSE_WIDTH + 4 * GAP
    width = name_width + tile_width + 2 * (BLOCK_GAP + block_width + MARGIN)
    height = HEADER + field_height + FOOTER
    page = _Page(Figure((width / DPI, height / DPI), dpi=DPI, facecolor="white"), width, height)

    page.text(MARGIN, 58, title, size=15, weight="bold")
    page.text(MARGIN, 94, subtitle, size=9.5, color=FAINT)
    for number, name in enumerate(names):
        middle = HEADER + (number + 0.5) * field_height / len(rows)
        page.text(MARGIN + name_width - LETTER, middle, name, size=10.5, weight="bold", ha="right", va="center")
    left = MARGIN + name_width
    samples = np.stack([row.mean_sample for row in rows])
    page.image(left, HEADER, tiles.mosaic(samples[:, None]), "Greys", (float(samples.min()), float(samples.max())))
    page.text(left + tile_width / 2, HEADER - 14, "class\nmean", ha="center")

    picked, random = [row.picked for row in rows], [row.random for row in rows]
    limit = float(np.percentile(np.abs(np.concatenate([some.weights for some in picked + random])), CLIP_PERCENTILE))
    averages = np.array([[tiles.blurred(some.weights.mean(axis=0)) for some in pair] for pair in zip(picked, random, strict=True)])
    averages /= np.maximum(np.abs(averages).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    most = max(len(some.weights) for some in picked)
    first = f", first {columns} of up to {most}" if most > columns else ""
    left += tile_width + BLOCK_GAP
    for side, (some, heading, order) in enumerate(
        ((picked, "Picked by the campaign", "in order of picking"), (random, "Random, from the same pool", "drawn at random"))
    ):
        page.text(left, HEADER - 74, heading, size=11.5, weight="bold")
        page.rule(left, HEADER - 64, block_width)
        page.text(left, HEADER - 14, f"receptive fields\n{order}{first}")
        page.image(left, HEADER, tiles.mosaic(_first(some, columns)), DIVERGING, (-limit, limit))
        x = left + field_width + 2 * GAP
        page.text(x + tile_width / 2, HEADER - 14, "their\naverage", ha="center")
        page.image(x, HEADER, tiles.mosaic(averages[:, side : side + 1]), DIVERGING, (-1, 1))
        x += tile_width + 2 * GAP
        page.text(x + RESPONSE_WIDTH / 2, HEADER - 14, "their mean activation\nby class", ha="center")
        _responses(page, x, field_height, np.stack([one.response for one in some]), [row.index for row in rows])
        _class_ticks(page, x, HEADER + field_height + 14, classes)
        left += block_width + BLOCK_GAP

    page.text(MARGIN, height - 24, _legend(image_shape), size=8, color=FAINT, linespacing=1.4)
    page.figure.savefig(file, format="png", dpi=DPI)


def _first(neurons: Sequence[Neurons], columns: int) -> np.ndarray:
    """Return (rows, columns, D) weights, NaN where a row has fewer neurons."""
    fields = np.full((len(neurons), columns, neurons[0].weights.shape[1]), np.nan)
    for row, some in zip(fields, neurons, strict=True):
        row[: len(some.weights)] = some.weights[:columns]
    return fields


def _responses(page: _Page, x: float, height: float, responses: np.ndarray, own: Sequence[int]) -> None:
    """Draw a small bar chart per row: how strongly its neurons answer to each class, from 0 to the row's largest answer."""
    from matplotlib.collections import PolyCollection

    n_rows, n_classes = responses.shape
    low, high = responses.min(axis=1, initial=0, keepdims=True), responses.max(axis=1, initial=0, keepdims=True)
    scale = np.divide(BAR_HEIGHT, high - low, out=np.zeros_like(low), where=high > low)
    row_bottoms = np.arange(n_rows, 0, -1)[:, None] - 1 + (1 - BAR_HEIGHT) / 2
    zeros = np.broadcast_to(row_bottoms - low * scale, responses.shape)
    left, right = (np.broadcast_to(np.arange(n_classes) + edge, responses.shape) for edge in ((1 - BAR_WIDTH) / 2, (1 + BAR_WIDTH) / 2))
    ends = zeros + responses * scale
    corners = np.stack([np.stack(corner, axis=-1) for corner in ((left, zeros), (left, ends), (right, ends), (right, zeros))], axis=2)
    is_own = np.array(own)[:, None] == np.arange(n_classes)
    axes = page.axes(x, HEADER, RESPONSE_WIDTH, height)
    axes.set(xlim=(0, n_classes), ylim=(0, n_rows))
    axes.hlines(zeros[:, 0], 0, n_classes, color=GRID, linewidth=0.6)
    for which, color in ((is_own, OWN), (~is_own, OTHER)):
        axes.add_collection(PolyCollection(corners[which], facecolors=color))


def _class_ticks(page: _Page, x: float, y: float, classes: Sequence[str]) -> None:
    width = RESPONSE_WIDTH / len(classes)
    if width >= 2 * LETTER / 3:
        for c, name in enumerate(classes):
            page.text(x + (c + 0.5) * width, y, _shortened(name, max(1, int(width / LETTER))), ha="center", va="center", size=8)


def _shortened(name: str, length: int) -> str:
    return name if len(name) <= length else name[: max(1, length - 1)] + "…" * (length > 1)


def _legend(image_shape: tuple[int, int] | None) -> str:
    order, blurred = ("", ", blurred") if image_shape else (" Features are in reading order.", "")
    return (
        f"Weights: red positive, blue negative, one scale for all fields.{order}\n"
        f"Averages: of all neurons of the row{blurred}, one scale per row. Activations: from 0 to the row's largest, its own class in red."
    )


class _Tiles:
    """Turns vectors of features into tiles of whole pixels, and tiles into mosaics."""

    def __init__(self, image_shape: tuple[int, int] | None, n_features: int) -> None:
        self._blurs = image_shape is not None
        if image_shape is None:
            columns = ceil(sqrt(n_features))
            image_shape = (ceil(n_features / columns), columns)
        self._shape = image_shape
        self._step = ceil(max(image_shape) / TILE)  # of a picture larger than a tile, every step-th pixel
        self._zoom = max(1, round(TILE / max(image_shape)))
        height, width = (ceil(side / self._step) * self._zoom for side in image_shape)
        self._cell = (height + GAP, width + GAP)

    def size(self, columns: int, rows: int) -> tuple[int, int]:
        """Width and height of a mosaic in pixels."""
        return columns * self._cell[1] - GAP, rows * self._cell[0] - GAP

    def mosaic(self, vectors: np.ndarray) -> np.ndarray:
        """Lay out (rows, columns, D) vectors as one picture; NaN shows the page."""
        n_rows, n_columns = vectors.shape[:2]
        cells = np.full((n_rows, n_columns, *self._cell), np.nan)
        shown = self._images(vectors)[..., :: self._step, :: self._step]
        cells[..., :-GAP, :-GAP] = shown.repeat(self._zoom, axis=-2).repeat(self._zoom, axis=-1)
        return cells.swapaxes(1, 2).reshape(n_rows * self._cell[0], -1)[:-GAP, :-GAP]

    def blurred(self, vector: np.ndarray) -> np.ndarray:
        """Blur a picture's vector; what is no picture stays as it is."""
        from scipy.ndimage import gaussian_filter

        return gaussian_filter(self._images(vector), BLUR * self._shape[1]).ravel() if self._blurs else vector

    def _images(self, vectors: np.ndarray) -> np.ndarray:
        images = np.full((*vectors.shape[:-1], self._shape[0] * self._shape[1]), np.nan)
        images[..., : vectors.shape[-1]] = vectors
        return images.reshape(*vectors.shape[:-1], *self._shape)


@dataclass(frozen=True, eq=False)
class _Page:
    """A figure addressed in pixels from its upper left corner."""

    figure: Figure
    width: float
    height: float

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        axes = self.figure.add_axes((x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height))
        axes.axis("off")
        return axes

    def image(self, x: float, y: float, pixels: np.ndarray, cmap: str, limits: tuple[float, float]) -> None:
        axes = self.axes(x, y, pixels.shape[1], pixels.shape[0])
        axes.imshow(pixels, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")

    def text(self, x: float, y: float, text: str, *, size: float = 8.5, color: str = INK, **kwargs: Any) -> None:
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, color=color, **{"linespacing": 1.1, **kwargs})

    def rule(self, x: float, y: float, width: float) -> None:
        self.axes(x, y, width, 1).axhline(0, color=FAINT, linewidth=0.8)
