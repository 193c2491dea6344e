"""The named sizes of every benchmark: N samples, D features, M candidates, k picks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A benchmark size.

    Attributes
    ----------
    name : as it appears in tables and in ``pytest -k``
    data : "digits" (scikit-learn's, always there), "mnist" (benchmarks skip where its folder is absent) or "dense" (random, no zeros,
        classes apart)
    N : samples, the first of the training set
    M, k : candidates and picks
    scores : for select, what the candidates are scored by: "spread" (alpha = 1, all positive), "label" (alpha = 0, mixed
        signs) or "equal" (all 1: the lazy loop's worst case)
    large : whether slow contenders get a single round
    """

    name: str
    data: str
    N: int
    M: int
    k: int
    scores: str = "spread"
    large: bool = False

    def __str__(self) -> str:
        return self.name


TINY = Size("tiny", "digits", N=300, M=60, k=20)
DIGITS = Size("digits", "digits", N=1437, M=1000, k=100)
MNIST_SMALL = Size("10000x784x1000", "mnist", N=10_000, M=1000, k=100)
MNIST_1000 = Size("60000x784x1000", "mnist", N=60_000, M=1000, k=100, large=True)
MNIST_5000 = Size("60000x784x5000", "mnist", N=60_000, M=5000, k=500, large=True)
MNIST_20000 = Size("60000x784x20000", "mnist", N=60_000, M=20_000, k=2000, large=True)
MNIST_100000 = Size("60000x784x100000", "mnist", N=60_000, M=100_000, k=1000, large=True)
DENSE_5000 = Size("60000x784x5000-dense", "dense", N=60_000, M=5000, k=500, large=True)
POOL_SPREAD = Size("784x20000-spread", "mnist", N=10_000, M=20_000, k=2000, large=True)
POOL_LABEL = Size("784x20000-label", "mnist", N=10_000, M=20_000, k=2000, scores="label", large=True)
POOL_EQUAL = Size("784x20000-equal", "mnist", N=10_000, M=20_000, k=2000, scores="equal", large=True)
PURSUIT_SQUARE = Size("2000x2000", "mnist", N=2000, M=2000, k=50)
PURSUIT_300 = Size("5000x784x10000-300", "mnist", N=5000, M=10_000, k=300, large=True)
PURSUIT_1000 = Size("5000x784x10000-1000", "mnist", N=5000, M=10_000, k=1000, large=True)

MOMENTS = (TINY, DIGITS, MNIST_SMALL, MNIST_1000, MNIST_5000, DENSE_5000)
ACTIVATION = (TINY, MNIST_1000)
SURROGATE = (TINY, DIGITS, MNIST_1000, MNIST_5000)
SELECT = (TINY, DIGITS, POOL_SPREAD, POOL_LABEL, POOL_EQUAL)
CAMPAIGN = (TINY, DIGITS, MNIST_SMALL, MNIST_1000, MNIST_5000)
PURSUIT = (TINY, PURSUIT_300, PURSUIT_1000)
PEERS = (TINY, PURSUIT_SQUARE)
MEMORY = (TINY, DIGITS, MNIST_5000, MNIST_20000, MNIST_100000)
