"""What the report says: notes, figures before and after, warnings, progress."""

import json

import pytest

pytest.importorskip("torch")

import torch
from init_cases import blobs, net, seeded
from torch import nn

from nc_fast.init import campaign_


def test_dead_picks_are_reported():
    X, y = blobs(6)
    report = campaign_(net(), (X, y), candidates={"0": torch.cat([torch.randn(4, 6), torch.zeros(5, 6)])})
    assert report["0"].notes == ("3 of its neurons say nothing about the data: the pool had no more that do",)
    assert report["0"].after.dead == pytest.approx(3 / 7)


def test_the_report_prints_and_converts():
    X, y = blobs(6)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3), nn.Embedding(2, 2))
    model[3].forward = lambda x: x
    report = campaign_(model, (X, y), generator=seeded())
    lines = str(report).splitlines()
    assert lines[0].split()[:5] == ["layer", "kind", "activation", "by", "picks"]
    assert lines[2].split()[:7] == ["0", "Linear", "relu", "pursuit", "7", "of", "70"]
    assert "120 samples of 3 classes" in str(report)
    assert "! 3: kept as it was; its rows stand for tokens" in str(report)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["layers"][0]["picks"] == list(report["0"].picks)
    assert plain["layers"][1]["after"]["std"] == report["2"].after.std
    assert plain["samples"] == 120
    with pytest.raises(KeyError, match="not among the initialized layers"):
        report["nowhere"]


def test_a_jump_of_the_signal_is_a_warning():
    X, y = blobs(6)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
    report = campaign_(model, (X, y), candidates={"2": 50 * torch.randn(30, 7)})
    assert any(warning.startswith("2: pre-activation std is") for warning in report.warnings)


def test_before_is_the_model_as_it_was_given():
    X, y = blobs(6)
    model = net()
    with torch.no_grad():
        model[0].bias.fill_(-100)
        std, mean = torch.std_mean(model[0](X), correction=0)
    report = campaign_(model, (X, y))
    assert report["0"].before.mean == pytest.approx(float(mean), rel=1e-4)
    assert report["0"].before.std == pytest.approx(float(std), rel=1e-3)
    assert report["0"].before.dead == 1
    assert report["2"].before.std < 1
    assert report["0"].after.dead == 0


def test_progress_counts_layers():
    X, y = blobs(6)
    seen = []
    campaign_(net(), (X, y), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
