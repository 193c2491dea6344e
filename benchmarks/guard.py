"""What the guard of nc_fast.sklearn chooses and costs: accuracy (R² of a regressor) and seconds beside no selection and plain pursuit.

python benchmarks/guard.py small --seeds 20    # sets that scikit-learn ships, 70/30 splits
python benchmarks/guard.py noisy               # made sets in which pursuit overfits, 10,000 test rows
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

from nc_fast.sklearn import NeuronClassifier, NeuronRegressor

SELECT = ("none", "pursuit", "auto")
TEST_ROWS = 10_000


def small() -> Iterator[tuple]:
    for name in ("digits", "breast_cancer", "wine", "iris"):
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        for k in (30, 100, 300):
            yield (
                name,
                k,
                NeuronClassifier,
                lambda seed, X=X, y=y: train_test_split(X.astype(np.float32), y, test_size=0.3, random_state=seed, stratify=y),
            )


def noisy() -> Iterator[tuple]:
    def weak(N: int, seed: int) -> tuple:
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(N, 20))
        return X, (X[:, 0] + 3 * rng.normal(size=N) > 0).astype(int)

    def flipped(N: int, seed: int) -> tuple:
        return datasets.make_classification(N, 20, n_informative=8, n_classes=4, flip_y=0.4, class_sep=0.5, random_state=seed)

    def friedman(N: int, seed: int) -> tuple:
        return datasets.make_friedman1(N, 10, noise=3.0, random_state=seed)

    for N in (1000, 3000, 5000, 10_000, 20_000):
        for k in (100, 300):
            for make, Estimator in ((weak, NeuronClassifier), (flipped, NeuronClassifier), (friedman, NeuronRegressor)):

                def split(seed: int, make=make, N=N) -> tuple:
                    X, y = make(N + TEST_ROWS, seed)
                    return X[:N].astype(np.float32), X[N:].astype(np.float32), y[:N], y[N:]

                yield f"{make.__name__} {N}", k, Estimator, split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", choices=("small", "noisy"))
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    print(f"| set | k | {' | '.join(SELECT)} | pursued by the guard |\n| --- | ---: {'| ---: ' * (len(SELECT) + 1)}|")
    for name, k, Estimator, split in {"small": small, "noisy": noisy}[arguments.sets]():
        scores, seconds, pursued = {how: [] for how in SELECT}, dict.fromkeys(SELECT, 0.0), []
        for seed in range(arguments.seeds):
            X, X_test, y, y_test = split(seed)
            for how in SELECT:
                start = time.perf_counter()
                model = Estimator(k, select=how, random_state=seed).fit(X, y)
                seconds[how] += (time.perf_counter() - start) / arguments.seeds
                scores[how].append(100 * model.score(X_test, y_test))
            pursued.append(model.n_pursued_)
        cells = [f"{np.mean(scores[how]):.1f}, {seconds[how]:.1f} s" for how in SELECT]
        print(f"| {name} | {k} | {' | '.join(cells)} | {', '.join(map(str, pursued))} |", flush=True)


if __name__ == "__main__":
    main()
