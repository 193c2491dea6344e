"""nc_fast: neuron campaign initialization at the speed of the matrix product.

Mao et al., "Neuron Campaign for Initialization Guided by Information Bottleneck Theory", CIKM 2021.
"""

from importlib import import_module
from types import ModuleType

from nc_fast import candidates as candidates
from nc_fast._projector import NullSpaceProjector
from nc_fast._version import __version__
from nc_fast.api import campaign, class_moments
from nc_fast.criteria import ib_scores
from nc_fast.gram import Gram
from nc_fast.greedy import select
from nc_fast.heads import RidgeHead, ridge_head
from nc_fast.pursue import Pursuit, pursuit
from nc_fast.quota import share_quota
from nc_fast.types import Campaign, ClassMoments, Scores, Selection

__all__ = [
    "Campaign",
    "ClassMoments",
    "Gram",
    "NullSpaceProjector",
    "Pursuit",
    "RidgeHead",
    "Scores",
    "Selection",
    "__version__",
    "campaign",
    "class_moments",
    "ib_scores",
    "pursuit",
    "ridge_head",
    "select",
    "share_quota",
]


def __getattr__(name: str) -> ModuleType:
    """Import ``nc_fast.init``, which needs torch, and ``nc_fast.sklearn``, which needs scikit-learn, on first use."""
    if name == "init":
        return import_module("nc_fast.init")
    if name == "sklearn":
        return import_module("nc_fast.sklearn")
    raise AttributeError(f"module 'nc_fast' has no attribute {name!r}")
