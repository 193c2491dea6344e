"""Campaigns on many processes: torch.distributed with gloo on CPUs, NCCL on GPUs.

``nc_fast.campaign(..., process_group=group)`` comes here; so do :func:`nc_fast.class_moments` and :func:`nc_fast.pursuit`.
See docs/scale.md.
"""

from nc_fast.distributed.campaign import campaign_on_ranks, moments_on_ranks
from nc_fast.distributed.pursuit import pursuit_on_ranks
from nc_fast.distributed.ranks import Ranks, Traffic, count_traffic

__all__ = ["Ranks", "Traffic", "campaign_on_ranks", "count_traffic", "moments_on_ranks", "pursuit_on_ranks"]
