# mypy: ignore-errors
"""The greedy loop over one window of candidates per group, by Cholesky factorisation with a pivot chosen at every step."""

import triton
import triton.language as tl

NO_INDEX = tl.constexpr(9223372036854775807)


@triton.jit
def _gain(
    score,  # (B,) float64
    ratio,  # (B,) float64, >= 0
):
    """Return score * ratio where score >= 0, else score / ratio (-inf at ratio 0)."""
    divided = tl.where(ratio > 0, score / tl.where(ratio > 0, ratio, 1.0), float("-inf"))
    return tl.where(score >= 0, score * ratio, divided)


@triton.jit(do_not_specialize=["T"])
def window_greedy(
    Gram,  # (P, B, B) float64, inner products of the window's residuals (unit vectors less their part in the span)
    Squared,  # (P, B) float64, squared ratio of each, fresh; exactly 0 where the ratio counts as 0
    Score,  # (P, B) float64
    Index,  # (P, B) int64, candidate in each place of the window
    Valid,  # (P, B) int32, 0 for places past the group's last candidate
    Bound,  # (P,) float64, the best gain outside the window: no later gain there is higher
    BoundIndex,  # (P,) int64, lowest candidate outside whose gain ties with the bound
    Stale,  # (P,) float64, the best of those gains outside that are bounds only; NaN where every gain of the group is known
    Need,  # (P,) int32, picks owed
    Given,  # (P,) int32, how many places, from the first on, are to be picked before anything else, in order
    Factor,  # (P, T, B) float64 scratch, rows of the Cholesky factor
    Growth,  # (P, T) float64 scratch, by how much rounding has grown in each row, signed
    Place,  # (P, T) int32 out, place of each pick in the window
    Gain,  # (P, T) float64 out, gain of each pick
    InSpan,  # (P, T) int32 out, whether the pick's ratio was above 0, so that it extends the span
    Count,  # (P,) int32 out, picks made: at least one where every gain is known
    Blocked,  # (P,) int32 out, whether more picks might have been made had every gain been known
    T,
    rank_squared: tl.constexpr,  # squared ratio up to which it counts as 0
    tie: tl.constexpr,  # relative distance of gains that tie
    trust: tl.constexpr,  # share of its first squared ratio above which an updated one is accurate
    largest_growth: tl.constexpr,  # of rounding, beyond which none is
    B: tl.constexpr,
    ROWS: tl.constexpr,  # factor rows read at a time
):
    """Pick while no candidate outside, and none whose ratio has become inaccurate, can be better or tie at a lower index.

    Ratios never grow, so a gain computed before bounds every later one. Where every gain is known, the first pick is always
    legal: the window starts with all that tie with the best, by index. Later ones use squared ratios that are updated by
    subtraction. One that has shrunk below ``trust`` of its fresh value carries too much of that value's rounding error. Until
    the next fresh computation it only counts as "at most ``trust`` times the fresh value". Given candidates are beyond dispute,
    but they too are picked only where their ratios are known and the rank is not exhausted.

    Picks that depend on each other ever more, each a little, lose digits too, though no ratio shrinks much at once. How many is
    estimated as LINPACK estimates a condition number: by solving with the factor, the right-hand side's signs chosen for growth.
    """
    # A launch would pass these numbers as float32, and a comparison rounds a constant to float32.
    noise = tl.full((), rank_squared, tl.float64)
    relative = tl.full((), tie, tl.float64)
    share = tl.full((), trust, tl.float64)
    group = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, B)
    lane = tl.arange(0, ROWS)
    fresh = tl.load(Squared + group * B + place)
    score = tl.load(Score + group * B + place)
    index = tl.load(Index + group * B + place)
    alive = tl.load(Valid + group * B + place) != 0
    bound = tl.load(Bound + group)
    bound_index = tl.load(BoundIndex + group)
    stale = tl.load(Stale + group)
    certain = stale != stale
    need = tl.load(Need + group)
    given = tl.load(Given + group)
    gram = Gram + group * B * B
    factor = Factor + group * T * B
    growth = Growth + group * T
    grown = tl.full((), 1.0, tl.float64)
    squared = fresh
    highest = _gain(score, tl.sqrt(share * fresh))
    picks = 0
    rank = 0
    legal = True
    blocked = False
    while (picks < need) & legal:
        known = squared >= share * fresh
        value = _gain(score, tl.where(squared > noise, tl.sqrt(squared), 0.0))
        usable = alive & known
        best = tl.max(tl.where(usable, value, float("-inf")), 0)
        floor = best - relative * tl.abs(best)
        chosen = tl.min(tl.where(usable & (value >= floor), index, NO_INDEX), 0)
        in_the_way = alive & (known == 0) & (highest >= floor) & ((highest > best) | (index < chosen))
        prescribed = picks < given
        if prescribed:
            chosen = tl.min(tl.where(usable & (place == picks), index, NO_INDEX), 0)
        from_outside = (bound >= floor) & ((bound > best) | (bound_index < chosen))
        undisputed = (tl.max(in_the_way.to(tl.int32), 0) == 0) & (from_outside == 0)
        undisputed = (undisputed | prescribed) & (grown <= largest_growth)
        # Nothing usable left outside the span: the rank may be exhausted. The launcher decides that, with explicit residuals.
        ranked = tl.max((usable & (squared > noise)).to(tl.int32), 0) != 0
        legal = (chosen != NO_INDEX) & (((picks == 0) & certain) | undisputed) & (((rank == 0) & certain) | ranked)
        blocked = (legal == 0) & (certain == 0) & ((stale >= floor) | (ranked == 0))
        if legal:
            own = index == chosen
            own = own & alive
            at = tl.max(tl.where(own, place, 0), 0)
            pivot = tl.sum(tl.where(own, squared, 0.0), 0)
            extends = pivot > noise
            tl.store(Place + group * T + picks, at)
            tl.store(Gain + group * T + picks, tl.sum(tl.where(own, value, 0.0), 0))
            tl.store(InSpan + group * T + picks, extends.to(tl.int32))
            alive = alive & (own == 0)
            picks += 1
            if extends:
                row = tl.load(gram + at.to(tl.int64) * B + place)
                along = tl.full((), 0.0, tl.float64)
                for first in range(0, rank, ROWS):
                    here = first + lane < rank
                    rows = factor + (first + lane).to(tl.int64) * B
                    left = tl.load(rows[:, None] + place[None, :], mask=here[:, None], other=0.0)
                    own_column = tl.load(rows + at, mask=here, other=0.0)
                    row -= tl.sum(left * own_column[:, None], 0)
                    along += tl.sum(own_column * tl.load(growth + first + lane, mask=here, other=0.0), 0)
                length = tl.sqrt(pivot)
                row = row / length
                own_growth = (tl.sqrt(tl.sum(tl.where(own, fresh, 0.0), 0)) + tl.abs(along)) / length
                tl.store(growth + rank, tl.where(along > 0, -own_growth, own_growth))
                grown = tl.maximum(grown, own_growth)
                squared = tl.maximum(squared - row * row, 0.0)
                tl.store(factor + rank.to(tl.int64) * B + place, row)
                tl.debug_barrier()  # the next step reads this row through other threads
                rank += 1
    tl.store(Count + group, picks)
    tl.store(Blocked + group, blocked.to(tl.int32))
