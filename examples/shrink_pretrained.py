"""Shrink a trained layer: keep the best 24 of its 256 neurons, fit the output layer to them, and compare with any 24."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import nc_fast.init

WIDE, NARROW = 256, 24


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def train(model: nn.Module, X: torch.Tensor, y: torch.Tensor, steps: int, lr: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr)
    for _ in range(steps):
        rows = torch.randint(len(X), (50,), generator=generator)
        loss = functional.cross_entropy(model(X[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def accuracy(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
    return float((model(X).argmax(1) == y).float().mean())


def main(seed: int = 0) -> dict[str, float]:
    X, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    X = X.float() / 16
    train_X, train_y, test_X, test_y = X[:1400], y[:1400], X[1400:], y[1400:]
    torch.manual_seed(seed)
    wide = mlp(WIDE)
    train(wide, train_X, train_y, steps=1500)
    results = {"wide": accuracy(wide, test_X, test_y)}

    shrunk = mlp(NARROW)
    pretrained = {"0": (wide[0].weight, wide[0].bias)}  # a pair: the neurons keep their biases
    report = nc_fast.init.campaign_(
        shrunk, (train_X, train_y), layers=["0"], candidates=pretrained, generator=torch.Generator().manual_seed(seed)
    )
    kept = {"pursued": list(report["0"].picks), "any": torch.randperm(WIDE)[:NARROW].tolist()}
    for name, rows in kept.items():
        model = mlp(NARROW)
        with torch.no_grad():
            model[0].weight.copy_(wide[0].weight[rows])
            model[0].bias.copy_(wide[0].bias[rows])
        nc_fast.init.fit_head_(model, (train_X, train_y), generator=torch.Generator().manual_seed(seed))
        results[name] = accuracy(model, test_X, test_y)
        train(model, train_X, train_y, steps=100)
        results[f"{name}, tuned"] = accuracy(model, test_X, test_y)
    for name, value in results.items():
        print(f"{name:16} {value:.1%}")
    return results


if __name__ == "__main__":
    main()
