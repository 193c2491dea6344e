"""Small synthetic data for the models of zoo_models.py, (X, y) as campaign_ takes it: what the classes look like can be learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SAMPLES, CLASSES = 48, 4
COARSE = 4  # patterns have so many cells a side: poolings and strides leave something of them
NOISE = 0.5  # in sentences the share of words of no class
IMAGE_NOISE = 2.0  # every pixel's, beside patterns of standard deviation 1
VOCABULARY, LENGTH = 64, 12
PAD, END, FIRST_WORD = 0, 2, 4  # token ids; smaller ones than the first word's are special
IGNORED = -100  # ignore_index of torch's losses
WAVE_LENGTH = 2000

Data = tuple[Any, Tensor]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def first(X: Any, n: int = 3) -> Any:
    """Return the first samples."""
    return {name: value[:n] for name, value in X.items()} if isinstance(X, dict) else X[:n]


def labels() -> Tensor:
    return torch.arange(SAMPLES) % CLASSES


def images(side: int) -> Data:
    """Return a coarse pattern for each class, and noise: (N, 3, side, side), and (N,) labels."""
    generator = seeded()
    patterns = functional.interpolate(torch.randn(CLASSES, 3, COARSE, COARSE, generator=generator), side)
    noise = IMAGE_NOISE * torch.randn(SAMPLES, 3, side, side, generator=generator)
    return (patterns[labels()] + noise) / (1 + IMAGE_NOISE**2) ** 0.5, labels()


def pixels(side: int) -> Data:
    """Return pictures of coarse patches in their classes' colours: (N, 3, side, side), and (N, side, side) labels."""
    generator = seeded()
    patches = torch.randint(CLASSES, (SAMPLES, 1, COARSE, COARSE), generator=generator)
    y = functional.interpolate(patches.float(), side)[:, 0].long()
    colours = torch.randn(CLASSES, 3, generator=generator)
    return colours[y].movedim(-1, 1) + NOISE * torch.randn(SAMPLES, 3, side, side, generator=generator), y


def videos(side: int, frames: int) -> Data:
    """Return (N, 3, frames, side, side): every frame is an image of its class under noise of its own."""
    X, y = images(side)
    return X[:, :, None] + NOISE * torch.randn(SAMPLES, 3, frames, side, side, generator=seeded()), y


def sentences() -> Data:
    """Return token ids, half of them of their class's own words, the right padded; and (N,) labels."""
    generator = seeded()
    y = labels()
    own = (VOCABULARY - FIRST_WORD) // CLASSES
    words = torch.randint(FIRST_WORD, VOCABULARY, (SAMPLES, LENGTH), generator=generator)
    classed = FIRST_WORD + own * y[:, None] + torch.randint(own, (SAMPLES, LENGTH), generator=generator)
    ids = torch.where(torch.rand(SAMPLES, LENGTH, generator=generator) < NOISE, words, classed)
    last = torch.randint(LENGTH // 2, LENGTH, (SAMPLES, 1), generator=generator)
    place = torch.arange(LENGTH)
    ids = torch.where(place < last, ids, torch.where(place == last, END, PAD))
    return {"input_ids": ids, "attention_mask": (place <= last).long()}, y


def tagged_sentences() -> Data:
    """Return the same sentences with a label per word, (N, LENGTH); special tokens and padding are labelled -100."""
    X, _ = sentences()
    ids = X["input_ids"]
    return X, torch.where(ids >= FIRST_WORD, ids % CLASSES, IGNORED)


def pictures(side: int) -> Data:
    """Return images under the name that Hugging Face's vision models give them."""
    X, y = images(side)
    return {"pixel_values": X}, y


def coloured_pictures(side: int) -> Data:
    """Return the same for labels per pixel."""
    X, y = pixels(side)
    return {"pixel_values": X}, y


def sounds() -> Data:
    """Return a sine wave of the class's frequency under noise: (N, WAVE_LENGTH), and (N,) labels."""
    y = labels()
    phase = torch.arange(WAVE_LENGTH) * (0.02 * 2.0 ** y[:, None])
    return {"input_values": phase.sin() + NOISE * torch.randn(SAMPLES, WAVE_LENGTH, generator=seeded())}, y
