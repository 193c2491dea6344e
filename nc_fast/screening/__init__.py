"""Screened campaigns: cheap surrogate moments for the whole pool, exact ones for the few candidates that can be picked.

Part of the moments stage: it decides which candidates get exact moments. The selection runs on exact scores, by the backend.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nc_fast.inputs.arrays import like
from nc_fast.inputs.sources import Block, Source
from nc_fast.runtime.progress import Report
from nc_fast.runtime.threads import single_threaded_blas
from nc_fast.screening.problem import ScreeningProblem, problem
from nc_fast.screening.screen import screen
from nc_fast.stages.campaign import SelectionRules
from nc_fast.stages.moments import CandidatePool
from nc_fast.types import Certificate, Scores

__all__ = ["ScreeningProblem", "problem", "screen", "screened"]


def screened(
    pool: CandidatePool, source: Source, rules: SelectionRules, report: Report | None, checkpoint: Path | None
) -> tuple[Scores | None, Certificate]:
    """Return scores of which only those fit to be picked are live, with the picks of each group, and the certificate.

    Without scores (None), exact moments of the whole pool are to be taken, and the certificate says why.
    """
    found: tuple[Scores, Certificate] | str
    if checkpoint or not isinstance(source, Block):
        found = "screening reads the samples more than once, which a checkpoint or X in slices does not allow"
    else:
        # Its products are small: BLAS threads that wait for each other cost more than they give.
        found = single_threaded_blas(screen)(problem(pool, source, rules, report))
    if isinstance(found, str):
        return None, Certificate.all_exact(pool.size, found)
    scores, certificate = found
    return replace(scores, **{name: like(pool.W, getattr(scores, name)) for name in ("score", "group", "live")}), certificate
