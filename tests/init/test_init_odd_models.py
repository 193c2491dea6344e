"""Models, data and losses that are unusual but legitimate: campaign_ and fit_head_ do right by them, or say why not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nc_fast.init


def data(n: int = 120, classes: int = 3) -> tuple[Tensor, Tensor]:
    y = torch.arange(n) % classes
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(8)[y], y


def network(*after: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), *after)


def fitted(model: nn.Module, data: object, **options: object) -> nc_fast.init.HeadReport:
    return nc_fast.init.fit_head_(model, data, generator=torch.Generator().manual_seed(0), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-20, 1e12, 1e19])
def test_features_of_any_scale(scale: float) -> None:
    X, y = data()
    report = nc_fast.init.campaign_(network(), (scale * X, y), generator=torch.Generator().manual_seed(0))
    assert report.head is not None
    assert 0 < report.head.scale <= report.head.wanted


def test_a_loss_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="loss: expected one with finite second derivatives"):
        fitted(network(), data(), loss=lambda outputs, y: nn.functional.cross_entropy(outputs, y) * float("nan"))
