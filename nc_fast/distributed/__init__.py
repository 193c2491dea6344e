"""Campaigns on many processes: torch.distributed with gloo on CPUs, NCCL on GPUs.

``nc_fast.campaign(..., process_group=group)`` comes here; so does :func:`nc_fast.class_moments`. See docs/scale.md.
"""

from nc_fast.distributed._campaign import Options, campaign, class_moments
from nc_fast.distributed._model import Machine, Problem, expected_bytes, expected_seconds
from nc_fast.distributed._ranks import Ranks, Traffic, count_traffic

__all__ = [
    "Machine",
    "Options",
    "Problem",
    "Ranks",
    "Traffic",
    "campaign",
    "class_moments",
    "count_traffic",
    "expected_bytes",
    "expected_seconds",
]
