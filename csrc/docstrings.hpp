// What help() says about the extension.
#pragma once

namespace nc_fast {

constexpr const char* kModuleDoc =
    "Null-space projection and greedy selection in C++; see nc_fast.backends.cpu.select.";

constexpr const char* kProjectorDoc = R"(Projector onto the orthogonal complement of the vectors added so far.

    P = I - sum_i q_i q_i^T,    q_i orthonormal

P itself is never formed: adding a vector is the rank-one update ``P <- P - q q^T``, held as one more row of ``basis``.
All arithmetic is in float64. May be shared by threads.

Parameters
----------
dim : int, >= 1
    D, the length of the vectors.

Raises
------
ValueError
    When ``dim`` is below 1.

Notes
-----
Vectors are orthogonalised twice ("twice is enough"). Residual norms are continued by Pythagoras and computed afresh where
that would cancel digits. A residual of at most 1e-6 of its vector's length is rounding noise and counts as 0.
Source: Mao et al., CIKM 2021 (arXiv 2108.06530), the selection in the null space of the picked weights.

Examples
--------
>>> import numpy as np
>>> from nc_fast import NullSpaceProjector
>>> projector = NullSpaceProjector(2)
>>> projector.add(np.array([0.0, 2.0]))
2.0
>>> projector.residual_norms(np.array([[3.0, 0.0, 1.0], [4.0, 5.0, 0.0]])).round(12).tolist()
[3.0, 0.0, 1.0]
)";

constexpr const char* kAddDoc = R"(Extend the span by a vector.

Parameters
----------
vector : (D,) float32 or float64, finite

Returns
-------
float
    ``||P vector||`` from before the call; 0.0 when the vector lies in the span (ratio <= 1e-6), which then stays as it is.

Raises
------
TypeError
    When ``vector`` is no NumPy array of float32 or float64.
ValueError
    When its shape is wrong, or it holds NaN or infinity.
)";

constexpr const char* kResidualNormsDoc = R"(Return ``||P w||`` for every column w of W.

Parameters
----------
W : (D, M) float32 or float64, finite
    Any memory layout; columns are vectors.

Returns
-------
(M,) float64
    0.0 where the ratio is at most 1e-6.

Raises
------
TypeError
    When W is no NumPy array of float32 or float64.
ValueError
    When its shape is wrong, or it holds NaN or infinity.
)";

constexpr const char* kRatiosDoc =
    R"(Return ``||P w|| / ||w||`` for every column w of W; 0.0 where it is at most 1e-6, and for a zero column.

Parameters, errors and layout are those of ``residual_norms``.

Returns
-------
(M,) float64 in [0, 1]
)";

constexpr const char* kGreedySelectDoc =
    R"(Pick ``quota[g]`` columns of every group g, greedily, in the null space of the group's picks.

    gain = score * ratio  (score >= 0),   score / ratio  (score < 0),   ratio = ||P w|| / ||w||

Parameters
----------
W : (D, M) float32 or float64, finite
    Any memory layout; columns are candidates.
score : (M,) float64, finite
group : (M,) int64 in [-1, G)
    Group of each candidate; -1: not eligible.
quota : (G,) int64
    Picks per group, at most its members.
given : (n,) int64 or None
    Distinct columns: the first picks of their groups, in their order, at most the groups' quotas.
threads : int, >= 1
    The result has the same bits for every number.
lazy : bool
    False projects every candidate at every pick: slower, the same bits.
simd : "auto" or a name that ``simd_level`` knows
    The same bits at every level.
report : callable(done, total) or None
    Called from this thread, at most every 100 ms, and once at the end.

Returns
-------
indices : (sum(quota),) int64
    Pools in order, within a group in order of picking.
gains : (sum(quota),) float64
    Gain of each pick when it was picked.
restarts : int
    How often a group's rank was exhausted and its span emptied.

Raises
------
TypeError
    When an array is of another kind; nothing is converted.
ValueError
    When a shape or a value is wrong; the message names the argument.
KeyboardInterrupt
    Within a tenth of a second of Ctrl-C.

Notes
-----
Source: Mao et al., CIKM 2021 (arXiv 2108.06530); lazy evaluation: Minoux (1978).

Examples
--------
>>> import numpy as np
>>> from nc_fast._projector import greedy_select
>>> W = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])  # the first two are parallel
>>> greedy_select(W, np.array([3.0, 2.0, 1.0]), np.zeros(3, np.int64), np.array([2]))
(array([0, 2]), array([3., 1.]), 0)
)";

}  // namespace nc_fast
