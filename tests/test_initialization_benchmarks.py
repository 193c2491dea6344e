"""The scripts behind docs/initialization.md run at toy sizes, so that none can rot."""

import pytest

pytest.importorskip("torch")

import initialization_table
import sharpness

from nc_fast.compare.networks import prepare
from nc_fast.files.read import load

HEADER = "network,init,lr,rate,he_lr,metric,mean,error,n,difference,difference_error,pairs\n"
ROWS = """\
mlp3,he,0.1,{0},0.1,first_epoch_loss,0.25,0.01,10,0,0,10
mlp3,campaign,0.1,{0},0.1,first_epoch_loss,0.2,0.01,10,-20.04,1.0,10
mlp3,lsuv,0.1,{0},0.1,first_epoch_loss,0.26,0.01,10,1.5,1.0,10
mlp3,campaign,0.1,{0},0.1,untrained,80,1,10,70,1,10
"""


def test_a_table_of_differences(tmp_path):
    file = tmp_path / "initialization-mnist.csv"
    file.write_text(HEADER + ROWS.format("each"))
    lines = initialization_table.table([file], "first_epoch_loss").splitlines()
    assert lines[0] == "|  | he | campaign | lsuv |"
    assert lines[2:] == ["| mnist, mlp3 | 0.2500 | **-20.0 ± 1.0** | +1.5 ± 1.0 |"]


def test_of_several_rates_the_best_are_shown(tmp_path):
    file = tmp_path / "sweep.csv"
    file.write_text(HEADER + ROWS.format("each") + ROWS.replace("0.1,{0}", "0.3,{0}").format("best"))
    assert initialization_table.table([file], "untrained").splitlines()[2] == "| sweep, mlp3 | **+70.00 ± 1.00** (lr 0.3) |"


def test_the_gauss_newton_matrix_is_as_sharp_as_the_hessian():
    (row,) = sharpness.rows(prepare(load(None)), ["mlp5"], [4.0], 200)
    hessian, gauss_newton = map(float, row[2:4])
    assert gauss_newton == pytest.approx(hessian, rel=0.1)
