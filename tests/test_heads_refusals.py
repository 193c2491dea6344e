"""Batches that ridge_head refuses, and arguments that do not go together; test_arguments.py has those that are wrong by themselves."""

import numpy as np
import pytest

import nc_fast


class Reading:
    """Batches of which each reading may be another."""

    def __init__(self, *readings):
        self._readings = iter(readings)

    def __iter__(self):
        return iter(next(self._readings))


RNG = np.random.default_rng(0)
Z0, T0 = RNG.normal(size=(40, 7)), RNG.normal(size=(40, 2))
Y0 = np.arange(40) % 3


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "^Z: expected at least one batch, got none"),
        ([(Z0, T0), (Z0[:, :3], T0)], ValueError, "^batch 1: Z: expected 7 activations as in the first batch, got 3"),
        (
            [(Z0, T0), (Z0, T0[:3])],
            ValueError,
            r"^batch 1: T: expected float targets of shape \(N,\) or \(N, T\) with N = 40, got \(3, 2\)",
        ),
        ([(Z0, T0), (Z0.astype(int), T0)], TypeError, "^batch 1: Z: expected float32 or float64, got int64"),
        ([(Z0, T0), (Z0, Y0)], ValueError, "expected labels of one kind, got float targets and integers"),
        ([(Z0, T0), (Z0, T0[:, :1])], ValueError, "expected as many targets a sample everywhere, got 1 and 2"),
        ([(Z0, T0, 1)], TypeError, r"^Z: expected batches \(Z, T\), got tuple of length 3 as batch 0"),
        (iter([(Z0, T0)]), TypeError, "^Z: expected batches that can be read twice, such as a list or a DataLoader, got list_iterator"),
        (Reading([(Z0, T0)], [(Z0[:9], T0[:9])]), ValueError, "^Z: expected the same 40 samples at the second reading, got 9"),
        (Reading([(Z0, T0)], [(Z0[:, :3], T0)]), ValueError, "^batch 0: Z: expected 7 activations as in the first batch, got 3"),
        (Reading([(Z0, Y0)], [(Z0, Y0 + 1)]), ValueError, "expected the labels of the first reading"),
        (Reading([(Z0, T0)], [(Z0, T0[:, :1])]), ValueError, "expected 2 float targets as at the first reading, got 1 float targets"),
        ([(Z0 * 1e300, T0)], ValueError, "^Z, T: expected activations with finite moments, got an overflow"),
    ],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_bad_batches_are_refused(batches, error, message):
    with pytest.raises(error, match=message):
        nc_fast.ridge_head(batches)


def test_what_a_gram_matrix_has_is_not_given_again():
    gram = nc_fast.ridge_head(Z0, T0).gram
    for more in ({"T": T0}, {"sample_weight": np.ones(40)}):
        with pytest.raises(TypeError, match=r"^T, sample_weight: expected None with a Gram"):
            nc_fast.ridge_head(gram, **more)
    with pytest.raises(TypeError, match=r"^sample_weight: expected None with batches"):
        nc_fast.ridge_head([(Z0, T0)], sample_weight=np.ones(40))
