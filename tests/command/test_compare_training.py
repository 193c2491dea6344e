"""What nc-fast compare trains: initializations, networks, data, and one run."""

import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import original as benchmark_original
import torch
from init_cases import one_torch_thread
from torch import nn

import nc_fast
from nc_fast.compare import Plan, Task, initializations, original, training
from nc_fast.compare.initializations import ALL, layers, parse
from nc_fast.compare.networks import build, prepare
from nc_fast.files.read import Dataset, load_digits


@pytest.fixture(autouse=True)
def _one_thread():
    with one_torch_thread():
        yield


@pytest.fixture(scope="module")
def digits():
    return prepare(load_digits())


def initialized(spec, samples, network="mlp3", seed=0, lr=0.1):
    model = build(network, samples)
    parse(spec)(model, samples, torch.Generator().manual_seed(seed), lr)
    return model


def score(model, samples):
    return training.accuracy(model, samples.X_test, samples.y_test)


SCALES = {
    "normal": lambda out, fan_in: 0.01,
    "normal:std=0.5": lambda out, fan_in: 0.5,
    "xavier": lambda out, fan_in: (2 / (out + fan_in)) ** 0.5,
    "he": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "he:gain=1.41": lambda out, fan_in: 1.41 * (2 / fan_in) ** 0.5,
    "orthogonal": lambda out, fan_in: (2 / max(out, fan_in)) ** 0.5,
    "he-center": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "he-center-assign": lambda out, fan_in: (2 / fan_in) ** 0.5,
    "original": lambda out, fan_in: (2 / (5 * out)) ** 0.5,  # its fan_in is the pool's size
    "original:pool=20": lambda out, fan_in: (2 / (20 * out)) ** 0.5,
}


@pytest.mark.parametrize("spec", SCALES)
def test_weights_have_the_scale_of_their_recipe(spec, digits):
    for layer in layers(initialized(spec, digits)):
        expected = SCALES[spec](layer.out_features, layer.in_features)
        # 1000 weights of the output layer know their scale to 2 %; a selection moves it a little
        assert float(layer.weight.detach().pow(2).mean().sqrt()) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("spec", ["normal", "xavier", "he", "he:like=campaign", "orthogonal", "lsuv", "original"])
def test_biases_are_zero(spec, digits):
    assert not any(layer.bias.any() for layer in layers(initialized(spec, digits)))


def test_orthogonal_rows():
    samples = prepare(Dataset("zeros", np.zeros((20, 64), np.float32), np.arange(20) % 2))
    weight = layers(initialized("orthogonal", samples, "mlp5"))[0].weight.detach()
    np.testing.assert_allclose(weight @ weight.T, 2 * np.eye(32), atol=1e-5)


def test_lsuv_gives_unit_variance(digits):
    model, x = initialized("lsuv", digits), digits.X
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                assert float(x.std()) == pytest.approx(1, abs=0.11)  # its tolerance is 0.1


@pytest.mark.parametrize("spec", ["he-center", "he-center-assign", "campaign"])
def test_centred_layers_have_mean_zero(spec, digits):
    model, x = initialized(spec, digits), digits.X
    with torch.no_grad():
        for layer in model:
            x = layer(x)
            if isinstance(layer, nn.Linear):
                centred = layer is not model[-1] or spec != "campaign"  # a fitted head predicts samples it has not seen
                assert float(x.mean(0).abs().max()) < (1e-4 if centred else 0.1)


def test_assigned_outputs_answer_to_their_class(digits):
    def right(spec):
        return np.mean([score(initialized(spec, digits, seed=seed), digits) for seed in range(4)])

    assert right("he-center-assign") > right("he-center") + 5


def test_campaign_is_campaign_with_its_options(digits):
    options = {
        "select": "campaign",
        "pool": 3,
        "alpha": [1.0, 0.5, 0.25],
        "bias": "zeros",
        "max_samples": None,
        "by_class": False,
        "criterion": "fisher",
    }
    model = initialized(
        "campaign:select=campaign,pool=3,alpha=1/0.5/0.25,bias=zeros,max_samples=none,by_class=false,criterion=fisher", digits
    )
    twin = build("mlp3", digits)
    nc_fast.init.campaign_(twin, (digits.X, digits.y), generator=torch.Generator().manual_seed(0), **options)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("other", ["campaign", "original"])
def test_scale_matched_he_has_the_others_scale_and_hes_direction(other, digits):
    he, matched, scale = (layers(initialized(spec, digits)) for spec in ("he", f"he:like={other}", other))
    for plain, mine, theirs in zip(he, matched, scale, strict=True):
        ratio = (mine.weight / plain.weight).detach()
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
        if other == "original":  # drawn after He's weights, so not from the same random numbers: the same scale up to sampling
            assert float(mine.weight.detach().norm()) == pytest.approx(float(theirs.weight.detach().norm()), rel=0.1)
    assert not torch.equal(he[0].weight, matched[0].weight)


@pytest.mark.parametrize("spec", ALL)
def test_an_initialization_follows_its_generator_alone(spec, digits):
    before = torch.get_rng_state()
    first = list(initialized(spec, digits, "mlp5", seed=5).parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = list(initialized(spec, digits, "mlp5", seed=5).parameters())
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    third = list(initialized(spec, digits, "mlp5", seed=6).parameters())
    assert not torch.equal(first[0], third[0])


def test_original_repeats_neurons_as_the_restated_program_does(rng):
    W = rng.normal(size=(12, 90)).astype(np.float32)
    score = rng.normal(size=90).astype(np.float32) - 0.5
    group = rng.integers(0, 3, 90)
    mine = original.greedy(W, score, group, 45).reshape(3, 15)
    theirs = benchmark_original.select_numpy(W, score, group, 45, "basis").reshape(3, 15)
    for ours, others in zip(mine.tolist(), theirs.tolist(), strict=True):
        repeated = next(number for number in range(15) if others[number] in others[:number])
        assert repeated >= 3
        assert ours[:repeated] == others[:repeated]
        assert ours[repeated] in ours[:repeated]  # which one is left to rounding, and all that follows


@pytest.mark.parametrize("spec", ["hee", "he:gian=2", "he:gain", "campaign:pol=2", "he:like=xavir", "normal:gain=2"])
def test_unknown_specs_are_refused(spec):
    with pytest.raises(ValueError, match="--init"):
        parse(spec)


def test_lsuv_absent_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "lsuv", None)
    with pytest.raises(ImportError, match=r"lsuv is not installed: pip install"):
        parse("lsuv")


PLAN = Plan(("mlp5",), ("he", "campaign"), (3, 4), epochs=3, lr=(0.2,), batch=64, eval_every=8)


@pytest.mark.parametrize(
    ("name", "optimizer_of"),
    [
        ("sgd", lambda parameters: torch.optim.SGD(parameters, lr=0.2)),
        ("momentum", lambda parameters: torch.optim.SGD(parameters, lr=0.2, momentum=0.9)),
        ("adamw", lambda parameters: torch.optim.AdamW(parameters, lr=0.2)),
    ],
)
def test_training_is_by_the_optimizer_on_the_seeds_batches(name, optimizer_of, digits):
    found = training.train(Task("mlp5", "he", 3, 0.2), replace(PLAN, optimizer=name), digits, lambda steps: None)
    model = initialized("he", digits, "mlp5", seed=6)
    optimizer, order = optimizer_of(model.parameters()), torch.Generator().manual_seed(7)
    losses, accuracies = [], {0: score(model, digits)}
    steps = len(digits.X) // 64
    for epoch in range(3):
        permutation = torch.randperm(len(digits.X), generator=order)
        for number in range(steps):
            rows = permutation[64 * number : 64 * (number + 1)]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(digits.X[rows]), digits.y[rows])
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
            accuracies[epoch * steps + number + 1] = 100 * float((model(digits.X_test).argmax(1) == digits.y_test).double().mean())
    assert [point.step for point in found.curve] == [0, 8, 16, 22, 24, 32, 40, 44, 66]
    for before, point in zip(found.curve, found.curve[1:], strict=False):
        assert point.accuracy == pytest.approx(accuracies[point.step], abs=0.6)  # rounding may turn a sample or two
        assert point.loss == pytest.approx(np.mean(losses[before.step : point.step]), rel=1e-4)
    assert found.first_epoch_loss == pytest.approx(np.mean(losses[:steps]), rel=1e-4)
    assert found.epoch_steps == steps
    assert np.isnan(found.validation)
    assert all(a.seconds < b.seconds for a, b in zip(found.curve, found.curve[1:], strict=False))


def test_batches_are_normalized_in_training_and_running_means_are_used_in_evaluation(digits):
    """At the last point, and on the validation samples; the run's samples are those of its seed."""
    plan, parted = replace(PLAN, epochs=1, train_samples=64), digits.with_validation()
    found = training.train(Task("resnet", "he", 3, 0.2), plan, parted, lambda steps: None)
    drawn = parted.drawn(64, 3)
    model = build("resnet", drawn, 3)
    parse("he")(model, drawn, torch.Generator().manual_seed(6), 0.2)
    loss = nn.functional.cross_entropy(model(drawn.X), drawn.y)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.2).step()
    assert found.first_epoch_loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert found.curve[-1].accuracy == pytest.approx(score(model, digits), abs=0.6)
    assert found.validation == pytest.approx(training.accuracy(model, parted.X_validation, parted.y_validation), abs=1.5)
    assert not torch.equal(model(digits.X_test).argmax(1), model.eval()(digits.X_test).argmax(1))


@pytest.mark.parametrize(("lr", "loss"), [(1e30, float("inf")), (1e-9, None)])
def test_divergence_is_counted_as_guessing(lr, loss, digits):
    plan = replace(PLAN, epochs=1)
    found = training.train(Task("mlp5", "he", 3, lr), plan, digits, lambda steps: None)
    assert found.diverged
    if loss:
        assert found.first_epoch_loss == loss
        assert found.curve[-1].accuracy == pytest.approx(100 * float((digits.y_test == 0).double().mean()))
    else:
        assert found.first_epoch_loss >= np.log(10)


@pytest.mark.parametrize(
    ("optimizer", "spec", "told"),
    [("sgd", "campaign", 0.2), ("adamw", "campaign", None), ("sgd", "campaign:lr=none", None), ("adamw", "he:like=campaign:lr=1", 1)],
)
def test_initializations_are_told_the_rate(optimizer, spec, told, digits, monkeypatch):
    heard = []
    monkeypatch.setattr(nc_fast.init, "campaign_", lambda *data, lr, **others: heard.append(lr))
    training.train(Task("mlp2", spec, 3, 0.2), replace(PLAN, optimizer=optimizer, epochs=1), digits, lambda steps: None)
    assert heard == [told]


def test_what_is_left_out_is_said():
    plan = Plan(("mlp10", "resnet"), ("he", "he:like=original", "original"), (0,))
    assert [task.initialization for task in plan.tasks()] == ["he", "he:like=original", "original", "he"]
    assert [line.split(" is ")[0] for line in plan.left_out()] == ["he:like=original", "original"]


def test_training_reports_every_step(digits):
    reported = []
    training.train(Task("mlp5", "he", 3, 0.2), PLAN, digits, reported.append)
    assert reported == [25, 50, 66]


def test_defaults_are_among_all():
    assert set(initializations.DEFAULT) <= set(ALL)
    for spec in ALL:
        parse(spec)
