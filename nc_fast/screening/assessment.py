"""What follows from the evidence: who would be picked, how sure that is, and what to look at next."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from nc_fast.screening.estimates import Estimates, estimate
from nc_fast.screening.evidence import Evidence
from nc_fast.screening.paths import Path, provisional_paths
from nc_fast.screening.risk import EXCLUSION_AIM, exclusion_risks, weights_risk
from nc_fast.screening.shares import Shares, share
from nc_fast.types import Certificate, Scores

EXCLUSION_RISK = 0.01  # most that is accepted: probability that a candidate left out would have been picked
QUOTA_RISK = 0.01  # aimed at: probability that the sizes of the groups share k otherwise
WEIGHTS_DOUBT = 0.2  # probability that the estimated weights of the score change the picks: beyond it a second audit is made,
WEIGHTS_AIM = 0.03  # as large as brings it down to this,
SECOND_AUDIT = 0.25  # but no larger than this part of the pool, and not at all where it would more than double the price
SURE_TO_CHANGE = 0.95
FEWEST_UNDECIDED = 64  # whose class is looked at at once; or a twentieth of the pool


@dataclass(frozen=True, eq=False)
class Assessment:
    """What follows from the evidence."""

    evidence: Evidence
    predicted: bool  # whether candidates that are not known took part in the selection
    estimates: Estimates
    shares: Shares
    paths: list[Path]  # of every group, what the selection picks
    risks: np.ndarray  # (M,), the probability that a candidate left out belongs in

    @property
    def settled(self) -> bool:
        """Whether all picks are there and known exactly."""
        return not self.shares.short and all(path.complete and self.evidence.known[path.picks].all() for path in self.paths)

    @property
    def exclusion_risk(self) -> float:
        """Probability that somebody left out would have been picked."""
        left = self.risks[~self.evidence.known]
        return abs(float(np.expm1(np.log1p(-np.minimum(left, 1 - 1e-12)).sum())))

    @cached_property
    def weights_risk(self) -> float:
        """Probability that the estimated weights of the score change who is picked."""
        return weights_risk(self.evidence, self.estimates, self.paths) if self.settled else 0.0

    def wanted(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the next columns to take exact moments of, the riskiest or those the quota hangs on, and the urgency (M,) they have."""
        unknown, urgency = self.evidence.unknown, self.risks
        order = unknown[np.argsort(-urgency[unknown], kind="stable")]
        left = urgency[order][::-1].cumsum()[::-1]
        aim = EXCLUSION_AIM if self.predicted else EXCLUSION_RISK / 2
        more = order[left > aim] if len(left) and (left[0] > EXCLUSION_RISK or not self.settled) else order[:0]
        if self.shares.risk > QUOTA_RISK and not len(more):
            more = order
            if self.estimates.classes:
                urgency = self.estimates.classes.chance_of_another()
                most = max(len(urgency) // 20, FEWEST_UNDECIDED)
                more = order[np.argsort(-urgency[order], kind="stable")[:most]]
        return np.sort(more), urgency

    def audit_wanted(self) -> int:
        """Return how many more candidates to audit so that the score's weights are known well enough; 0 where that is too dear."""
        evidence, risk = self.evidence, self.weights_risk
        if risk <= WEIGHTS_DOUBT:
            return 0
        M, audited = len(evidence.audit), int(evidence.audit.sum())
        # The chance that an error of standard deviation 1 / sqrt(audited) exceeds the narrowest gap.
        gap, aim = (NormalDist().inv_cdf(1 - min(risk, SURE_TO_CHANGE) / 2) for risk in (risk, WEIGHTS_AIM))
        wanted = audited * ((aim / gap) ** 2 - 1)
        extra = max(0, int(min(wanted, SECOND_AUDIT * M - audited)))
        return extra if extra <= evidence.problem.overhead + evidence.known.sum() else 0

    def result(self, rounds: int) -> tuple[Scores, Certificate]:
        """Return scores, live and exact for who is fit to be picked, and the certificate."""
        evidence, estimates, quota = self.evidence, self.estimates, self.shares.quota
        known, guess, tail = evidence.known, evidence.guess, estimates.tail
        exclusion, weights = self.exclusion_risk, self.weights_risk
        quantiles = {p: tail.quantile(1 - p) * float(np.median(estimates.scale)) for p in (0.9, 0.99, 0.999)} if tail else {}
        certificate = Certificate(
            pool=len(known),
            shortlist=int((known & ~evidence.audit).sum()),
            audit=int(evidence.audit.sum()),
            surrogate=guess.surrogate,
            error_quantiles=quantiles,
            class_error=float(np.mean(evidence.group[known] != guess.group[known])),
            exclusion_risk=exclusion,
            weights_risk=weights,
            quota_risk=self.shares.risk,
            probability=1 - (1 - exclusion) * (1 - weights) * (1 - self.shares.risk) if tail else 0.0,
            rounds=rounds,
            reason="" if tail else "the surrogate could not rule out enough candidates",
        )
        return Scores(estimates.score, estimates.group, known & estimates.live, guess.classes, quota if tail else None), certificate


def assess(evidence: Evidence, *, predicted: bool = False) -> Assessment:
    """Work out what follows from the evidence; ``predicted`` at first, when the best candidates are not known yet."""
    estimates = estimate(evidence)
    shares = share(evidence, estimates)
    paths = provisional_paths(evidence, estimates, shares.quota, predicted=predicted)
    return Assessment(evidence, predicted, estimates, shares, paths, exclusion_risks(evidence, estimates, paths))
