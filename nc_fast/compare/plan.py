"""What to compare: the arguments of one comparison, checked, and the runs they ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nc_fast._version import __version__
from nc_fast.compare.initializations import HE, parse, suits
from nc_fast.compare.networks import NETWORKS, TrainingData
from nc_fast.inputs import checks

SGD, MOMENTUM, ADAMW = "sgd", "momentum", "adamw"
OPTIMIZERS = (SGD, MOMENTUM, ADAMW)


@dataclass(frozen=True)
class Task:
    """One run: a network, an initialization, a seed, a learning rate."""

    network: str
    initialization: str
    seed: int
    lr: float


@dataclass(frozen=True)
class Plan:
    """Everything that decides a comparison's results.

    Attributes
    ----------
    networks : tuple of str, names in NETWORKS
    initializations : tuple of str, see :func:`nc_fast.compare.initializations.parse`; "he" must be among them
    seeds : tuple of int
    epochs, batch : int >= 1
    optimizer : str, in OPTIMIZERS
    lr : tuple of float > 0; with several, validation samples are held out, by which every initialization's best is found
    target : tuple of float, the test accuracies in percent that time is taken to
    eval_every : int >= 1, steps between evaluations in the first two epochs
    train_samples : int >= 1, drawn by the seed, or None for all
    device : str
    """

    networks: tuple[str, ...]
    initializations: tuple[str, ...]
    seeds: tuple[int, ...]
    epochs: int = 10
    optimizer: str = SGD
    lr: tuple[float, ...] = (0.1,)
    batch: int = 100
    target: tuple[float, ...] = (92.0,)
    eval_every: int = 50
    train_samples: int | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Raise ValueError for what a run would only refuse after others have been trained."""
        for network in self.networks:
            checks.choice("--networks", network, NETWORKS)
        for initialization in self.initializations:
            parse(initialization)
        if HE not in self.initializations:
            raise ValueError(
                f"--init: expected {HE!r} among the initializations, everything is compared with it; got {', '.join(self.initializations)}"
            )
        checks.choice("--optimizer", self.optimizer, OPTIMIZERS)
        for lr in self.lr:
            if not 0 < lr < math.inf:
                raise ValueError(f"--lr: expected numbers > 0, got {lr}")
        for target in self.target:
            if not 0 < target <= 100:
                raise ValueError(f"--target: expected percentages in (0, 100], got {target:g}")
        several = {"networks": self.networks, "init": self.initializations, "seeds": self.seeds, "lr": self.lr, "target": self.target}
        for name, values in several.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"--{name}: expected one or more different values, got {', '.join(map(str, values)) or 'none'}")
        for name in ("epochs", "batch", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(self, name)}")
        check_device(self.device)

    def check_samples(self, data: TrainingData) -> None:
        """Raise ValueError when there are fewer training samples than asked for."""
        if self.train_samples is not None and not data.n_classes <= self.train_samples <= len(data.X):
            expected = f"{data.n_classes} (the classes) to {len(data.X)} (the training samples)"
            raise ValueError(f"--train-samples: expected {expected}, got {self.train_samples}")

    def tasks(self) -> Iterator[Task]:
        """Yield the runs, a seed at a time, so that what is finished can be compared."""
        for seed in self.seeds:
            for network in self.networks:
                for lr in self.lr:
                    for initialization in self.suiting(network):
                        yield Task(network, initialization, seed, lr)

    def suiting(self, network: str) -> Iterator[str]:
        """Yield the initializations that exist for a network."""
        return (spec for spec in self.initializations if suits(spec, network))

    def left_out(self) -> Iterator[str]:
        """Yield a sentence for every pair that is not run."""
        for network in self.networks:
            for spec in self.initializations:
                if not suits(spec, network):
                    yield f"{spec} is left out on {network}: it does not exist for such a network"

    def told_lr(self, lr: float) -> float | None:
        """Return the learning rate as initializations are told it: None for an optimizer that adapts its steps."""
        return None if self.optimizer == ADAMW else lr

    def epoch_steps(self, n_samples: int) -> int:
        """Return how many batches an epoch has; an incomplete one counts only where there is no other."""
        return max(1, min(n_samples, self.train_samples or n_samples) // self.batch)

    def fingerprint(self, data: TrainingData) -> dict[str, Any]:
        """Return what two invocations must have in common for their runs to be of one comparison; plain JSON."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        samples = f"{data.name}, {tuple(data.X.shape)}, {tuple(data.X_test.shape)}, {float(data.X.double().sum()):.6g}"
        return {**plain, "data": samples, "nc_fast": __version__, "torch": torch.__version__}


def check_device(name: str) -> None:
    """Raise ValueError when torch cannot compute there."""
    try:
        torch.zeros(1, device=name).item()  # read back: the meta device makes tensors, but they hold nothing
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: expected a device that torch can use, got {name!r}: {str(error).splitlines()[0]}") from None
