"""Networks as people have them, of torchvision, timm and transformers: `nox -s zoo` installs the packages; elsewhere these tests skip.

Every weight is initialized or kept with a reason, everything else is as it was, and five steps of training go well.
"""

import math
from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

import zoo
from zoo_data import CLASSES
from zoo_models import MODELS

# The packages' own: transformers and timm use what torch has deprecated since.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_zoo(model):
    if find_spec(model.package) is None:
        pytest.skip(f"needs {model.package}")
    started = zoo.start(model)
    before, after = started.state
    assert after == before
    assert zoo.lost(started.network, started.report) == []
    assert [name for name in zoo.changed(started) if not zoo.initialized(name, started.report)] == []
    assert zoo.untouched(started) == []
    losses = zoo.train(started)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < max(losses[0], math.log(CLASSES))
