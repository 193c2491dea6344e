"""nc_fast.sklearn beside scikit-learn's estimators with their defaults, on data sets that packages ship (tabular_sets.py).

    python benchmarks/pursuit_tabular.py run --out out/pursuit_tabular.json       # 5 seeds, some 40 minutes; goes on where its file ends
    python benchmarks/pursuit_tabular.py table out/pursuit_tabular.json           # Markdown: scores, verdicts, costs

Splits of 70 to 30, stratified by class. Scores: accuracy %, for regressions 100 R². Linear models and MLP get standardised inputs (and
MLPRegressor targets), trees the plain ones; ours is run on both. ``select="auto"`` is to be within half a point of the better of "pursuit"
and "none".
"""

from __future__ import annotations

import argparse
import json
import pickle
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from environment import environment
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tabular_sets import SETS, Table

from nc_fast.sklearn import NeuronClassifier, NeuronRegressor

SELECTS, WIDTHS, LEEWAY = ("none", "pursuit", "auto"), (30, 100, 300), 0.5
RIVALS = {  # name: (classifier, regressor, whether it is to have standardised inputs)
    "linear": (LogisticRegression, Ridge, True),
    "MLP": (MLPClassifier, MLPRegressor, True),
    "random forest": (RandomForestClassifier, RandomForestRegressor, False),
    "hist. boosting": (HistGradientBoostingClassifier, HistGradientBoostingRegressor, False),
}


def contenders(table: Table, seed: int, widths: list[int], inputs: tuple[bool, ...]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield what a row is told apart by, and its estimator."""
    for name, (classifier, regressor, standardised) in RIVALS.items():
        kind = regressor if table.regression else classifier
        model = kind(random_state=seed)
        if kind is MLPRegressor:  # by itself it hardly learns targets that are far from 0 and 1
            model = TransformedTargetRegressor(model, transformer=StandardScaler())
        yield {"model": name, "standardised": standardised}, make_pipeline(StandardScaler(), model) if standardised else model
    ours = NeuronRegressor if table.regression else NeuronClassifier
    for k in widths:
        for select in SELECTS:
            for standardised in inputs:
                model = ours(n_neurons=k, select=select, standardize=standardised, random_state=seed)
                yield {"model": f"{select} {k}", "standardised": standardised}, model


def measured(model: Any, table: Table, seed: int) -> dict[str, float]:
    """Fit on 70 % of the rows; return the score on the others and what it cost."""
    stratify = None if table.regression else table.y
    X, X_test, y, y_test = train_test_split(table.X, table.y, test_size=0.3, random_state=seed, stratify=stratify)
    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # defaults are what is compared
        model.fit(X, y)
    fitted = perf_counter()
    model.predict(X_test)
    predicted = perf_counter()
    costs = {"fit_s": fitted - start, "predict_us": 1e6 * (predicted - fitted) / len(X_test), "kilobytes": len(pickle.dumps(model)) / 1e3}
    return {"score": 100 * float(model.score(X_test, y_test)), **costs}


def run(arguments: argparse.Namespace) -> None:
    kept = json.loads(arguments.out.read_text())["rows"] if arguments.out.is_file() else []
    done = {(row["set"], row["seed"], row["model"], row["standardised"]) for row in kept}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    tables = {}
    for name in arguments.sets:
        try:
            tables[name] = SETS[name]()
        except ImportError as missing:
            print(f"{name} left out: {missing}")
    for seed, (name, table) in product(range(arguments.seeds), tables.items()):
        mine = {}
        for told, model in contenders(table, seed, arguments.widths, (True,) if arguments.standardised else (True, False)):
            if (name, seed, told["model"], told["standardised"]) in done:
                continue
            shape = {"n": len(table.X), "D": table.X.shape[1], "regression": table.regression}
            kept.append({"set": name, "seed": seed, **told, **shape, **measured(model, table, seed)})
            if told["standardised"]:
                mine[told["model"]] = round(kept[-1]["score"], 1)
        if mine:
            print(name, seed, mine, flush=True)
            arguments.out.write_text(json.dumps({"environment": environment(), "rows": kept}, indent=1) + "\n")


class Means:
    """Means over seeds of what was measured."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.sets = list(dict.fromkeys(row["set"] for row in rows))
        self.widths = sorted({int(row["model"].split()[1]) for row in rows if row["model"].startswith("auto")})

    def values(self, name: str, model: str, standardised: bool | None = None, what: str = "score") -> np.ndarray:
        """Return the values of a set and a model, in the order of the seeds."""
        mine = [row for row in self.rows if row["set"] == name and row["model"] == model]
        return np.array([row[what] for row in mine if standardised is None or row["standardised"] == standardised])

    def mean(self, *which: Any) -> float:
        return float(np.mean(self.values(*which)))

    def label(self, name: str) -> str:
        row = next(row for row in self.rows if row["set"] == name)
        return f"{name} ({row['n']} x {row['D']}{', R²' if row['regression'] else ''})"


def lines(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join([f"| {' | '.join(row)} |" for row in (header, ["---", *["---:"] * (len(header) - 1)], *rows)]) + "\n"


def scores(means: Means, standardised: bool) -> str:
    """Return the table of scores: the best of a row in bold."""
    rows = []
    for name in means.sets:
        cells = [[means.mean(name, f"{select} {k}", standardised) for k in means.widths] for select in SELECTS]
        rivals = [means.mean(name, rival) for rival in RIVALS]
        best = f"{max(max(map(max, cells)), *rivals):.1f}"
        shown = [[f"{value:.1f}" for value in group] for group in (*cells, *([value] for value in rivals))]
        rows.append([means.label(name), *(" / ".join(f"**{text}**" if text == best else text for text in group) for group in shown)])
    return lines(["data set", *SELECTS, *RIVALS], rows)


def verdicts(means: Means, standardised: bool) -> str:
    """Say where the guard is half a point below the better of what it chooses between, and where the default loses to a rival."""
    found, widest = [], max(means.widths)
    gaps = {}
    for name in means.sets:
        for k in means.widths:
            none, pursuit, auto = (means.values(name, f"{select} {k}", standardised) for select in SELECTS)
            better = max((none, pursuit), key=np.mean)
            gaps[name, k] = np.mean(auto) - np.mean(better), np.std(auto - better, ddof=min(1, len(auto) - 1)) / np.sqrt(len(auto))
    outside = {which: gap for which, gap in gaps.items() if gap[0] < -LEEWAY}
    found.append(
        f'`select="auto"` is within {LEEWAY} points of the better of "pursuit" and "none" in {len(gaps) - len(outside)} of {len(gaps)}.'
    )
    found += [f"- not on {name} at {k}: {gap:+.2f} ± {error:.2f}" for (name, k), (gap, error) in outside.items()]
    for rival in RIVALS:
        behind = {name: means.mean(name, f"auto {widest}", standardised) - means.mean(name, rival) for name in means.sets}
        lost = ", ".join(f"{name} {gap:+.1f}" for name, gap in sorted(behind.items(), key=lambda item: item[1]) if gap < 0)
        found.append(f"- auto at {widest} loses to {rival} on {sum(gap < 0 for gap in behind.values())} of {len(behind)}: {lost or 'none'}")
    return "\n".join(found) + "\n"


def standardisation(means: Means) -> str:
    rows = []
    for name in means.sets:
        gains = [
            [means.mean(name, f"{select} {k}", True) - means.mean(name, f"{select} {k}", False) for k in means.widths] for select in SELECTS
        ]
        rows.append([means.label(name), *(" / ".join(f"{gain:+.1f}" for gain in group) for group in gains)])
    return lines(["standardised less plain", *SELECTS], rows)


def costs(means: Means, standardised: bool) -> str:
    """Return seconds to fit, microseconds to predict a row and kilobytes pickled, medians over seeds."""
    models = [*(f"{select} {max(means.widths)}" for select in SELECTS), *RIVALS]
    rows = []
    for name in means.sets:
        ours = [standardised] * len(SELECTS) + [None] * len(RIVALS)
        found = [
            [np.median(means.values(name, model, which, what)) for what in ("fit_s", "predict_us", "kilobytes")]
            for model, which in zip(models, ours, strict=True)
        ]
        rows.append([means.label(name), *(f"{fit:.2g} / {predict:.2g} / {size:.0f}" for fit, predict, size in found)])
    return lines(["fit s / predict µs a row / kB", *models], rows)


def table(arguments: argparse.Namespace) -> None:
    means = Means(json.loads(arguments.results.read_text())["rows"])
    widths = " / ".join(map(str, means.widths))
    plain = any(not row["standardised"] for row in means.rows if row["model"].startswith("auto"))
    for standardised in (True, False) if plain else (True,):
        print(f"### Ours on {'standardised' if standardised else 'plain'} inputs: test scores at {widths} neurons, means over seeds\n")
        print(scores(means, standardised))
        print(verdicts(means, standardised))
    if plain:
        print(f"### What standardising is worth, points at {widths} neurons\n")
        print(standardisation(means))
    print("### Costs\n")
    print(costs(means, True))


def main(given: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(function=run)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--widths", type=lambda text: [int(k) for k in text.split(",")], default=list(WIDTHS))
    command.add_argument("--standardised", action="store_true", help="ours on standardised inputs only")
    command.add_argument("--sets", type=lambda text: text.split(","), default=list(SETS))
    command = commands.add_parser("table")
    command.set_defaults(function=table)
    command.add_argument("results", type=Path)
    arguments = parser.parse_args(given)
    arguments.function(arguments)


if __name__ == "__main__":
    main()
