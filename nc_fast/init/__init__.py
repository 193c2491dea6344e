"""Initialize a torch network on its data, in place, in one line.

``campaign_(model, data)`` walks through the layers in the order the data meets them. Each layer gets a pool of candidate
neurons, compared on the activations that the layers before it, already initialized, produce; the best are installed, and the
output layer is fitted. ``fit_head_(model, data)`` fits the output layer alone.
Importing ``nc_fast`` alone does not import torch; this folder does.
"""

from nc_fast.init.campaign import campaign_
from nc_fast.init.criteria import fisher_scores
from nc_fast.init.fit_head import fit_head_
from nc_fast.init.report import HeadReport, InitReport, KeptLayer, LayerReport, Signal

__all__ = ["HeadReport", "InitReport", "KeptLayer", "LayerReport", "Signal", "campaign_", "fisher_scores", "fit_head_"]
