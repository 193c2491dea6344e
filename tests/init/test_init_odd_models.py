"""Models, data and losses that are unusual but legitimate: campaign_ and fit_head_ do right by them, or say why not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nc_fast.init
from nc_fast.init.batches import LabelledBatch
from nc_fast.init.labels import SampleLabels
from nc_fast.init.objective import Answers, Objective


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


class Returns(nn.Module):
    """A network that returns more than its output layer's output."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.form = nn.Linear(8, 16), nn.Linear(16, 3), form

    def forward(self, x: Tensor) -> object:
        hidden = self.body(x).relu()
        output = self.head(hidden)
        forms = {
            "output only": output,
            "features first": (hidden, output),
            "input first": {"x": x, "logits": output},
            "dataclass": Output(output),
            "mean loss first": (output.sum(), output),
        }
        return forms[self.form]


@dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize("form", ["features first", "input first", "dataclass", "mean loss first"])
def test_the_loss_is_of_what_the_head_returns(form: str) -> None:
    report, plain = fitted(Returns(form), data()), fitted(Returns("output only"), data())
    assert (report.name, report.scale, report.loss_after) == ("head", plain.scale, plain.loss_after)


def test_of_two_heads_the_loss_is_of_the_one_that_is_fitted() -> None:
    class TwoHeads(Returns):
        def __init__(self) -> None:
            super().__init__("")
            self.other = nn.Linear(16, 3)

        def forward(self, x: Tensor) -> object:
            hidden = self.body(x).relu()
            return self.other(hidden), self.head(hidden)

    for name in ("head", "other"):
        report = fitted(TwoHeads(), data(), layer=name)
        assert report.loss_after < 0.9 * report.loss_before, name


def test_a_loss_of_log_probabilities_is_what_cross_entropy_is() -> None:
    """It is linear in the outputs, so that their curvature alone says nothing."""
    ours = fitted(network(nn.LogSoftmax(1)), data(), loss=nn.NLLLoss())
    plain = fitted(network(), data(), loss=nn.CrossEntropyLoss())
    assert ours.wanted == plain.wanted
    assert ours.sharpness == pytest.approx(plain.sharpness, rel=0.15)
    assert ours.loss_after == pytest.approx(plain.loss_after, rel=0.15)


def test_a_loss_is_given_what_the_model_returns() -> None:
    X, y = data(classes=2)
    probability = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid(), nn.Flatten(0))
    report = fitted(probability, (X, y), loss=lambda outputs, y: nn.functional.binary_cross_entropy(outputs, y.float()))
    assert report.loss_after < 0.9 * report.loss_before


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (nn.CrossEntropyLoss(reduction="none"), r"one number, the mean, got shape \(15,\)"),
        (lambda outputs, y: 1.0, "one number, the mean, got float"),
        (nn.BCEWithLogitsLoss(), r"function of outputs \(15, 3\) and y \(15,\) torch.int64, got ValueError: Target size"),
    ],
)
def test_a_loss_of_another_kind_is_refused(loss: object, got: str) -> None:
    with pytest.raises(ValueError, match=f"loss: expected a .*{got}"):
        fitted(network(), data(), loss=loss)


@pytest.mark.parametrize("n", [4, 7, 15])
def test_few_samples_before_a_batchnorm_that_has_seen_none(n: int) -> None:
    X, y = data()
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    assert fitted(model, (X[:n], y[:n])).samples == n


def test_a_loss_that_rose_is_reported() -> None:
    report = replace(fitted(network(), data()), loss_before=1.0, loss_after=1.25)
    assert "2: the loss rose from 1 to 1.25 on samples it was not fitted on" in report.warnings


def test_labels_of_positions_with_outputs_of_rows() -> None:
    tokens = torch.randint(20, (40, 6), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 4), nn.Flatten(0, 1))
    report = fitted(model, (tokens, tokens % 4))
    assert report.loss_after < report.loss_before


def test_within_autocast_the_loss_is_of_the_new_weights() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = network()
        X, y = data()
        model(X)  # casts of its weights are kept from now on
        report = fitted(model, (X, y))
        after = nn.functional.cross_entropy(model(X).float(), y)
    assert report.loss_after < 0.9 * report.loss_before
    assert after < 0.9 * report.loss_before


def test_a_model_without_second_derivatives_has_a_head_of_scale_1() -> None:
    X, y = data()
    cut = network()
    cut.forward = torch.no_grad()(cut.forward)  # type: ignore[method-assign]
    bag = nn.Sequential(nn.EmbeddingBag(20, 8), nn.ReLU(), nn.Linear(8, 3))
    tokens = torch.randint(20, (120, 5), generator=torch.Generator().manual_seed(0))
    for model, given, reason in ((cut, X, "the model's outputs have no gradient"), (bag, tokens, "not implemented")):
        report = fitted(model, (given, y))
        assert report.scale == 1
        assert np.isnan(report.sharpness)
        assert "its sharpness could not be measured" in report.notes[0]
        assert reason in report.notes[0]


def test_predictions_beside_the_outputs() -> None:
    class Predicts(Returns):
        def forward(self, x: Tensor) -> object:
            output = self.head(self.body(x).relu())
            return output, output.argmax(1)

    assert fitted(Predicts(""), data()).loss_after == fitted(Returns("output only"), data()).loss_after


@pytest.mark.parametrize(("n", "at_once", "sizes"), [(10, 3, [3, 3, 2, 2]), (9, 4, [3, 3, 3]), (5, 4, [3, 2]), (128, 127, [64, 64])])
def test_parts_of_the_loss_are_about_equal(n: int, at_once: int, sizes: list[int]) -> None:
    batch = LabelledBatch(torch.zeros(n, 8), SampleLabels(np.zeros(n, np.int64)))
    objective = Objective(network(), nn.Identity(), torch.device("cpu"), [batch], Answers(np.arange(3), np.arange(3), None), None, at_once)
    assert [len(part) for part in objective._parts] == sizes


def test_a_head_that_is_frozen_is_named() -> None:
    model = network()
    model[2].requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match=r"layer: '0' cannot be fitted: .*; 2: frozen"):
        fitted(model, data())


@pytest.mark.parametrize(
    "y", [torch.arange(60) % 3, torch.randn(60, generator=torch.Generator().manual_seed(0))], ids=["labels", "float targets"]
)
def test_a_model_that_answers_for_every_token_is_no_head_for_one_label_a_sample(y):
    outputs = 1 if y.is_floating_point() else 3
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))
    X = torch.randn(60, 5, 6, generator=torch.Generator().manual_seed(0))
    report = nc_fast.init.campaign_(model, (X, y))
    assert any("no head was fitted: the model returns (5, " in note for note in report["2"].notes)
    with pytest.raises(ValueError, match=r"layer: '2' cannot be fitted: the model returns \(5, "):
        nc_fast.init.fit_head_(model, (X, y))
    if outputs == 3:
        nc_fast.init.fit_head_(model, (X, y), loss=lambda out, y: nn.functional.cross_entropy(out.mean(1), y))
