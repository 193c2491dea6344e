"""The screening loop: surrogate for all, exact moments for an audit and a shortlist, until nobody left out can matter."""

from __future__ import annotations

import numpy as np

from nc_fast.screening import scoring
from nc_fast.screening.pool import Pool
from nc_fast.screening.problem import Problem
from nc_fast.screening.view import View
from nc_fast.types import Certificate, Scores

PAYS = 0.5  # exact columns or their worth, of the pool: beyond, exact moments of all are about as cheap
AUDIT_BASE = 512
AUDIT_PER_PICK = 0.75
MAX_ROUNDS = 12
FEWEST_AUDITED = 64  # that stand for the rest


def audit_size(k: int, M: int) -> int:
    """Return how many candidates are drawn at random for exact moments at first."""
    return min(round(AUDIT_BASE + AUDIT_PER_PICK * k), M)


def pays(problem: Problem) -> bool:
    """Predict whether screening costs clearly less than exact moments of the whole pool."""
    M = problem.shape[1]
    return problem.overhead + audit_size(problem.rules.k, M) + 1.5 * problem.rules.k <= PAYS * M


def screen(problem: Problem) -> tuple[Scores, Certificate] | str:
    """Screen the pool; a string says why it was not done and exact moments of the whole pool are to be taken instead."""
    M = problem.shape[1]
    if not pays(problem):
        return f"a pool of {M} is too small for screening to pay"
    pool = Pool(problem)

    def affordable(columns: float) -> bool:
        return problem.overhead + pool.n_known + columns <= PAYS * M

    pool.audit_more(audit_size(problem.rules.k, M))
    if problem.rules.criterion is not None and not scoring.pool_independent(problem.rules.criterion, pool.exact_moments()):
        return "the criterion scores a candidate by the rest of the pool"
    if problem.second is not None and affordable(problem.second_cost):
        pool.use_better_surrogate()
    view = View(pool, predicted=True)
    rounds = 0
    while True:
        more = view.wanted()
        rounds += 1
        if not len(more):
            if view.settled:
                break
            more = np.flatnonzero(~pool.known)  # too few live candidates, or a group's quota that nobody seems to fill
        if rounds > MAX_ROUNDS or not affordable(len(more)):
            pool.learn(np.flatnonzero(~pool.known))
            view = View(pool, predicted=False)
            break
        pool.learn(more, view.key)
        pool.audit_more(max(FEWEST_AUDITED - int((pool.audit & pool.rest).sum()), 0))
        view = View(pool, predicted=False)
        if view.settled and not len(view.wanted()) and (extra := view.audit_wanted()) and affordable(extra):
            pool.audit_more(extra)
            view = View(pool, predicted=False)
    return view.result(rounds)
