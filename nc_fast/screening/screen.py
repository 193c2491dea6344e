"""The screening loop: surrogate for all, exact moments for an audit and a shortlist, until nobody left out can matter."""

from __future__ import annotations

from itertools import count

import numpy as np

from nc_fast.screening import scoring
from nc_fast.screening.assessment import assess
from nc_fast.screening.evidence import Evidence
from nc_fast.screening.problem import SEED, ScreeningProblem
from nc_fast.types import Certificate, Scores

PAYS = 0.5  # exact columns or their worth, of the pool: beyond, exact moments of all are about as cheap
AUDIT_BASE = 512
AUDIT_PER_PICK = 0.75
MAX_ROUNDS = 12
FEWEST_AUDITED = 64  # that are a random sample of the rest


def screen(problem: ScreeningProblem) -> tuple[Scores, Certificate] | str:
    """Screen the pool; a string says why it was not done and exact moments of the whole pool are to be taken instead."""
    M, rules, rng = problem.shape[1], problem.rules, np.random.default_rng(SEED)
    audit = min(round(AUDIT_BASE + AUDIT_PER_PICK * rules.k), M)
    if problem.overhead + audit + 1.5 * rules.k > PAYS * M:
        return f"a pool of {M} is too small for screening to pay"
    evidence = Evidence.none_yet(problem).with_audit(audit, rng)
    if rules.criterion is not None and not scoring.pool_independent(rules.criterion, evidence.parts[0][1]):
        return "the criterion scores a candidate by the rest of the pool"
    if affordable(evidence, problem.second_cost):
        evidence = evidence.with_better_guess()
    assessment = assess(evidence, predicted=True)
    for rounds in count(1):
        more, urgency = assessment.wanted()
        if not len(more):
            if assessment.settled:
                break
            more = evidence.unknown  # too few live candidates, or a group's quota that nobody seems to fill
        if rounds > MAX_ROUNDS or not affordable(evidence, len(more)):
            assessment = assess(evidence.with_exact(evidence.unknown))
            break
        del assessment  # before the next: its class means take as much memory as the surrogate's
        evidence = evidence.with_exact(more, urgency)
        evidence = evidence.with_audit(max(FEWEST_AUDITED - int(evidence.sample.sum()), 0), rng)
        assessment = assess(evidence)
        if assessment.settled and not len(assessment.wanted()[0]):
            extra = assessment.audit_wanted()
            if extra and affordable(evidence, extra):
                del assessment
                evidence = evidence.with_audit(extra, rng)
                assessment = assess(evidence)
    return assessment.result(rounds)


def affordable(evidence: Evidence, columns: float) -> bool:
    """Whether exact moments of so many columns more, or their worth, still leave the whole cheaper than exact moments of all."""
    return evidence.problem.overhead + int(evidence.known.sum()) + columns <= PAYS * len(evidence.known)
