"""The command line under torchrun: all ranks share the work, rank 0 speaks and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


def rank() -> int:
    """Return the rank torchrun gave this process; 0 where it was started by something else."""
    return int(os.environ["RANK"]) if launched() else 0


def launched() -> bool:
    """Whether torchrun has started this process beside others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def process_group() -> Iterator[Any]:
    """Yield a gloo group of torchrun's processes, each on a GPU of its own where there are some; None outside torchrun."""
    if not launched():
        yield None
        return
    import torch
    import torch.distributed as dist

    if torch.__version__ < "2.9":  # 2.4 hung now and then: it ends a group with the GIL held, waiting for a thread that wants it
        error = ValueError(f"torch: expected 2.9 or later under torchrun, got {torch.__version__}")
        error.on_every_rank = True  # type: ignore[attr-defined]
        raise error
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    dist.init_process_group("gloo")
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()


def agreed(group: Any, work: Callable[[], Result]) -> Result:
    """Return the work's result; where it fails on one rank, all raise its error."""
    if group is None:
        return work()
    from nc_fast.distributed import Ranks

    return Ranks(group).agree(work)


def share(group: Any, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank's rows of X and y."""
    X, y = arrays["X"], arrays["y"]
    if group is None or X.ndim == 0 or len(y) != len(X):  # what does not fit is said by whoever checks it
        return X, y
    first, stop = (len(X) * (group.rank() + one) // group.size() for one in (0, 1))
    return X[first:stop], y[first:stop]


def speaks(error: BaseException) -> bool:
    """Whether this process is to print an error: rank 0, or the only rank that has it."""
    return rank() == 0 or not getattr(error, "on_every_rank", False)
