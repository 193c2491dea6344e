"""Campaigns on many processes: torch.distributed with gloo on CPUs, NCCL on GPUs.

``nc_fast.campaign(..., process_group=group)`` comes here; so does :func:`nc_fast.class_moments`. See docs/scale.md.
"""

from nc_fast.distributed._campaign import SHARDS, Options, campaign, class_moments
from nc_fast.distributed._ranks import count_bytes

__all__ = ["SHARDS", "Options", "campaign", "class_moments", "count_bytes"]
