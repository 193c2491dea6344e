"""``init.campaign_`` before DDP and FSDP2, on two gloo ranks: the recipes of docs/scale.md."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rank_workers import Workers  # noqa: E402


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    ranks = Workers(2, tmp_path_factory.mktemp("ranks") / "store")
    yield ranks
    ranks.close()


def data():
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(240) % 3
    return torch.randn(240, 8, generator=generator) + 3 * torch.eye(3, 8)[y], y


def network():
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def initialized():
    import nc_fast.init

    torch.manual_seed(0)
    model = network()
    nc_fast.init.campaign_(model, data(), generator=torch.Generator().manual_seed(7))
    return model


def train_step(model, rank):
    X, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(X[rank::2]), y[rank::2]).backward()
    optimizer.step()


def numpy_of(state):
    full = {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}
    return {name.removeprefix("module."): value.detach().numpy().copy() for name, value in full.items()}


def ddp(rank, group, everywhere):
    """On every rank with one seed; or on rank 0 alone, DDP sending rank 0's weights to all."""
    model = initialized() if everywhere or rank == 0 else network()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    before = numpy_of(wrapped.state_dict())
    train_step(wrapped, rank)
    return before, numpy_of(wrapped.state_dict())


def fsdp(rank, group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = initialized()
    mesh = init_device_mesh("cpu", (group.size(),))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    before = numpy_of(model.state_dict())
    train_step(model, rank)
    return before, numpy_of(model.state_dict())


def check(found):
    expected = numpy_of(initialized().state_dict())
    for before, after in found:
        for name, value in expected.items():
            np.testing.assert_array_equal(before[name], value)
            np.testing.assert_array_equal(after[name], found[0][1][name])
            assert (after[name] != value).any()


@pytest.mark.parametrize("everywhere", [True, False])
def test_ddp(workers, everywhere):
    check(workers.run(ddp, everywhere))


def test_fsdp2(workers):
    pytest.importorskip("torch", minversion="2.6", reason="torch.distributed.fsdp has no fully_shard before torch 2.6")
    check(workers.run(fsdp))
