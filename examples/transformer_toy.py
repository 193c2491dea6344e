"""A transformer on a toy task, which of four letters is the most frequent: tokens are samples with their sequence's label."""

import torch
from torch import nn
from torch.nn import functional

import nc_fast.init


class Classifier(nn.Module):
    def __init__(self, letters: int = 4, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        block = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=64, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(block, num_layers=2)
        self.head = nn.Linear(width, letters)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(letters)).mean(1))


def main(seed: int = 0, steps: int = 150) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randint(4, (2000, 11), generator=generator)
    y = functional.one_hot(X).sum(1).argmax(1)
    torch.manual_seed(seed)
    model = Classifier()
    print(nc_fast.init.campaign_(model, (X, y), max_samples=500, generator=generator))

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        rows = torch.randint(1500, (64,), generator=generator)
        loss = functional.cross_entropy(model(X[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        accuracy = float((model(X[1500:]).argmax(1) == y[1500:]).float().mean())
    print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {steps} steps, accuracy {accuracy:.1%}")
    return {"first loss": losses[0], "last loss": losses[-1], "accuracy": accuracy}


if __name__ == "__main__":
    main()
