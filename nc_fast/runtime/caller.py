"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings


def warn_caller(message: str) -> None:
    """Warn at the innermost line outside of nc_fast, however many calls inside lie between."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "nc_fast":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
