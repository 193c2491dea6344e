"""A CNN with BatchNorm on the 8 x 8 digits, initialized from a DataLoader: every patch is a sample."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nc_fast.init


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def main(seed: int = 0) -> dict[str, float]:
    X, y = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    X = X.float().reshape(-1, 1, 8, 8) / 16
    torch.manual_seed(seed)
    loader = DataLoader(TensorDataset(X[:1400], y[:1400]), batch_size=50, shuffle=True)
    model = cnn()
    print(nc_fast.init.campaign_(model, loader, max_samples=500, generator=torch.Generator().manual_seed(seed)))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for batch, labels in loader:
        loss = functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        accuracy = float((model(X[1400:]).argmax(1) == y[1400:]).float().mean())
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in one epoch, test accuracy {accuracy:.1%}")
    return {"first loss": losses[0], "last loss": losses[-1], "accuracy": accuracy}


if __name__ == "__main__":
    main()
