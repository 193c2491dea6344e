"""Class moments: nc_fast, the bare product, the reference, the original restated; and what each activation costs."""

import sizes
from contest import compete, turns
from setups import ACTIVATION, MOMENTS


@turns(MOMENTS, sizes.MOMENTS)
def test_moments(benchmark, size, name):
    compete(benchmark, "moments", MOMENTS, size, name)


@turns(ACTIVATION, sizes.ACTIVATION)
def test_activations(benchmark, size, name):
    compete(benchmark, "activations", ACTIVATION, size, name)
