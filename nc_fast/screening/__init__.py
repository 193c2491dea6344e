"""Screened campaigns: cheap surrogate moments for the whole pool, exact ones for the few candidates that can be picked.

Part of the moments stage: it decides which candidates get exact moments. The selection runs on exact scores, by the backend.
"""

from __future__ import annotations

from dataclasses import replace

from nc_fast.backends.registry import Backend
from nc_fast.inputs.arrays import like
from nc_fast.inputs.sources import is_sliced
from nc_fast.runtime.progress import Report
from nc_fast.runtime.threads import single_threaded_blas
from nc_fast.screening.problem import Problem, Rules, problem
from nc_fast.screening.screen import screen
from nc_fast.stages.moments import Batch, MomentsStage
from nc_fast.types import Array, Certificate, Scores

__all__ = ["Problem", "Rules", "problem", "screen", "screened"]


def screened(
    stage: MomentsStage, batch: Batch, W: Array, backend: Backend, rules: Rules, report: Report | None, *, resumable: bool
) -> tuple[Scores | None, Certificate]:
    """Return scores of which only those fit to be picked are live, with the picks of each group, and the certificate.

    Without scores (None), exact moments of the whole pool are to be taken, and the certificate says why.
    """
    found: tuple[Scores, Certificate] | str
    if resumable or is_sliced(batch.X):
        found = "screening reads the samples more than once, which a checkpoint or X in slices does not allow"
    else:
        # Its products are small: BLAS threads that wait for each other cost more than they give.
        found = single_threaded_blas(lambda: screen(problem(stage, batch, W, backend, rules, report)))
    if isinstance(found, str):
        return None, Certificate.all_exact(W.shape[1], found)
    scores, certificate = found
    return replace(scores, **{name: like(W, getattr(scores, name)) for name in ("score", "group", "live")}), certificate
