"""An MLP on the 8 x 8 digits: He's initialization against a campaign, the same batches, the same learning rate."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import nc_fast.init


def mlp() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def mean_loss(model: nn.Module, X: torch.Tensor, y: torch.Tensor, epochs: int = 3) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=generator).split(50):
            loss = functional.cross_entropy(model(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def accuracy(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> float:
    return float((model(X).argmax(1) == y).float().mean())


def main(seed: int = 0) -> dict[str, float]:
    X, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    X = X.float() / 16
    train, test = slice(0, 1400), slice(1400, None)
    torch.manual_seed(seed)
    he, campaign = mlp(), mlp()

    report = nc_fast.init.campaign_(campaign, (X[train], y[train]), generator=torch.Generator().manual_seed(seed))
    print(report)

    results = {}
    for name, model in (("He", he), ("campaign", campaign)):
        before = accuracy(model, X[test], y[test])
        loss = mean_loss(model, X[train], y[train])
        after = accuracy(model, X[test], y[test])
        print(f"{name:9}  untrained accuracy {before:.1%}, mean loss of 3 epochs {loss:.3f}, then accuracy {after:.1%}")
        results |= {f"{name} untrained": before, f"{name} loss": loss, f"{name} trained": after}
    return results


if __name__ == "__main__":
    main()
