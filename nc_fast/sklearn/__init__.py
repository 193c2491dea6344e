"""Estimators for scikit-learn: a layer of fixed neurons, picked from many, with a ridge regression on their activations.

:class:`NeuronClassifier` and :class:`NeuronRegressor` predict; :class:`NeuronFeatures` is the layer alone, a transformer.
Importing ``nc_fast`` alone does not import scikit-learn; this folder does.
"""

from nc_fast.sklearn.classifier import NeuronClassifier
from nc_fast.sklearn.features import NeuronFeatures
from nc_fast.sklearn.regressor import NeuronRegressor

__all__ = ["NeuronClassifier", "NeuronFeatures", "NeuronRegressor"]
