"""The ranks of a process group: collectives with their bytes counted, failures in plain words, errors agreed on.

Everything goes through ``all_gather`` and ``all_to_all_single`` of torch.distributed, in the same order on every rank.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

STATUS_BYTES = 4096  # of what a rank says of itself at once: an error, or what has to be the same everywhere
MESSAGE_CHARACTERS = 400  # of six bytes each at most
Result = TypeVar("Result")


@dataclass
class Traffic:
    """What a rank received from the others.

    Attributes
    ----------
    received : "agreement", "labels", "moments", "samples", "scores", "selection" -> payload bytes; the transport's headers are not in it.
    calls : collective calls, each of which all ranks wait for.
    headers, records : with ``shard="candidates"``, how many pools' bounds and how many candidates each rank sent.
    """

    received: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    headers: int = 0
    records: int = 0


_watched: ContextVar[tuple[Traffic, ...]] = ContextVar("watched", default=())


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count what this rank receives from the others inside a ``with`` block.

    Yields
    ------
    Traffic
        Counts up while the block runs; may be read inside it and after it.

    Examples
    --------
    >>> from nc_fast.distributed import count_traffic
    >>> with count_traffic() as traffic:
    ...     pass  # nc_fast.campaign(..., process_group=group)
    >>> traffic.calls, sum(traffic.received.values())
    (0, 0)
    """
    traffic = Traffic()
    token = _watched.set((*_watched.get(), traffic))
    try:
        yield traffic
    finally:
        _watched.reset(token)


def count_selection(headers: int = 0, records: int = 0) -> None:
    """Add to what is counted of a selection over ranks."""
    for traffic in _watched.get():
        traffic.headers += headers
        traffic.records += records


class Ranks:
    """The place of this process in a group.

    Attributes
    ----------
    rank, size : number of this rank in the group, and of ranks.
    device : where tensors have to be to be sent.
    """

    def __init__(self, group: Any) -> None:
        if not isinstance(group, dist.ProcessGroup):
            got = "a process that is not in the group" if group is dist.GroupMember.NON_GROUP_MEMBER else type(group).__name__
            raise TypeError(f"process_group: expected a torch.distributed.ProcessGroup this process is in, got {got}")
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        on_gpu = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def all_gather(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """Return every rank's tensor, (P, *shape), in rank order."""
        tensor = tensor.to(self.device).contiguous()
        gathered = torch.empty((self.size, *tensor.shape), dtype=tensor.dtype, device=self.device)
        self._call(what, lambda: dist.all_gather(list(gathered.unbind(0)), tensor, group=self._group))
        _count(what, (self.size - 1) * tensor.numel() * tensor.element_size())
        return gathered

    def all_to_all(self, tensor: torch.Tensor, what: str) -> torch.Tensor:
        """Send ``tensor[r]`` to rank r; return what the ranks sent here, in rank order, in the same shape."""
        tensor = tensor.to(self.device).contiguous()
        received = torch.empty_like(tensor)
        self._call(what, lambda: dist.all_to_all_single(received, tensor, group=self._group))
        _count(what, (self.size - 1) * tensor[0].numel() * tensor.element_size())
        return received

    def all_gather_numpy(self, array: np.ndarray, what: str) -> np.ndarray:
        """Return every rank's array of one shape and any dtype, records too, (P, *shape)."""
        flat = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8).copy())
        gathered: np.ndarray = self.all_gather(flat, what).cpu().numpy()
        return gathered.view(array.dtype).reshape(self.size, *array.shape)

    def agree(self, work: Callable[[], Result], same: Callable[[Result], Mapping[str, Any]] = lambda _: {}) -> Result:
        """Run the work on every rank and return its result, or raise the same error everywhere if it failed anywhere.

        ``same`` says what of the result has to be equal on all ranks: name of an argument -> what it is.
        """
        failed: Exception | None = None
        try:
            result = work()
            status: dict[str, Any] = {"facts": {name: str(value)[:60] for name, value in same(result).items()}}
        except Exception as error:
            failed = error
            status = {"kind": type(error).__name__, "message": " ".join(str(error).split())[:MESSAGE_CHARACTERS]}
        data = json.dumps(status).encode()
        assert len(data) <= STATUS_BYTES, "a status outgrew STATUS_BYTES"
        gathered = self.all_gather_numpy(np.frombuffer(data.ljust(STATUS_BYTES), np.uint8), "agreement")
        statuses = [json.loads(row.tobytes()) for row in gathered]
        for rank, status_there in enumerate(statuses):
            if "message" in status_there:
                raise _on_every_rank(_error(rank, **status_there)) from failed
        first = statuses[0]["facts"]
        for rank, status_there in enumerate(statuses):
            theirs = status_there["facts"]
            for name in dict.fromkeys((*first, *theirs)):
                if theirs.get(name) != first.get(name):
                    expected = f"expected the same on every rank, {first.get(name)} as on rank 0"
                    raise _on_every_rank(ValueError(f"{name}: {expected}, got {theirs.get(name)} on rank {rank}"))
        return result

    def _call(self, what: str, collective: Callable[[], Any]) -> None:
        try:
            collective()
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise RuntimeError(
                f"process_group: expected all {self.size} ranks to exchange {what}, but one has died, left, or is in another call: {reason}"
            ) from error


def _error(rank: int, kind: str, message: str) -> Exception:
    known = {"TypeError": TypeError, "ValueError": ValueError}.get(kind)
    return known(f"rank {rank}: {message}") if known else RuntimeError(f"rank {rank}: {kind}: {message}")


def _on_every_rank(error: Exception) -> Exception:
    """Mark an error that all ranks raise alike, so that it can be printed once."""
    error.on_every_rank = True  # type: ignore[attr-defined]
    return error


def _count(what: str, n_bytes: int) -> None:
    for traffic in _watched.get():
        traffic.received[what] += n_bytes
        traffic.calls += 1
