"""Initialize the hidden layer of a small network on scikit-learn's digits by a neuron campaign.

python examples/campaign_digits.py
"""

import numpy as np
import torch

import nc_fast
from nc_fast.files.read import load_digits

HIDDEN, POOL = 64, 640  # ten candidates per neuron: a larger pool finds little more


def main() -> None:
    digits = load_digits().scaled()
    X, y = digits.X_train, digits.y_train
    rng = np.random.default_rng(0)

    # Columns are neurons. The variance belongs to the layer's own fan-in, so the pool's size does not change the weights' scale.
    pool = rng.normal(scale=np.sqrt(2 / X.shape[1]), size=(X.shape[1], POOL)).astype(np.float32)

    # The score likes neurons whose activation varies, and with bias 0 those are the ones that are on for every sample. Centred
    # biases take that advantage away; what is scored must be what is installed, so the campaign is told of them.
    centred = -X.mean(axis=0) @ pool

    result = nc_fast.campaign(pool, X, y, HIDDEN, bias=centred, activation="relu", alpha=0.5)

    names, counts = np.unique(result.groups, return_counts=True)
    print("picks per class:", dict(zip(names.tolist(), counts.tolist(), strict=True)))
    print("distinct picks:", len(set(result.indices.tolist())))
    print(f"mean score: {result.scores.mean():.4f} picked, {result.candidates.score.mean():.4f} pool")

    # torch.nn.Linear keeps one neuron per row: the picks are transposed, their biases come along.
    hidden = torch.nn.Linear(X.shape[1], HIDDEN)
    with torch.no_grad():
        hidden.weight.copy_(torch.from_numpy(result.weights.T))
        hidden.bias.copy_(torch.from_numpy(result.bias))
    network = torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10))

    outputs = network(torch.from_numpy(X[:5]))
    print("network output for five digits:", tuple(outputs.shape))


if __name__ == "__main__":
    main()
