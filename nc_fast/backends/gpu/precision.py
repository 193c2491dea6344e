"""The number form of the operands: float16 with or without low parts, tf32, float32 or float64, and the choice among them.

A float16 keeps 11 bits. Where that is too little, what it leaves over is held as a second float16, the *low part*, packed
beside it: 22 bits together, at the price of one more product for each operand that has one. ``kernels.prepare.pack`` writes
low parts, ``kernels.moments`` multiplies them. No tensor, no device here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

# What one float16 holds exactly, once scaled. bfloat16 has 8 bits; scaling brings it into float16's range.
EXACT_IN_HALF = ("torch.uint8", "torch.int8", "torch.bool", "torch.float16", "torch.bfloat16")


@dataclass(frozen=True)
class Arithmetic:
    """Number form of the packed operands."""

    number: Literal["float16", "float32", "float64"]
    weights_low: bool = False  # whether low parts are kept
    samples_low: bool = False
    dot: str = "ieee"  # Triton's input precision for float32 operands

    @property
    def parts(self) -> tuple[str, str]:
        """Which part lies where in a packed weight and in a packed sample: "l" low, "h" high; one product for each place.

        The small products come first, before the sum is large.
        """
        weights = "l" * self.weights_low + "h" * self.samples_low + "h"
        return weights, "h" * self.weights_low + "l" * self.samples_low + "h"

    @property
    def itemsize(self) -> int:
        """Bytes of a packed number."""
        return int(self.number.removeprefix("float")) // 8

    @property
    def sums(self) -> Literal["float32", "float64"]:
        """Type of the sums."""
        return "float64" if self.number == "float64" else "float32"

    @property
    def largest_exponent(self) -> int:
        """Scaled operands are below 2 to this: float16 ends at 2 ** 16, and the low parts need room below."""
        return 14 if self.number == "float16" else 0


def choose_arithmetic(precision: str, weights: torch.dtype, samples: torch.dtype, *, centred: bool, spread: bool) -> Arithmetic:
    """Return the number form for a precision the user named, by the types of the data and what :class:`.features.Features` says."""
    if precision == "fp16":
        return Arithmetic("float16")
    if precision == "tf32":
        return Arithmetic("float32", dot="tf32")
    if "torch.float64" in (str(weights), str(samples)):
        return Arithmetic("float64")
    if precision == "ieee" or spread:
        return Arithmetic("float32")
    # A low part that would be 0 is left out: a third of the product's time each.
    return Arithmetic("float16", str(weights) not in EXACT_IN_HALF, str(samples) not in EXACT_IN_HALF or centred)
