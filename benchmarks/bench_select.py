"""Greedy selection by class: nc_fast in three memory layouts, the reference, pivoted QR, the original restated."""

import sizes
from contest import compete, turns
from setups import SELECT


@turns(SELECT, sizes.SELECT)
def test_select(benchmark, size, name):
    compete(benchmark, "select", SELECT, size, name)
