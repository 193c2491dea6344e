"""Does a change of the code change a bit of the results? Hashes of all that 40 campaigns return, before and after.

    python benchmarks/bits.py --write before.json      # in the tree before the change
    python benchmarks/bits.py --against before.json    # in the tree after it; exit status 1 where a bit differs

It uses the public API alone, so that it runs unchanged on both trees: PYTHONPATH says which one, the first line printed shows it.
Products of matrices depend on the machine and on the versions of NumPy, torch and their BLAS: compare runs of one machine only.
Half a minute on two cores. The GPU backend runs in Triton's interpreter; where Triton is absent its campaigns are left out, saying so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import nc_fast
import nc_fast.init

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]  # W (D, M), X (N, D), y (N,)
GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
LONG = (40_000, 6, 31, 4)  # N, D, M, C: three blocks of samples
BIG = (60_000, 64, 6000, 5)  # enough for screening to pay
TINY = (120, 10, 40, 3)  # for the interpreter
RANKS = 2
PAPER = {"select": "campaign"} if "select" in signature(nc_fast.init.campaign_).parameters else {}  # once there was nothing else
NOT_HASHED = ("seconds", "select", "head")  # of a report: the last two are not in older trees
FIELDS = {  # what is hashed of a result, in this order
    nc_fast.Campaign: ("weights", "bias", "indices", "scores", "gains", "groups", "restarts", "candidates", "certificate"),
    nc_fast.Selection: ("indices", "scores", "gains", "groups", "restarts"),
    nc_fast.Scores: ("score", "group", "live", "classes", "quota"),
    nc_fast.ClassMoments: ("classes", "count", "mean", "m2"),
}


def digest(result: Any) -> str:
    """Return the hash of a result: of its arrays library, dtype, shape and bytes, all else as it is printed."""
    names = next((names for kind, names in FIELDS.items() if isinstance(result, kind)), None)
    parts = result if names is None else [getattr(result, name) for name in names]
    if isinstance(parts, list | tuple):
        content = "".join(map(digest, parts)).encode()
    elif isinstance(result, np.ndarray | torch.Tensor):
        array = np.asarray(result)
        content = f"{type(result).__name__} {array.dtype.str} {array.shape}:".encode() + array.tobytes()
    else:
        content = str(result).encode()
    return hashlib.sha256(content).hexdigest()


def normal(N: int = 500, D: int = 12, M: int = 90, C: int = 5) -> Problem:
    """Normal samples of C classes around different means."""
    rng = np.random.default_rng(3)
    y = rng.permutation(np.arange(N) % C)
    X = rng.normal(size=(N, D)) + rng.normal(size=(C, D))[y]
    return rng.normal(size=(D, M)).astype(np.float32) / np.float32(D**0.5), X.astype(np.float32), y


def clipped(problem: Problem) -> Problem:
    """Half of the numbers are cut to 0, so that no Gaussian mixture describes the samples."""
    W, X, y = problem
    return W, (50 * X).clip(0, 255).astype(np.uint8), y


def digits(labels: type = np.int64) -> Problem:
    X, y = load_digits(return_X_y=True)
    return normal(D=64, M=200)[0] / np.float32(16), X.astype(np.uint8), y.astype(labels)


def tensors(problem: Problem) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in problem]


def golden(number: str, activation: str, backend: str) -> nc_fast.Campaign:
    found = np.load(next(GOLDENS.glob(f"{number}-*.npz")))
    meta = json.loads(str(found["meta"]))
    W, X = (found[name].astype(np.float32) for name in ("W", "X"))
    rules = {"alpha": meta["alpha"], "bias": meta["bias"], "activation": activation, "backend": backend}
    return nc_fast.campaign(W, X, found["y"], meta["k"], **rules)


def separation(moments: nc_fast.ClassMoments) -> tuple[Any, Any]:
    """A criterion that scores every candidate by itself."""
    return moments.between() / (moments.within() + 1), moments.mean.argmax(0)


def mostly_dead() -> Any:
    W, X, y = normal()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = nc_fast.campaign(W * (np.arange(90) % 3 == 0), X, y, 40)
    assert caught, "30 of 90 candidates are live: expected a warning that 40 picks take dead ones"
    return found, [str(warning.message) for warning in caught]


def by_hand() -> Any:
    """The greedy loop over the whole pool, its span kept by the projector; and the quota."""
    W, X, y = normal()
    scores = nc_fast.ib_scores(nc_fast.class_moments(W, X, y, activation="tanh"), alpha=0.3)
    span, ratios = nc_fast.NullSpaceProjector(len(W)), []
    while span.rank < len(W):
        ratios.append(span.ratios(W))
        span.add(W[:, np.argmax(scores.score.clip(min=0) * ratios[-1])])
    return scores, ratios, span.basis, span.residual_norms(W), nc_fast.share_quota(np.bincount(scores.group), 20)


def screened(problem: Any, **rules: Any) -> nc_fast.Campaign:
    found = nc_fast.campaign(*problem, 20, method="screened", **rules)
    assert not found.certificate.exact, f"expected a pool that is screened: {found.certificate}"
    return found


class OnlySlices:
    """What h5py and Zarr offer."""

    def __init__(self, X: np.ndarray) -> None:
        self._X, self.shape, self.dtype = X, X.shape, X.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._X[rows]


def mapped(X: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        X.tofile(file)
        return np.memmap(file, X.dtype, "r", shape=X.shape)


def long(kind: Callable[[np.ndarray], Any], **rules: Any) -> nc_fast.Campaign:
    W, X, y = normal(*LONG)
    return nc_fast.campaign(W, kind(X), y, 9, **rules)


def stream(rows: int, first: int = 0, stop: int = LONG[0], **rules: Any) -> nc_fast.ClassMoments:
    """Moments of the samples from first to stop, in batches."""
    W, X, y = normal(*LONG)
    X, y = X[first:stop], y[first:stop]
    return nc_fast.class_moments(W, ((X[i : i + rows], y[i : i + rows]) for i in range(0, len(X), rows)), **rules)


def stages() -> Any:
    moments = stream(700, bias=0.1)
    scores = nc_fast.ib_scores(moments, alpha=0.7)
    return moments, scores, nc_fast.select(normal(*LONG)[0], scores, 9)


def with_checkpoint(run: Callable[[Path], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.npz"
        return run(path), nc_fast.ClassMoments.load(path)


def initialized(make: Callable[[], nn.Module], problem: Problem, **rules: Any) -> Any:
    torch.manual_seed(1)
    model = make()
    _, X, y = tensors(problem)
    generator = torch.Generator().manual_seed(2)
    report = nc_fast.init.campaign_(model, (X.float(), y), generator=generator, **PAPER, **rules)
    assert rules.get("method") != "screened" or "candidates scored exactly" in str(report), f"expected a layer that is screened: {report}"
    found = report.to_dict()
    for part in (found, *found["layers"]):
        for name in NOT_HASHED:
            part.pop(name, None)
    return json.dumps(found, sort_keys=True), list(model.state_dict().values())


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 60), nn.ReLU(), nn.Linear(60, 10))


def cnn() -> nn.Module:
    front = [nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU()]
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), *front, nn.Flatten(), nn.Linear(108, 10))


def transformer() -> nn.Module:
    """A digit's rows are its tokens."""
    encoder = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, 16), encoder, nn.Flatten(), nn.Linear(128, 10))


GOLDEN_RUNS = (  # the file's number; every activation, also where the original had another; 17 and 32: more picks than features
    *("00 relu cpu", "17 identity reference", "32 tanh cpu", "40 sigmoid reference", "07 leaky_relu cpu", "13 elu reference"),
    *("24 gelu cpu", "46 gelu_tanh reference", "00 silu cpu", "07 softplus reference"),
)
IN_THIS_PROCESS: dict[str, Callable[[], Any]] = {
    **{f"golden {run}": partial(golden, *run.split()) for run in GOLDEN_RUNS},
    "by_class=False, more picks than features": lambda: nc_fast.campaign(*normal(), 30, by_class=False),
    "a criterion of one's own": lambda: nc_fast.campaign(*normal(), 20, criterion=separation),
    "an activation of one's own": lambda: nc_fast.campaign(*normal(), 20, activation=lambda z: np.sin(z) + z),
    "torch tensors": lambda: nc_fast.campaign(*tensors(normal()), 20, activation="silu", alpha=0.2),
    "uint8 X": lambda: nc_fast.campaign(*digits(), 25, activation="gelu"),
    "string labels": lambda: nc_fast.campaign(*digits(np.str_), 25, backend="reference"),
    "a bias per candidate": lambda: nc_fast.campaign(*normal(), 20, bias=np.linspace(-1, 1, 90)),
    "dead candidates, k beyond the live": mostly_dead,
    "greedy by hand: share_quota, NullSpaceProjector": by_hand,
    "screened": lambda: screened(normal(*BIG)),
    "screened, by_class=False, alpha=0": lambda: screened(normal(*BIG), by_class=False, alpha=0.0),
    "screened, tanh, alpha=1": lambda: screened(normal(*BIG), activation="tanh", alpha=1.0),
    "screened, a criterion": lambda: screened(normal(*BIG), criterion=separation),
    "screened, uint8 X, torch tensors": lambda: screened(tensors(clipped(normal(*BIG))), activation="leaky_relu"),
    "memory map, screening asked for and not possible": lambda: long(mapped, method="screened"),
    "memory map, fisher": lambda: long(mapped, criterion=nc_fast.init.fisher_scores),
    "batches: class_moments, ib_scores, select": stages,
    # A stream that broke off is in its checkpoint as one that ended early; the rest comes in other batches.
    "batches, resumed": lambda: with_checkpoint(lambda path: [stream(700, stop=20_000, checkpoint=path), stream(999, checkpoint=path)]),
    "array, checkpoint, twice": lambda: with_checkpoint(lambda path: [long(np.asarray, alpha=0.3, checkpoint=path) for _ in range(2)]),
    "sliced array-like, checkpoint, twice": lambda: with_checkpoint(lambda path: [long(OnlySlices, checkpoint=path) for _ in range(2)]),
    "init: MLP, screened": lambda: initialized(mlp, normal(20_000, 256, 1, 10), method="screened", max_samples=20_000, pool=100),
    "init: CNN with BatchNorm": lambda: initialized(cnn, digits()),
    "init: TransformerEncoderLayer, fisher": lambda: initialized(transformer, digits(), criterion="fisher"),
}


def shared(group: Any, shard: str, **rules: Any) -> nc_fast.Campaign:
    """A campaign of which this rank has a part, rank 0 a third."""
    W, X, y = normal()
    samples, candidates = (slice(0, n // 3) if group.rank() == 0 else slice(n // 3, n) for n in (len(X), W.shape[1]))
    given = (W, X[samples], y[samples]) if shard == "samples" else (W[:, candidates], X, y)
    return nc_fast.campaign(*given, 30, process_group=group, shard=shard, **rules)


ON_RANKS: dict[str, Callable[[Any], Any]] = {
    "2 ranks, samples": lambda group: shared(group, "samples"),
    "2 ranks, samples, by_class=False, a criterion": lambda group: shared(group, "samples", by_class=False, criterion=separation),
    "2 ranks, candidates": lambda group: shared(group, "candidates"),
    "2 ranks, candidates, by_class=False": lambda group: shared(group, "candidates", by_class=False, alpha=0.9),
    "2 ranks, batches": lambda group: stream(800, 25_000 * group.rank(), 25_000 + 15_000 * group.rank(), process_group=group),
}
INTERPRETED: dict[str, Callable[[], Any]] = {
    "gpu, interpreted": lambda: nc_fast.campaign(*normal(*TINY), 9, backend="gpu", activation="gelu"),
    "gpu, interpreted, tensors": lambda: nc_fast.campaign(*tensors(normal(*TINY)), 14, backend="gpu", by_class=False, precision="ieee"),
}


def of_rank(rank: int, store: str) -> dict[str, str]:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    found = {name: digest(run(torch.distributed.group.WORLD)) for name, run in ON_RANKS.items()}
    torch.distributed.destroy_process_group()
    return found


def interpreted() -> dict[str, str]:
    os.environ.update(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")  # read when Triton is imported, which nothing has done here
    return {name: digest(run()) for name, run in INTERPRETED.items()}


def all_hashes() -> dict[str, str]:
    found = {name: digest(run()) for name, run in IN_THIS_PROCESS.items()}
    with ProcessPoolExecutor(RANKS, multiprocessing.get_context("spawn")) as processes, tempfile.TemporaryDirectory() as folder:
        ranks = list(processes.map(of_rank, range(RANKS), [f"{folder}/store"] * RANKS))
        found |= {name: digest([hashes[name] for hashes in ranks]) for name in ON_RANKS}
        if find_spec("triton"):
            return found | processes.submit(interpreted).result()
    print(f"left out, Triton is not installed: {'; '.join(INTERPRETED)}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    todo = parser.add_mutually_exclusive_group(required=True)
    todo.add_argument("--write", type=Path, metavar="FILE.json", help="write name -> hash there")
    todo.add_argument("--against", type=Path, metavar="FILE.json", help="compare with the hashes there")
    asked = parser.parse_args()
    versions = ", ".join(f"{module.__name__} {module.__version__}" for module in (nc_fast, np, torch))
    print(f"{Path(nc_fast.__file__).parent}: {versions}, {os.cpu_count()} cores", flush=True)
    expected = None if asked.against is None else json.loads(asked.against.read_text())
    found = all_hashes()
    if expected is None:
        asked.write.write_text(json.dumps(found, indent=1) + "\n")
        print(f"{len(found)} campaigns written to {asked.write}")
        return 0
    differ = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    for name in differ:
        print(f"{name}: {'bits differ' if name in expected and name in found else 'on one side only'}")
    print(f"{len(found)} campaigns, " + (f"{len(differ)} differ" if differ else "all bits equal"))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
