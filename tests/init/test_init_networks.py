"""Whole networks: initialized, in range, and trained a hundred steps."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import images
from torch import nn
from torch.nn import functional

from nc_fast.init import campaign_

STEPS = 100


class Block(nn.Module):
    def __init__(self, width_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and width_in == width
        self.shortcut = nn.Sequential() if same else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Its 17 convolutions, 3 projections and head, eight times narrower."""

    def __init__(self, width=8, classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
        blocks = [Block(a, b, 1 if a == b else 2) for a, b in zip([width, *widths], widths, strict=False)]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class TransformerClassifier(nn.Module):
    def __init__(self, vocabulary=12, width=32, classes=4, norm_first=False):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True, norm_first=norm_first)
        norm = nn.LayerNorm(width) if norm_first else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)).mean(1))


def mlp(*widths):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model, X, y, lr, steps=STEPS, batch=50):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        rows = torch.randint(len(X), (batch,), generator=generator)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(X[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


def assert_sound(model, report, X, y, lr):
    assert not [layer for layer in report.kept if layer.kind != "Embedding"]
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert report.layers[-1].select == "least_squares"
    stds = {layer.name: layer.after.std for layer in report.layers[:-1]}  # the head's scale is the loss's affair
    assert all(0.15 <= std <= 3 for std in stds.values()), stds
    losses = train(model, X, y, lr)
    assert np.isfinite(losses).all()
    assert losses[-20:].mean() < losses[:5].mean()
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_resnet18_shaped():
    X, y = images()
    torch.manual_seed(0)
    model = ResNet18()
    report = campaign_(model, (X, y), generator=torch.Generator().manual_seed(0))
    assert len(report.layers) == 21
    assert report["blocks.3.conv1"].activation == "batchnorm, relu"
    assert report["blocks.3.conv2"].activation == "batchnorm, identity"  # it meets the shortcut before the relu
    assert_sound(model, report, X, y, lr=0.05)


def test_ten_layer_mlp():
    X, y = images()
    model = mlp(64, *[64] * 9, 10)
    report = campaign_(model, (X.flatten(1), y), generator=torch.Generator().manual_seed(0))
    assert [layer.activation for layer in report.layers] == ["relu"] * 9 + ["identity"]
    assert_sound(model, report, X.flatten(1), y, lr=0.05)


@pytest.mark.parametrize("norm_first", [False, True])
def test_two_layer_transformer(norm_first):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (600, 9), generator=generator)
    y = (tokens % 4).mode(1).values
    torch.manual_seed(0)
    model = TransformerClassifier(norm_first=norm_first)
    report = campaign_(model, (tokens, y), generator=generator)
    assert [layer.name for layer in report.layers[:6]] == [
        "encoder.layers.0.self_attn.q",
        "encoder.layers.0.self_attn.k",
        "encoder.layers.0.self_attn.v",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.0.linear1",
        "encoder.layers.0.linear2",
    ]
    assert len(report.layers) == 13
    assert report["encoder.layers.1.linear1"].activation == "gelu"
    assert [layer.name for layer in report.kept] == ["embedding"]
    assert_sound(model, report, tokens, y, lr=0.05)


def test_untrained_accuracy_is_far_above_chance():
    X, y = images()
    for seed in range(3):
        model = mlp(64, 48, 24, 10)
        campaign_(model, (X.flatten(1), y), generator=torch.Generator().manual_seed(seed))
        accuracy = (model(X.flatten(1)).argmax(1) == y).float().mean()
        assert accuracy > 0.8, seed
