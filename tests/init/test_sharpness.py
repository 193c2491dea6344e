"""Sharpness: the largest eigenvalue of the Gauss-Newton matrix, against the matrix written out."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional

from nc_fast.init.batches import LabelledBatch
from nc_fast.init.labels import SampleLabels
from nc_fast.init.objective import Answers, Objective, default_loss

N = 24
TARGETS = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELLED = Answers(np.arange(3), np.arange(3), None)
TARGETED = Answers(np.zeros(0, np.int64), None, TARGETS.numpy())


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x = x.reshape(-1, 3, 4)
        return {"logits": self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))}  # the outputs are the tensor in it


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)),
    "batchnorm": lambda: nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)),
    "attention": Attending,
}
LOSSES = {
    "cross-entropy": (None, LABELLED),
    "squared error": (None, TARGETED),
    "smooth": (lambda z, y: functional.cross_entropy(z, y, label_smoothing=0.2), LABELLED),
}


def problem(name):
    torch.manual_seed(0)
    model = MODELS[name]().double()
    model[0].bias.requires_grad_(False) if name == "mlp" else None  # what is not trained has no part in it
    X, y = blobs(12, n=N)
    return model, X.double(), y


def objective(model, X, y, loss, answers, at_once=N):
    labels = y.numpy() if answers.targets is None else np.arange(N)
    head = model.head if isinstance(model, Attending) else model[-1]
    return Objective(model, head, torch.device("cpu"), [LabelledBatch(X, SampleLabels(labels))], answers, loss, at_once)


def written_out(model, X, y, loss, answers):
    """Return the top eigenvalue of J' H J."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sizes = [parameter.numel() for parameter in trained.values()]

    def outputs(flat):
        parts = {name: part.reshape(trained[name].shape) for name, part in zip(trained, flat.split(sizes), strict=True)}
        z = functional_call(model, parts, X)
        return (z["logits"] if isinstance(z, dict) else z).flatten()

    flat = torch.cat([parameter.detach().flatten() for parameter in trained.values()])
    given = y if answers.targets is None else TARGETS
    H = hessian(lambda z: (loss or default_loss)(z.reshape(N, 3), given), outputs(flat).detach())
    J = jacobian(outputs, flat, vectorize=True)
    return float(torch.linalg.eigvalsh(J.T @ H @ J)[-1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_top_eigenvalue_of_the_gauss_newton_matrix(name, loss):
    model, X, y = problem(name)
    function, answers = LOSSES[loss]
    wanted = written_out(model, X, y, function, answers)
    whole = objective(model, X, y, function, answers)
    first, direction = whole.sharpness(whole.gradient(), 3)
    assert 0.5 * wanted < first <= wanted * (1 + 1e-9)  # from below, and near it after three products from the gradient
    assert whole.sharpness(direction, 100)[0] == pytest.approx(wanted, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("loss", ["cross-entropy", "squared error"])
@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_parts_add_up_to_the_whole(name, loss):
    model, X, y = problem(name)
    whole, parts = (objective(model, X, y, *LOSSES[loss], at_once) for at_once in (N, 7))
    assert parts.value() == pytest.approx(whole.value(), rel=1e-12)
    for one, other in zip(parts.gradient(), whole.gradient(), strict=True):
        torch.testing.assert_close(one, other)
    found = [one.sharpness(one.gradient(), 5) for one in (parts, whole)]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other)


def test_a_loss_without_curvature_has_no_sharpness():
    model, X, y = problem("mlp")
    for flat in (lambda z, t: (z - t).abs().mean(), lambda z, _: z.mean()):
        assert (
            objective(model, X, y, flat, TARGETED).sharpness([torch.ones_like(p) for p in model.parameters() if p.requires_grad], 3)[0] == 0
        )
