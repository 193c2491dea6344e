"""The whole campaign: nc_fast, the reference, the original restated."""

import sizes
from contest import compete, turns
from setups import CAMPAIGN


@turns(CAMPAIGN, sizes.CAMPAIGN)
def test_campaign(benchmark, size, name):
    compete(benchmark, "campaign", CAMPAIGN, size, name)
